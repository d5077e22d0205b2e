"""Tasks that are due by the clock on the wall: which to submit now, remembered in the same transaction.

    tick ─> each schedule: what was due since `upto`? ─> Task with the key schedule:NAME:TIME ─> Broker.submit
                                                   └───> its row in the store: done with up to here

All that must not be forgotten stands in the rows, so that neither a rollback nor a restart nor a kill -9 gives a task
twice or loses one. The wall clock may step. Forward: what it has passed over comes at once, as if the master were late,
but for what is later than `LATE`. Back: what has been is not again (`upto`), and where the clock was out by more than
that can stand for (`WRONG`), the key still makes the same occasion the same task.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol

import msgspec
from msgspec.structs import replace

from qdistd.calendar import Calendar
from qdistd.model import Task, id_of_key
from qdistd.protocol import Refusal
from qdistd.store import ScheduleRow, Store
from qdistd.views import ScheduleView

LONGEST_NAP = 10.0
"""Seconds between two looks at most: the wall clock may step, and what is due then must notice."""

LATE = 3 * 3600.0
"""Seconds after which what was due has been missed: cron(8), too, makes up for steps of the clock up to three hours."""

WRONG = 86400.0
"""Seconds ahead of which a row comes from a clock that was wrong: no time zone and no summer time come to a day."""

AT_ONCE = 100
"""Tasks submitted in one transaction: a few milliseconds. The rest follows in the next."""

OVERLOADED = 1.0
"""Seconds after which a task is offered again that there was no room for."""

INSTANT = 1e-6
"""Seconds: what a calendar can tell apart."""


class Schedule(msgspec.Struct, frozen=True):
    """One schedule. `task`: what to submit, but for id, key and times; `rule`: calendar and zone, as they are known
    again after a restart; `randomized_delay` in seconds."""

    name: str
    calendar: Calendar
    zone: tzinfo
    rule: str
    task: Task
    zone_name: str = ""
    persistent: bool = False
    randomized_delay: float = 0.0

    def next_after(self, moment: float) -> float | None:
        """When it is due next."""
        return self.calendar.next_after(moment, self.zone)

    def missed(self, row: ScheduleRow, now: float) -> ScheduleRow:
        """The row when time has passed without anybody looking: all is done with, but the last time if `persistent`."""
        latest = self.calendar.latest(row.upto, now, self.zone) if self.persistent else None
        return replace(row, upto=now if latest is None else latest - INSTANT)

    def occasion(self, due: float, now: float) -> Task | None:
        """The task of one time; None where it has expired already."""
        expires = self.task.expires and self.task.expires - (now - due)
        if self.task.expires and expires <= 0:
            return None
        key = f"schedule:{self.name}:{_iso(due)}"
        run_at = due + self.delay(due) if self.randomized_delay else 0.0
        return replace(self.task, id=id_of_key(key), key=key, run_at=run_at, expires=expires)

    def delay(self, due: float) -> float:
        """Seconds by which the task of that time runs later, the same ones whenever they are asked for."""
        digest = hashlib.blake2b(f"{self.name}:{_iso(due)}".encode(), digest_size=8, person=b"qdist schedule").digest()
        return self.randomized_delay * (int.from_bytes(digest, "big") / 2**64)


class Gate(Protocol):
    """Where tasks are submitted: the broker."""

    def submit(self, tasks: Sequence[Task]) -> list[Refusal]: ...


class Schedules:
    """All schedules. Every method runs inside a transaction."""

    def __init__(
        self,
        gate: Gate,
        store: Store,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        log: logging.Logger,
    ) -> None:
        self._gate = gate
        self._store = store
        self._wall = wall
        self._monotonic = monotonic
        self._log = log
        self._schedules: Sequence[Schedule] = ()

    def start(self, schedules: Iterable[Schedule]) -> float:
        """The master has started: what came due meanwhile was missed. As `tick`."""
        self._take(schedules)
        now, rows = self._wall(), self._store.timetable.rows()
        for schedule in self._schedules:
            row = rows[schedule.name]
            due = schedule.next_after(row.upto)
            if due is not None and due <= now:
                self._miss(schedule, row, now)
        return self.tick()

    def reload(self, schedules: Iterable[Schedule]) -> float:
        """Other schedules from now on; those that stay the same go on where they are. As `tick`."""
        self._take(schedules)
        return self.tick()

    def tick(self) -> float:
        """Submit what is due; the monotonic time of the next look, infinite where there is nothing to look at."""
        now, rows = self._wall(), self._store.timetable.rows()
        following, room = now + LONGEST_NAP if self._schedules else float("inf"), AT_ONCE
        for schedule in self._schedules:
            again, done = self._serve(schedule, rows[schedule.name], now, room)
            following, room = min(following, again), room - done
        return self._monotonic() + max(0.0, following - now)

    def views(self) -> list[ScheduleView]:
        """All of them as people see them."""
        rows = self._store.timetable.rows()
        return [self._view(schedule, rows[schedule.name]) for schedule in self._schedules]

    def _take(self, schedules: Iterable[Schedule]) -> None:
        """Know these and no others. One that is new, or has another calendar, begins now."""
        self._schedules = sorted(schedules, key=lambda schedule: schedule.name)
        now, rows = self._wall(), self._store.timetable.rows()
        for name in rows.keys() - {schedule.name for schedule in self._schedules}:
            self._store.timetable.forget(name)
        for schedule in self._schedules:
            row = rows.get(schedule.name)
            if row is None or row.rule != schedule.rule:
                row = row or ScheduleRow(schedule.name, schedule.rule, now)
                self._store.timetable.put(replace(row, rule=schedule.rule, upto=now))

    def _serve(self, schedule: Schedule, row: ScheduleRow, now: float, room: int) -> tuple[float, int]:
        """Submit up to `room` tasks of one schedule: when to look again, by the wall, and how many there were."""
        if row.upto > now + WRONG:
            row = replace(row, upto=now)
            self._store.timetable.put(row)
        due = schedule.next_after(row.upto)
        if due is not None and due < now - LATE:
            row = self._miss(schedule, row, now)
            due = schedule.next_after(row.upto)
        for done in range(room):
            if due is None or due > now:
                return (due or now + LONGEST_NAP), done
            row, wait = self._submit(schedule, row, due, now)
            if wait:
                return now + wait, done
            due = schedule.next_after(due)
        return now, room

    def _miss(self, schedule: Schedule, row: ScheduleRow, now: float) -> ScheduleRow:
        after = schedule.missed(row, now)
        if after != row:
            self._store.timetable.put(after)
            made_up = "the last time is made up for" if schedule.persistent else "it is passed over"
            self._log.info("schedule %s: what was due since %s was missed; %s", row.name, _iso(row.upto), made_up)
        return after

    def _submit(self, schedule: Schedule, row: ScheduleRow, due: float, now: float) -> tuple[ScheduleRow, float]:
        """Submit the task of one time: the row after it, or the seconds after which to try again."""
        task = schedule.occasion(due, now)
        refusals = self._gate.submit([task]) if task else []
        for refusal in refusals:
            if refusal.code == "overloaded":
                return row, refusal.after or OVERLOADED
            self._log.error("schedule %s: its task is refused: %s", row.name, refusal.message)
        row = replace(row, upto=due)
        if task is not None and not refusals:
            row = replace(row, due=due, task=self._store.bonds.merged(task.id) or task.id)
        self._store.timetable.put(row)
        return row, 0.0

    def _view(self, schedule: Schedule, row: ScheduleRow) -> ScheduleView:
        due = schedule.next_after(row.upto)
        following = 0.0 if due is None else due + schedule.delay(due)
        state = self._store.states([row.task]).get(row.task) if row.task else None
        calendar, zone = schedule.calendar.text, schedule.zone_name
        last = row.due + schedule.delay(row.due) if row.due else 0.0
        return ScheduleView(
            *(row.name, calendar, zone, schedule.task.name, schedule.task.queue, following, last, row.task, state)
        )


def _iso(moment: float) -> str:
    """A moment as its key has it: in UTC, so that another time zone makes it no other moment."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=moment)).isoformat()
