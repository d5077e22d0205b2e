"""Calendar expressions as systemd has them (`OnCalendar=`, systemd.time(7)), and when they come round next. Pure.

    [WEEKDAYS] [[YEAR-]MONTH-DAY] [HOUR:MINUTE[:SECOND]] [ZONE]        "Mon..Fri *-*-* 08:30 Europe/Berlin"
    [YEAR-]MONTH~DAY     counted from the end of the month             "*-02~01" is the last of February
    each number: *, 5, 1,15, 9..17, 0/15, 9..17/2; seconds with fractions
    minutely, hourly, daily, weekly, monthly, quarterly, semiannually, yearly; @SECONDS since 1970

An expression stands for a set of times by the clock on the wall, and that for a set of moments: a time that summer
time leaves out (02:30 in spring) is none, and one that comes twice (02:30 in autumn) is its first moment alone. So a
moment belongs to the set or does not, wherever a search for it begins.
"""

import calendar as months
import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, tzinfo

FIRST_YEAR, LAST_YEAR = 1970, 2199
"""The years an expression may name, as for systemd: what asks for the 30th of February ends somewhere."""

SECOND = 1_000_000
"""Microseconds: the finest that an expression can say."""

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_ANY_DAY = frozenset(range(7))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_DAILY = "*-*-* 00:00:00"
_YEARLY = "*-01-01 00:00:00"
_HALF_YEARLY = "*-01,07-01 00:00:00"
_SHORTHANDS = {
    "minutely": "*-*-* *:*:00",
    "hourly": "*-*-* *:00:00",
    "daily": _DAILY,
    "weekly": f"Mon {_DAILY}",
    "monthly": "*-*-01 00:00:00",
    "quarterly": "*-01,04,07,10-01 00:00:00",
    **dict.fromkeys(("biannually", "bi-annually", "semiannually", "semi-annually"), _HALF_YEARLY),
    **dict.fromkeys(("yearly", "annually", "anually"), _YEARLY),
}

_NUMBER = r"[0-9]{1,10}(?:\.(?!\.)[0-9]+)?"
_SPAN = re.compile(rf"({_NUMBER})(?:\.\.({_NUMBER}))?(?:/({_NUMBER}))?")
_DATE = re.compile(r"(?:([^-~]+)-)?([^-~]+)([-~])([^-~]+)")
_TIME = re.compile(r"([^:]+):([^:]+)(?::([^:]+))?")
_MOMENT = re.compile(r"@([0-9]{1,10})")


@dataclass(frozen=True)
class Span:
    """Numbers from `start` to `stop` (None: as far as they go) in steps (0: `start` alone)."""

    start: int
    stop: int | None = None
    step: int = 0

    def following(self, least: int) -> int | None:
        """The first number that is not below `least`."""
        if self.start >= least:
            return self.start
        if not self.step:
            return None
        number = self.start - (self.start - least) // self.step * self.step
        return None if self.stop is not None and number > self.stop else number

    def from_end(self, last: int) -> "Span":
        """The same days of a month counted from its end, as days of a month with `last` days."""
        start, stop = last + 1 - self.start, None if self.stop is None else last + 1 - self.stop
        return Span(start, None, self.step) if stop is None else Span(stop, start, self.step)


Spans = tuple[Span, ...]
"""Alternatives; none: any number will do."""


@dataclass(frozen=True)
class Unit:
    """What is counted: its name, and its numbers."""

    name: str
    first: int
    last: int
    scale: int = 1


_UNITS = (
    Unit("year", FIRST_YEAR, LAST_YEAR),
    Unit("month", 1, 12),
    Unit("day", 1, 31),
    Unit("hour", 0, 23),
    Unit("minute", 0, 59),
    Unit("second", 0, 60 * SECOND - 1, SECOND),
)
_YEAR, _MONTH, _DAY, _HOUR, _MINUTE, _SECOND = _UNITS
_DAYS_FROM_END = replace(_DAY, last=28)

Civil = tuple[int, ...]
"""A time by the clock on the wall: year, month, day, hour, minute, microseconds of the minute; or its beginning."""

_START: Civil = tuple(unit.first for unit in _UNITS)


