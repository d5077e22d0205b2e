"""Rows and guards, no rules: what the broker may ask of any store.

    begin ─> insert · lease · end · promote · cancel · … ─> seal ─> commit (may run in another thread)
                                                             └────> rollback

One transaction is open at a time, and whatever is read inside it is current. A guard (id, attempt, state) stands in
the statement itself, so that a second master on a shared engine could not settle what it does not hold. `commit`
returns when the transaction is on stable storage, or raises `StoreBroken`: after that the process must end and
recover from disk (fsync errors cannot be retried; Rebello et al., "Can Applications Recover from fsync Failures?",
USENIX ATC 2020).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from qdistd.errors import ConfigError
from qdistd.model import BACKOFF_CAP, Claim, Life, Next, Outcome, Result, State, Task
from qdistd.store.ties import Bonds, Notes
from qdistd.views import TaskView

LARGEST_LEASE = 3 * 1024 * 1024
"""Bytes of payload after which a lease is full. Two of them and the largest payload (8 MiB) make less than a frame."""


MOST_LANES = 50
"""Lanes that one lease looks at, the first ones: a compound SELECT of SQLite may have 500."""


class StoreBroken(Exception):
    """The store can no longer promise anything: end the process at once."""


class StoreFull(Exception):
    """No space for this write or commit. The transaction must be rolled back; the store stays usable."""


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """A task to insert, with the state and due time its arrival earns it.

    `expires`: a time, 0 for never. `needs`: the tasks it comes after, and whether each has ended as it should.
    `places`: where these stand in its `after`, if one stands there twice.
    """

    task: Task
    state: State
    run_at: float
    expires: float = 0.0
    unique_id: bytes = b""
    needs: tuple[tuple[bytes, bool], ...] = ()
    places: tuple[int, ...] = ()
    special: bool = False
    """Whether anything of it is rare: see `special`."""


class Leased(msgspec.Struct, array_like=True):
    """A task that was leased just now. `damaged`: its payload is not what was stored."""

    claim: Claim
    payload: bytes
    timeout: float
    damaged: bool
    soft_timeout: float = 0.0
    priority: int = 0
    take: str = ""
    inputs: tuple[bytes, ...] = ()


def special(task: Task) -> bool:
    """Whether a task has anything that only few have, and that is kept apart for that reason."""
    tied = task.requires or task.concurrency_key or task.unique or task.expires or task.after
    return bool(tied or task.soft_timeout) or task.backoff_cap != BACKOFF_CAP


def labels_of(lane: str) -> tuple[str, ...]:
    """The labels that the tasks of a lane require: the way back from `lane_of`."""
    return tuple(lane.split("\n")) if lane else ()


def lane_of(labels: Iterable[str]) -> str:
    """The lane of the tasks that require these labels: tasks of one lane can be taken by the same workers."""
    return "\n".join(sorted(set(labels)))


class Ending(msgspec.Struct, array_like=True):
    """The end of one attempt: whose claim, how, where the task goes next."""

    claim: Claim
    outcome: Outcome
    next: Next
    value: bytes = b""
    started: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0
    rss: int = 0
    output: bytes = b""


class WorkerRow(msgspec.Struct, frozen=True):
    """A worker incarnation. `stock`: a plain `BaseManager` client's connection, dead once the master restarts.

    `life` is not stored: after a restart of the master nobody is connected, and it is not asked for. `former`: its
    leases are of another epoch, and so nobody's any more; the store says so, and is not told.
    """

    token: bytes
    name: str
    host: str = ""
    pid: int = 0
    stock: bool = False
    life: Life = Life()
    former: bool = False


class ScheduleRow(msgspec.Struct, frozen=True, array_like=True):
    """How far a schedule has come, in seconds since 1970 by the clock on the wall.

    `rule`: the calendar it came so far by; `upto`: what was due until then is done with; `due`, `task`: when the last
    task was due, and its id (0 and empty: there was none).
    """

    name: str
    rule: str
    upto: float
    due: float = 0.0
    task: bytes = b""


class Page(msgspec.Struct, frozen=True):
    """What to list: newest first, `before` a position from an earlier page (0: none)."""

    states: Sequence[State] = ()
    queue: str = ""
    name: str = ""
    before: int = 0
    limit: int = 100


class Keep(msgspec.Struct, frozen=True):
    """What stays of what has ended: ends at or after `succeeded` or `failed` (seconds), the last `most` (0: all)."""

    succeeded: float
    failed: float
    most: int = 0


class Chosen(msgspec.Struct, frozen=True):
    """What a person wants gone: tasks that ended before a time, in one of the states; empty names mean any."""

    before: float
    states: Sequence[State]
    queue: str = ""
    name: str = ""


class Copy(Protocol):
    """A copy of a store as it is when the copy is complete. All but `drop` may block: to be called in one thread."""

    def make(self) -> None:
        """Copy it all. Overloaded where that cannot be, or where it was dropped meanwhile."""

    def share(self) -> tuple[int, int]:
        """How much of it is there: (bytes, of so many)."""

    def read(self, at: int, most: int) -> bytes:
        """Some bytes of the complete copy; none at its end."""

    def drop(self) -> None:
        """It is not wanted any more: have `make` end soon. From any thread."""

    def close(self) -> None:
        """Give the space back."""


class Ends(Protocol):
    """What becomes of tasks that have ended."""

    def purge(self, keep: Keep) -> tuple[int, bool]:
        """Delete some of what has ended and need not be kept, the oldest ends first; whether there may be more.

        What is still needed stays: by a task that waits for it, or as a result that no stock client has taken yet.
        """

    def retire(self, before: float, seated: Collection[int]) -> None:
        """Forget some incarnations of workers that were first seen before, hold nothing and are not `seated` (row
        numbers). Attempts of theirs that stay have no name any more.
        """

    def weed(self, chosen: Chosen, cursor: int, *, dry: bool) -> tuple[int, int]:
        """Delete (`dry`: count) some of what is chosen; (tasks, cursor of the next step, 0: that was all).

        What has not ended, or is still needed, stays.
        """


class Timetable(Protocol):
    """How far each schedule has come."""

    def rows(self) -> dict[str, ScheduleRow]:
        """All of them, by name."""

    def put(self, row: ScheduleRow) -> None:
        """Remember one, in place of what was remembered of that name."""

    def forget(self, name: str) -> None:
        """There is no such schedule any more."""


class Store(Protocol):
    """The whole face of a store. All times are the caller's seconds; sequences are at most `protocol.LARGEST_BATCH`."""

    @property
    def bonds(self) -> Bonds:
        """What ties tasks to each other."""

    @property
    def notes(self) -> Notes:
        """What the master remembers of queues and workers."""

    @property
    def epoch(self) -> bytes:
        """The name of this time line: a store that was restored has another one than the store it is a copy of."""

    @property
    def ends(self) -> Ends:
        """What becomes of tasks that have ended."""

    @property
    def timetable(self) -> Timetable:
        """How far each schedule has come."""

    def begin(self) -> None:
        """Open a transaction."""

    def seal(self) -> bool:
        """Write what goes with every transaction; whether there is anything to commit."""

    def commit(self) -> None:
        """Put the transaction on stable storage. May run in a thread. StoreBroken where that cannot be promised,
        StoreFull where nothing of it was written for want of space."""

    def rollback(self) -> None:
        """Forget the transaction."""

    def insert(self, arrivals: Sequence[Arrival], now: float) -> int:
        """Store new tasks; an id that is there already is left alone. How many were new."""

    def lease(self, queue: str, count: int, worker: int, now: float, lanes: Sequence[str] = ("",)) -> list[Leased]:
        """Lease up to `count` ready tasks of these lanes, lower priority numbers first, then the oldest.
        `attempt` grows by one.

        Fewer where their payloads come to `LARGEST_LEASE` before; the one that gets there is the last.
        """

    def unlease(self, leased: Leased) -> None:
        """Take a lease of this very transaction back: it never was."""

    def end(self, endings: Sequence[Ending], now: float) -> int:
        """End attempts. How many held the guard: fewer than given means another attempt held some."""

    def claims(self) -> list[tuple[int, Claim]]:
        """Every leased task with the worker row that holds it: what a restart must know."""

    def promote(self, now: float) -> list[str]:
        """Make due scheduled tasks ready (a bounded number); the queues that got some."""

    def next_due(self) -> float | None:
        """When the next scheduled task is due."""

    def realign(self, ahead: float) -> None:
        """The wall clock has stepped: tasks that wait for a time of day are due at that time plus `ahead` seconds."""

    def latest(self) -> float:
        """The latest time among the newest tasks (0: none)."""

    def results(self, ids: Sequence[bytes]) -> tuple[list[Result], list[bytes]]:
        """Results of those that have ended, and the ids that no task has."""

    def cancel(self, ids: Iterable[bytes], now: float, value: bytes = b"") -> dict[bytes, State]:
        """Cancel what is queued, mark what is leased; the state each existing task is in then. `value`: why."""

    def states(self, ids: Iterable[bytes]) -> dict[bytes, State]:
        """The state of each task that exists."""

    def retry(self, ids: Iterable[bytes], now: float) -> dict[bytes, State]:
        """Failed, cancelled and quarantined tasks back to their queues with fresh budgets; states as in `cancel`."""

    def view(self, task_id: bytes) -> TaskView | None:
        """One task with payload, value and attempts."""

    def page(self, page: Page) -> tuple[list[TaskView], int]:
        """A page of tasks and where the next one starts (0: nowhere)."""

    def counts(self) -> Mapping[str, Mapping[State, int]]:
        """Queue → state → number of tasks, exact at this moment, without touching the disk."""

    def ready(self, queue: str, labels: Collection[str] | None = None) -> int:
        """How many tasks of the queue may run now; `labels`: where somebody is who has these and no others."""

    def lanes(self, queue: str, labels: Collection[str]) -> Mapping[str, int]:
        """Of these, those that require some: lane → tasks."""

    def lines(self, most: int) -> Iterable[tuple[str, str, int]]:
        """Some of the lines with ready tasks: (queue, lane, tasks)."""

    def count(self, queue: str, state: State) -> int:
        """How many tasks of the queue are in that state."""

    def total(self, states: Iterable[State]) -> int:
        """How many tasks of all queues are in these states."""

    def worker(self, worker: WorkerRow, now: float) -> int:
        """The row number of this incarnation, made on first sight."""

    def workers(self, numbers: Iterable[int]) -> dict[int, WorkerRow]:
        """The incarnations behind row numbers."""

    def take(self) -> tuple[bytes, bytes] | None:
        """Take the oldest result meant for stock clients out of the mailbox: (id, value)."""

    def untake(self, task_id: bytes) -> None:
        """Put a taken result back: nobody received it."""

    def mailbox(self) -> int:
        """How many results wait for stock clients."""

    def copy(self) -> Copy:
        """A copy of all there is, yet to be made: see `Copy`. Refused, Overloaded: there can be none, and why."""

    def size(self) -> int:
        """Bytes on disk."""

    def close(self) -> None:
        """Let go of the store."""


def open_store(url: str) -> Store:
    """The store that a configuration names: `sqlite:///absolute/path` or `sqlite://:memory:` (tests)."""
    scheme, _, rest = url.partition("://")
    if scheme != "sqlite" or not rest:
        raise ConfigError(f"[master] store: {url!r} is no store; expected sqlite:///absolute/path/to/file.db")
    from qdistd.store.sqlite import SqliteStore

    return SqliteStore(rest)
