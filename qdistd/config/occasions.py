"""The kinds of value that a schedule has: a calendar expression, a time zone, arguments."""

from dataclasses import dataclass
from typing import Any

from qdistd import calendar
from qdistd.calendar import Calendar
from qdistd.config.kinds import Kind, Raw, Text, echo
from qdistd.zones import zone


@dataclass(frozen=True)
class Arguments(Kind):
    """A list of plain values. A tuple once read."""

    @property
    def expected(self) -> str:
        return "a list of strings, numbers, flags, lists and tables"

    def read(self, raw: Raw) -> tuple[Any, ...]:
        """The values in their order."""
        if not isinstance(raw, list):
            raise ValueError(f"{echo(raw)} is no list")
        _refuse_dates(raw)
        return tuple(raw)


@dataclass(frozen=True)
class Keywords(Kind):
    """A table of plain values."""

    @property
    def expected(self) -> str:
        return "a table of strings, numbers, flags, lists and tables"

    def read(self, raw: Raw) -> dict[str, Any]:
        """The values by their names."""
        if not isinstance(raw, dict):
            raise ValueError(f"{echo(raw)} is no table")
        _refuse_dates(raw)
        return raw


def _refuse_dates(raw: Raw) -> None:
    """TOML has dates; what a task is given has none."""
    if isinstance(raw, dict | list):
        for inner in raw.values() if isinstance(raw, dict) else raw:
            _refuse_dates(inner)
    elif not isinstance(raw, str | int | float):
        raise ValueError(f"{echo(raw)} is nothing that a task can be given (write it as a string)")


def _calendar(text: str) -> Calendar:
    try:
        found = calendar.parse(text)
        zone(found.zone or "UTC")
    except ValueError as error:
        raise ValueError(f"{echo(text)} is no calendar expression: {error}") from None
    return found


def _time_zone(text: str) -> str:
    if text:  # that of the host is looked at only where a schedule needs it
        zone(text)
    return text


ARGUMENTS = Arguments()
KEYWORDS = Keywords()
CALENDAR = Text(
    'a calendar expression such as "daily", "Mon..Fri 08:30", "*:0/10" or "*-*-01 04:00 Europe/Berlin", see '
    "systemd.time(7)",
    _calendar,
)
TIME_ZONE = Text('the name of a time zone such as "Europe/Berlin" or "UTC", or "" for that of this host', _time_zone)