@dataclass(frozen=True)
class Calendar:
    """One expression. `zone`: the name at its end ("" where it names none); `text`: what a person wrote."""

    text: str
    spans: tuple[Spans, ...]
    weekdays: frozenset[int] = _ANY_DAY
    from_end: bool = False
    zone: str = ""

    def next_after(self, moment: float, zone: tzinfo) -> float | None:
        """The first moment later than `moment` (seconds since 1970) in the time of `zone`; None where none comes."""
        floor = _clock_after(round(moment * SECOND), zone)
        while (civil := self._following(floor)) is not None:
            found = _moment(civil, zone)
            if found is not None:
                return found / SECOND
            floor = _gap_end(civil, zone)
        return None

    def latest(self, after: float, until: float, zone: tzinfo) -> float | None:
        """The last moment later than `after` and not later than `until`; None where there is none."""
        low, high = round(after * SECOND), round(until * SECOND)
        found = None
        while low < high:
            middle = (low + high) // 2
            later = self.next_after(middle / SECOND, zone)
            if later is None or later > until:
                high = middle
            else:
                found, low = later, round(later * SECOND)
        return found

    def _following(self, floor: Civil, begun: Civil = ()) -> Civil | None:
        """The first time that matches, begins as told, and is not before `floor`."""
        depth = len(begun)
        if depth == len(_UNITS):
            return begun
        number = self._number(begun, floor[depth] if begun == floor[:depth] else _UNITS[depth].first)
        while number is not None:
            found = self._following(floor, (*begun, number))
            if found is not None:
                return found
            number = self._number(begun, number + 1)
        return None

    def _number(self, begun: Civil, least: int) -> int | None:
        """The first number of the next unit that matches and is not below `least`."""
        unit, spans = _UNITS[len(begun)], self.spans[len(begun)]
        if unit is _DAY:
            return self._day(date(begun[0], begun[1], 1), least)
        found = _first(spans, least)
        return None if found is None or found > unit.last else found

    def _day(self, month: date, least: int) -> int | None:
        last = months.monthrange(month.year, month.month)[1]
        spans = self.spans[_UNITS.index(_DAY)]
        spans = tuple(span.from_end(last) for span in spans) if self.from_end else spans
        day = _first(spans, least)
        while day is not None and day <= last:
            if month.replace(day=day).weekday() in self.weekdays:
                return day
            day = _first(spans, day + 1)
        return None


def parse(text: str) -> Calendar:
    """The expression that a person wrote. ValueError says what is wrong with it."""
    words = text.split()
    zone = words.pop() if len(words) > 1 and words[-1][0].isalpha() else ""
    if len(words) == 1 and words[0].lower() in _SHORTHANDS:
        words = _SHORTHANDS[words[0].lower()].split()
    weekdays = _weekdays(words.pop(0)) if words and words[0][0].isalpha() else None
    if len(words) == 1 and _MOMENT.fullmatch(words[0]):
        found = replace(_at(int(words[0][1:])), text=text)
    else:
        found = _date_and_time(text, words, bare=weekdays is None)
    return replace(found, weekdays=weekdays or _ANY_DAY, zone=found.zone or ("UTC" if zone.upper() == "UTC" else zone))


def _date_and_time(text: str, words: list[str], *, bare: bool) -> Calendar:
    """What is left without weekdays and time zone: a date, a time, both; neither only where there are weekdays."""
    day = _DATE.fullmatch(words[0]) if words else None
    rest = words[1:] if day else words
    time = _TIME.fullmatch(rest[0]) if rest else None
    if len(rest) > bool(time) or (bare and not words):
        raise ValueError(f'"{" ".join(rest)}" is neither a date nor a time of day')
    year, month, sign, number = day.groups() if day else ("*", "*", "-", "*")
    hour, minute, second = time.groups() if time else ("0", "0", "0")
    days = _DAYS_FROM_END if sign == "~" else _DAY
    parts = ((year or "*", _YEAR), (month, _MONTH), (number, days), (hour, _HOUR), (minute, _MINUTE))
    spans = (*(_spans(part, unit) for part, unit in parts), _spans(second or "0", _SECOND))
    return Calendar(text, spans, from_end=sign == "~" and number != "*")


def _at(seconds: int) -> Calendar:
    """The one moment."""
    moment = _EPOCH + timedelta(seconds=seconds)
    return Calendar("", tuple((Span(number),) for number in _civil(moment)), zone="UTC")


def _weekdays(text: str) -> frozenset[int]:
    """Numbers of weekdays, Monday is 0."""
    days: set[int] = set()
    for part in text.removesuffix(",").split(","):
        first, dots, last = part.partition("..") if ".." in part else part.partition("-")
        start = _weekday(first)
        stop = _weekday(last) if dots else start
        if stop < start:
            raise ValueError(f'"{part}" runs over the end of the week: the weekdays go from Mon to Sun')
        days.update(range(start, stop + 1))
    return frozenset(days)


def _weekday(word: str) -> int:
    for number, name in enumerate(_WEEKDAYS):
        if word.lower() in (name, name[:3]):
            return number
    raise ValueError(f'"{word}" is no weekday')


def _spans(text: str, unit: Unit) -> Spans:
    """The alternatives for one unit; seconds are in microseconds."""
    if text == "*":
        return () if unit is not _SECOND else (Span(0, None, SECOND),)
    return tuple(_span(part, unit) for part in text.split(","))


