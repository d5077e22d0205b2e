"""Calendar expressions: what systemd says of them is said here too, in every zone, in leap years, around summer time.

The oracle is `systemd-analyze calendar`. What is made up for it leaves out where systemd 252 itself goes wrong: open
steps (`*-*-6/8`, `1/7:30`) lose a day or an hour at the end of a year and where midnight is left out, several days from
the end of a month are held to narrower bounds the more there are, and a jump at a quarter to the hour (Chatham in
September) loses a time or ends the search.
"""

import os
import random
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdistd.calendar import LAST_YEAR, parse
from qdistd.zones import zone

BERLIN = ZoneInfo("Europe/Berlin")
ROUNDS = 4
MADE_UP = 300
"""Expressions in each of the two comparisons: some seconds."""


def moment(text: str) -> float:
    """A time in UTC, or with an offset of its own, as seconds."""
    read = datetime.fromisoformat(text)
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


def shown(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S")


def ours(text: str, base: float, rounds: int = ROUNDS) -> list[str] | None:
    """The next moments in UTC; None where the expression is refused."""
    try:
        calendar = parse(text)
        home = zone(calendar.zone or "UTC")
    except ValueError:
        return None
    found: list[str] = []
    at: float | None = base
    while len(found) < rounds and (at := calendar.next_after(at, home)) is not None:
        found.append(shown(at))
    return found


def theirs(text: str, base: float, rounds: int = ROUNDS) -> list[str] | None:
    command = ["systemd-analyze", "calendar", f"--iterations={rounds}", f"--base-time={shown(base)} UTC", "--", text]
    done = subprocess.run(command, env={**os.environ, "TZ": "UTC"}, capture_output=True, text=True, timeout=30)
    found = re.findall(r"(?:Next elapse|Iter\. #\d+): \w+ (\S+ \S+) UTC", done.stdout)
    return None if done.returncode else found


needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd is not installed, and only root can do that"
)


# -- expressions made up


class Maker:
    """Expressions of every shape, now and then a wrong one."""

    zones = (
        *("", "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Cairo"),
        *("America/Santiago", "Europe/Dublin", "Pacific/Chatham", "Africa/Casablanca", "Nowhere/Land"),
    )
    words = ("minutely", "hourly", "daily", "Weekly", "monthly", "quarterly", "semiannually", "yearly", "fortnightly")
    days = ("Mon", "Tuesday", "wed", "THU", "Friday", "Sat", "Sunday")

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def expression(self) -> str:
        maybe = self.rng.random
        if maybe() < 0.1:
            text = self.rng.choice(self.words)
        else:
            parts = [self.weekdays()] * (maybe() < 0.3) + [self.date()] * (maybe() < 0.7) + [self.time()]
            text = " ".join(parts if maybe() < 0.8 else parts[:-1]) or "daily"
        return f"{text} {self.rng.choice(self.zones)}".strip()

    def weekdays(self) -> str:
        pick = self.rng.choice
        parts = [pick([pick(self.days), f"{pick(self.days)}{pick(['..', '-'])}{pick(self.days)}"]) for _ in "ab"]
        return ",".join(parts[: pick([1, 1, 2])]) + pick(["", "", ","])

    def date(self) -> str:
        sign = self.rng.choice("---~")
        days = self.span(1, 28, steps=False) if sign == "~" else self.chain(1, 31, steps=False)
        years = self.rng.choice(["", "*-", f"{self.chain(2020, 2040)}-", f"{self.chain(24, 40)}-", "69-", "2200-"])
        return f"{years}{self.chain(1, 12)}{sign}{days}"

    def time(self) -> str:
        seconds = f":{self.chain(0, 59, fractions=True)}" if self.rng.random() < 0.5 else ""
        return f"{self.chain(0, 23)}:{self.chain(0, 59)}{seconds}"

    def chain(self, low: int, high: int, *, steps: bool = True, fractions: bool = False) -> str:
        if self.rng.random() < 0.4:
            return "*"
        many = self.rng.choice([1, 1, 1, 2, 3])
        return ",".join(self.span(low, high, steps=steps, fractions=fractions) for _ in range(many))

    def span(self, low: int, high: int, *, steps: bool = True, fractions: bool = False) -> str:
        rng = self.rng
        start = rng.randint(low, high) if rng.random() < 0.98 else high + rng.randint(1, 5)
        text = f"{start:02d}{f'.{rng.randint(0, 9999999)}' if fractions and rng.random() < 0.3 else ''}"
        ranged = rng.random() < 0.3
        text += f"..{rng.randint(min(start, high), high)}" if ranged else ""
        return text + (f"/{rng.randint(1, (high - low) // 2)}" if rng.random() < 0.3 and (steps or ranged) else "")


