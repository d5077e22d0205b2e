"""The tables that a person names: what is special about one queue, and what runs by the clock."""

# ruff: noqa: RUF009 - `setting` and `required` make dataclass fields, which ruff cannot see
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qdistd.calendar import Calendar
from qdistd.call import encode_call
from qdistd.config.kinds import NAME, Duration, Flag, Number
from qdistd.config.occasions import ARGUMENTS, CALENDAR, KEYWORDS, TIME_ZONE
from qdistd.config.rates import RATE, Rate
from qdistd.config.rows import Fault, required, setting
from qdistd.zones import zone

MOST_TASKS = 1_000_000_000
"""Tasks in one limit: more than any store will ever hold."""

HEAVIEST = 1000
"""The largest weight: shares finer than a thousandth are none."""


@dataclass(frozen=True)
class QueueConfig:
    """How one queue flows. A queue without a table has these defaults."""

    concurrency: int = setting(
        Number(0, MOST_TASKS),
        0,
        "How many tasks of the queue may run at once, on all workers together. 0: no limit.",
    )
    per_key: int = setting(
        Number(0, MOST_TASKS),
        0,
        "How many tasks of the queue with the same concurrency key may run at once, on all workers together. 0: no "
        "limit.",
    )
    rate: Rate | None = setting(
        RATE,
        "",
        "How many tasks of the queue may begin in a time, on all workers together: a number, a slash, and a duration, "
        'such as "100/s" or "10/30s". Empty: no limit.',
    )
    weight: int = setting(
        Number(1, HEAVIEST),
        1,
        "The share of the queue beside the others that a worker serves: one with weight 2 gets twice the turns of one "
        "with weight 1, as long as both have work.",
    )
    limit: int = setting(
        Number(0, MOST_TASKS),
        0,
        "How many tasks may wait in the queue; more are refused as overloaded, with a hint when to come back. 0: no "
        "limit.",
    )


@dataclass(frozen=True)
class ScheduleConfig:
    """A task that is submitted by the clock."""

    calendar: Calendar = required(
        CALENDAR,
        "*-*-* 03:00:00",
        "When the task is due, as systemd's OnCalendar= has it (systemd.time(7)): weekdays, date and time of day, or a "
        'word such as hourly, daily, weekly, monthly. "Mon..Fri 08:30", "*:0/10" (every ten minutes), "*-*~01 23:00" '
        '(the last of each month), "daily Europe/Berlin".',
    )
    task: str = required(NAME, "square", "The name of the task that is submitted.")
    arguments: tuple[Any, ...] = setting(ARGUMENTS, [], "The arguments of the task.")
    keywords: Mapping[str, Any] = setting(KEYWORDS, {}, "Arguments of the task by their names.")
    queue: str = setting(NAME, "default", "The queue that the task goes to.")
    priority: int = setting(Number(-1000, 1000), 0, "Lower numbers run first.")
    timeout: float = setting(
        Duration("0s", "3650d"),
        "0s",
        "Duration: how long one attempt may run. 0: as long as the worker allows.",
    )
    retries: int = setting(Number(0, 1_000_000), 0, "How many more attempts a failure earns.")
    expires: float = setting(
        Duration("0s", "3650d"),
        "0s",
        "Duration: what has not begun this long after it was due is cancelled. 0: it waits as long as it takes.",
    )
    time_zone: str = setting(
        TIME_ZONE,
        "",
        'The time zone of the calendar, such as "Europe/Berlin" or "UTC". Empty: that of the host of the master.',
    )
    persistent: bool = setting(
        Flag(),
        False,
        "Whether what came due while the master was down is made up for when it starts, once, however often it was "
        "due. Otherwise it is passed over.",
    )
    randomized_delay: float = setting(
        Duration("0s", "365d"),
        "0s",
        "Duration: each time the task runs up to this much later, so that not everything begins at the full hour. How "
        "much later is another number for each schedule and each time, and the same one however often it is drawn.",
    )
    overlap: bool = setting(
        Flag(),
        True,
        "Whether the task may be submitted while the one before it still waits or runs. Otherwise it is passed over.",
    )

    def faults(self, name: str, payload: int) -> Iterator[Fault]:
        """What is wrong with the settings together. `payload`: bytes that arguments may have."""
        if self.time_zone and self.calendar.zone:
            keys = (("schedule", "time_zone"), ("schedule", "calendar"))
            wrong = f"the calendar names a time zone itself ({self.calendar.zone})"
            yield Fault(keys, wrong, "one time zone, here or there", name)
        if not self.time_zone and not self.calendar.zone and (wrong := _no_zone()):
            yield Fault((("schedule", "time_zone"),), wrong, "the name of a time zone", name)
        if 0 < self.expires <= self.randomized_delay:
            keys = (("schedule", "expires"), ("schedule", "randomized_delay"))
            wrong = f"expires ({self.expires:g} s) is not beyond randomized_delay ({self.randomized_delay:g} s)"
            yield Fault(keys, wrong, "expires longer than randomized_delay", name)
        size = len(encode_call(self.arguments, dict(self.keywords)))
        if size > payload:
            keys = (("schedule", "arguments"), ("schedule", "keywords"))
            yield Fault(keys, f"the arguments have {size} bytes", f"{payload} at most ([limits] payload)", name)


def _no_zone() -> str:
    """Why this host has no time zone, or nothing."""
    try:
        zone("")
    except ValueError as error:
        return str(error)
    return ""