def _span(text: str, unit: Unit) -> Span:
    found = _SPAN.fullmatch(text)
    if not found:
        hint = f'; write "{unit.first}{text[1:]}"' if text.startswith("*/") else ""
        raise ValueError(f'"{text}" is no {unit.name}{hint}')
    first, last, every = (None if part is None else _count(part, unit) for part in found.groups())
    assert first is not None
    start, stop = _year(first, unit), None if last is None else _year(last, unit)
    step = every if every is not None else (0 if stop is None else unit.scale)
    if every == 0:
        raise ValueError(f'"{text}" repeats without a step')
    if stop is not None and (stop < start or (every is None and unit is _SECOND and stop < start + step)):
        raise ValueError(f'"{text}" ends before it begins')
    if stop is not None:
        stop -= (stop - start) % step
    span = Span(start, stop, step) if stop != start else Span(start)
    _refuse_outside(text, unit, span)
    return span


def _count(text: str, unit: Unit) -> int:
    """A number in the scale of its unit; only seconds have fractions, and these six digits."""
    whole, point, fraction = text.partition(".")
    if point and unit is not _SECOND:
        raise ValueError(f'"{text}" is no {unit.name}: only seconds have fractions')
    rounded = int(f"{fraction:0<6}"[:6]) + (fraction[6:7] >= "5")
    return int(whole) * unit.scale + rounded


def _year(number: int, unit: Unit) -> int:
    """12 is 2012, 89 is 1989."""
    if unit is not _YEAR or number >= 100:
        return number
    return number + (2000 if number < FIRST_YEAR % 100 else 1900)


def _refuse_outside(text: str, unit: Unit, span: Span) -> None:
    """Every number must be one of the unit, and a step must lead to another."""
    numbers = (span.start, span.start if span.stop is None else span.stop)
    if not all(unit.first <= number <= unit.last for number in numbers) or span.step > unit.last - unit.first:
        raise ValueError(f'"{text}" is out of the range of a {unit.name} ({_range(unit)})')
    over = span.start - span.step < unit.first if unit is _DAYS_FROM_END else span.start + span.step > unit.last
    if span.stop is None and over:
        raise ValueError(f'"{text}" never repeats within the range of a {unit.name} ({_range(unit)})')


def _range(unit: Unit) -> str:
    return f"{unit.first} to {unit.last // unit.scale}"


def _first(spans: Spans, least: int) -> int | None:
    numbers = [number for span in spans if (number := span.following(least)) is not None]
    return min(numbers, default=None) if spans else least


# -- the clock on the wall, and moments in microseconds since 1970


def _civil(clock: datetime) -> Civil:
    micros = clock.second * SECOND + clock.microsecond
    return (clock.year, clock.month, clock.day, clock.hour, clock.minute, micros)


def _clock(micros: int, zone: tzinfo) -> datetime:
    return (_EPOCH + micros * _MICROSECOND).astimezone(zone)


def _clock_after(micros: int, zone: tzinfo) -> Civil:
    """What the clock shows next. What it shows for the second time does not count."""
    least, most = (datetime(year, 1, 1, tzinfo=UTC) for year in (FIRST_YEAR, LAST_YEAR + 2))
    micros = min(max(micros + 1, (least - _EPOCH) // _MICROSECOND), (most - _EPOCH) // _MICROSECOND)
    clock = _clock(micros, zone)
    if not clock.fold:
        return max(_civil(clock), _START)
    change = _change(_micros(clock.replace(fold=0)), micros, zone)
    return _civil(_clock(change - 1, zone).replace(tzinfo=None) + _MICROSECOND)


def _moment(civil: Civil, zone: tzinfo) -> int | None:
    """The first moment at which the clock shows this; None where it never does."""
    clock = _datetime(civil, zone)
    micros = _micros(clock)
    return micros if _clock(micros, zone).replace(tzinfo=None) == clock.replace(tzinfo=None) else None


def _gap_end(civil: Civil, zone: tzinfo) -> Civil:
    """What the clock shows after the jump that leaves this out."""
    clock = _datetime(civil, zone)
    return _civil(_clock(_change(_micros(clock.replace(fold=1)), _micros(clock), zone), zone))


def _change(before: int, after: int, zone: tzinfo) -> int:
    """The moment between these two at which the clock is changed."""
    offset = _clock(after, zone).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (before, middle) if _clock(middle, zone).utcoffset() == offset else (middle, after)
    return after


def _datetime(civil: Civil, zone: tzinfo) -> datetime:
    *parts, micros = civil
    year, month, day, hour, minute = parts
    return datetime(year, month, day, hour, minute, *divmod(micros, SECOND), tzinfo=zone)


def _micros(clock: datetime) -> int:
    return (clock - _EPOCH) // _MICROSECOND