@needs_systemd
def test_expressions_of_all_shapes_mean_what_they_mean_to_systemd() -> None:
    maker = Maker(252)
    accepted = 0
    for _ in range(MADE_UP):
        text = maker.expression()
        base = float(maker.rng.randint(1_577_836_800, 1_900_000_000))  # 2020 to 2030
        found = theirs(text, base)
        assert ours(text, base) == found, (text, shown(base))
        accepted += found is not None
    assert accepted > MADE_UP / 2


CHANGES = [
    ("Europe/Berlin", "2026-03-29 01:00"),
    ("Europe/Berlin", "2026-10-25 01:00"),
    ("America/New_York", "2026-03-08 07:00"),
    ("America/New_York", "2026-11-01 06:00"),
    ("Australia/Lord_Howe", "2026-04-04 15:00"),  # by half an hour
    ("Australia/Lord_Howe", "2026-10-03 15:30"),
    ("America/Santiago", "2026-04-05 03:00"),  # at midnight
    ("America/Santiago", "2026-09-06 04:00"),
    ("Africa/Cairo", "2026-04-23 22:00"),
    ("Africa/Cairo", "2026-10-29 21:00"),
    ("America/Havana", "2026-03-08 05:00"),
    ("Pacific/Chatham", "2026-04-04 14:00"),
    ("Europe/Dublin", "2026-10-25 01:00"),
    ("Africa/Casablanca", "2026-02-15 02:00"),  # for the length of Ramadan
    ("Pacific/Apia", "2011-12-30 10:00"),  # a whole day
]
FREQUENT = (
    "hourly",
    "daily",
    "*:0/20",
    "*:*",
    "02:30",
    "02:00",
    "*-*-* 0..3:15,45",
    "Sun 0:30",
    "*:59:59",
    "1,8,15,22:30",
)


@needs_systemd
@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_where_clocks_are_changed_the_same_moments_come_as_for_systemd(name: str, change: str) -> None:
    rng = random.Random(change)
    for text in FREQUENT:
        base = moment(change) - rng.randint(1, 2 * 3600)
        expression = f"{text} {name}"
        assert ours(expression, base, 20) == theirs(expression, base, 20), (expression, shown(base))


# -- the same, where it is told in words


def test_a_time_that_summer_time_leaves_out_is_passed_over() -> None:
    assert ours("*-*-* 02:30 Europe/Berlin", moment("2026-03-28 00:00"), 2) == [
        "2026-03-28 01:30:00",
        "2026-03-30 00:30:00",
    ]


def test_a_jump_at_a_quarter_to_the_hour_loses_no_time_that_there_is() -> None:
    assert ours("*-*-* 0..3:15,45 Pacific/Chatham", moment("2026-09-26 13:20"), 3) == [
        *("2026-09-26 13:30:00", "2026-09-26 14:00:00", "2026-09-27 10:30:00"),
    ]


def test_a_time_that_comes_twice_counts_once_wherever_the_search_begins() -> None:
    calendar, once = parse("02:30"), moment("2026-10-25 00:30")
    tomorrow = moment("2026-10-26 01:30")
    for minutes in range(0, 180, 7):
        base = moment("2026-10-24 23:30") + minutes * 60
        assert calendar.next_after(base, BERLIN) == (once if base < once else tomorrow)


def test_days_in_steps_begin_anew_with_each_year() -> None:
    assert ours("*-*-6/8 04:39", moment("2021-12-22 12:00"), 3) == [
        *("2021-12-30 04:39:00", "2022-01-06 04:39:00", "2022-01-14 04:39:00"),
    ]


def test_days_from_the_end_of_the_month_know_leap_years() -> None:
    assert ours("*-02~01", moment("2027-01-01 00:00"), 3) == [
        *("2027-02-28 00:00:00", "2028-02-29 00:00:00", "2029-02-28 00:00:00"),
    ]
    assert ours("Sun *-*~07/1", moment("2026-01-01 00:00"), 2) == ["2026-01-25 00:00:00", "2026-02-22 00:00:00"]


def test_the_29th_of_february_comes_in_leap_years_alone() -> None:
    assert ours("*-02-29", moment("2096-01-01 00:00"), 2) == ["2096-02-29 00:00:00", "2104-02-29 00:00:00"]


@pytest.mark.parametrize("text", ["*-02-30", "2001-01-01", "Mon 2026-11-29", "@0"])
def test_what_never_comes_again_has_no_next_time(text: str) -> None:
    assert ours(text, moment("2026-01-01 00:00")) == []


