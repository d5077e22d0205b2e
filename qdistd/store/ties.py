"""What a store knows beside the tasks themselves: how they hang together, and what the master has to remember."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from qdistd.model import State
from qdistd.store.tallies import split


class Dependent(msgspec.Struct, frozen=True):
    """A blocked task, as far as what it waits for must know it. `line`: its queue with its lane."""

    seq: int
    id: bytes
    line: str
    run_at: float
    if_failed: str
    blockers: int
    key: str

    @property
    def queue(self) -> str:
        """The queue of the line."""
        return split(self.line)[0]


class Bonds(Protocol):
    """What ties tasks to each other."""

    def blocked(self) -> int:
        """How many tasks wait for others."""

    def dependents(self, task_id: bytes, limit: int, *, succeeded: bool) -> list[Dependent]:
        """Blocked tasks that this one concerns when it ends so, the oldest first."""

    def meet(self, task_id: bytes, dependent: Dependent) -> None:
        """This one need not wait for that any more."""

    def unblock(self, dependent: Dependent, state: State) -> None:
        """It waits for no task any more: to `state`. With a concurrency key it is ready when there is a place."""

    def unmet(self) -> list[tuple[bytes, State]]:
        """Tasks that have ended and that others still wait for: what a restart must look at.

        A task that a person has put back since one failed that it comes after, waits for that on purpose.
        """

    def unmet_by(self, task_id: bytes) -> list[tuple[bytes, State]]:
        """Those of them that this one waits for."""

    def inputs(self, seq: int) -> tuple[bytes, ...]:
        """The values of the tasks that this one comes after, in their order; empty where one has none."""

    def loosen(self, queue: str, key: str) -> None:
        """Have `loose` name this pair."""

    def loose(self) -> list[tuple[str, str]]:
        """(queue, concurrency key) pairs that need a look since this was last asked."""

    def holding(self, queue: str, key: str) -> int:
        """How many tasks have a place of this key: ready or leased ones."""

    def admit(self, queue: str, key: str, count: int) -> int:
        """Make up to `count` tasks ready that wait for a place of this key; how many there were."""

    def held_keys(self) -> list[tuple[str, str]]:
        """All (queue, concurrency key) pairs that tasks wait for."""

    def alike(self, unique_id: bytes, *, running: bool) -> tuple[bytes, State] | None:
        """A task of this identity that is queued (`running`: the oldest one that is, or runs), and its state."""

    def alias(self, task_id: bytes, into: bytes) -> None:
        """Remember that this submit is that task."""

    def merged(self, task_id: bytes) -> bytes | None:
        """The task that this submit is."""

    def coalesce(self, task_id: bytes, payload: bytes) -> None:
        """Give a task that has not begun another payload."""

    def expire(self, now: float, limit: int, value: bytes) -> list[bytes]:
        """Cancel queued tasks whose time is over, with this value; which."""

    def next_expiry(self) -> float | None:
        """When the next queued task expires."""


class Notes(Protocol):
    """What the master remembers of queues and workers."""

    def switch(self, kind: str, name: str, since: float) -> bool:
        """Switch something of that name on since then, or off (0). Whether that is a change."""

    def switched(self, kind: str) -> dict[str, float]:
        """What is on, and since when."""

    def begun(self, queue: str, at: float, tasks: int, before: float) -> None:
        """So many tasks of the queue have begun at that time. What is as old as `before` is forgotten."""

    def beginnings(self) -> Sequence[tuple[str, float, int]]:
        """All that is remembered of that: (queue, time, tasks), the oldest first."""