def test_nothing_comes_after_the_last_year() -> None:
    assert parse("daily").next_after(moment(f"{LAST_YEAR}-12-31 00:00"), UTC) is None
    assert parse("daily").next_after(1e15, UTC) is None


def test_fractions_of_seconds_are_told_apart() -> None:
    calendar = parse("*:*:0/0.25")
    assert calendar.next_after(10.0, UTC) == 10.25
    assert calendar.next_after(10.749999, UTC) == 10.75
    assert parse("*:*:1.5").next_after(0.0, UTC) == 1.5


def test_a_moment_is_one_second_since_1970() -> None:
    assert ours("@1795000000", moment("2026-01-01 00:00")) == [shown(1795000000)]


# -- what is refused

WRONG = [
    ("", "neither a date nor a time of day"),
    ("fortnightly", '"fortnightly" is no weekday'),
    ("12", '"12" is neither a date nor a time of day'),
    ("*-13-01", '"13" is out of the range of a month (1 to 12)'),
    ("*-*-32", '"32" is out of the range of a day (1 to 31)'),
    ("*-*~29", '"29" is out of the range of a day (1 to 28)'),
    ("1969-01-01", '"1969" is out of the range of a year (1970 to 2199)'),
    ("24:00", '"24" is out of the range of a hour (0 to 23)'),
    ("12:60", '"60" is out of the range of a minute (0 to 59)'),
    ("12:00:60", '"60" is out of the range of a second (0 to 59)'),
    ("12:0.5", '"0.5" is no minute: only seconds have fractions'),
    ("*:*/5", '"*/5" is no minute; write "0/5"'),
    ("*:0/0", '"0/0" repeats without a step'),
    ("*:50/20", '"50/20" never repeats within the range of a minute (0 to 59)'),
    ("9..5:00", '"9..5" ends before it begins'),
    ("Sat..Mon", '"Sat..Mon" runs over the end of the week'),
    ("Mon Tuesday 12:00", '"Tuesday 12:00" is neither a date nor a time of day'),
    ("12:00 12:00", '"12:00 12:00" is neither a date nor a time of day'),
    ("2026~02~01", "neither a date"),
    ("@x", '"@x" is neither'),
    (",:00", '"" is no hour'),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_is_no_expression_is_refused_and_told_why(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse(text)


@given(text=st.text(alphabet="0123456789*/.,:-~ @MonFriUTC", max_size=20) | st.text(max_size=10))
def test_no_text_at_all_is_anything_but_an_expression_or_refused(text: str) -> None:
    try:
        calendar = parse(text)
    except ValueError:
        return
    assert calendar.text == text


# -- what holds for every expression

seeds = st.integers(0, 2**32)
times = st.floats(1_500_000_000, 2_000_000_000)
homes = st.sampled_from(("UTC", *(name for name, _ in CHANGES)))


def made(seed: int) -> str:
    """An expression that is right."""
    maker = Maker(seed)
    while True:
        text = maker.expression()
        if ours(text, 0.0, 0) is not None:
            return text


@given(seed=seeds, base=times, home=homes, share=st.floats(0, 1))
def test_the_next_time_is_the_same_from_wherever_before_it(seed: int, base: float, home: str, share: float) -> None:
    calendar, there = parse(made(seed)), zone(home)
    found = calendar.next_after(base, there)
    if found is not None:
        assert found > base
        assert calendar.next_after(base + (found - base) * share * 0.999, there) == found
        assert calendar.next_after(found - 2e-6, there) == found


@given(seed=seeds, base=times, home=homes, span=st.floats(0, 400 * 86400))
def test_the_latest_time_is_followed_by_none(seed: int, base: float, home: str, span: float) -> None:
    calendar, there = parse(made(seed)), zone(home)
    until = base + span
    latest = calendar.latest(base, until, there)
    following = calendar.next_after(base, there)
    if latest is None:
        assert following is None or following > until - 1e-5
    else:
        assert base < latest <= until
        later = calendar.next_after(latest, there)
        assert later is None or later > until - 1e-5


@given(seed=seeds, base=times)
def test_without_summer_time_the_clock_shows_what_the_expression_says(seed: int, base: float) -> None:
    text = made(seed)
    found = parse(text).next_after(base, UTC)
    if found is not None and "~" not in text:
        clock = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(found))
        again = parse(f"{clock:%Y-%m-%d %H:%M:%S}").next_after(found - 1.5, UTC)
        assert again == int(found)
