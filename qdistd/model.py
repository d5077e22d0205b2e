"""The nouns. Frozen values, no I/O, no rule.

    Task ──submit──> (master) ──Grant──> (worker) ──Settlement──> (master) ──Result──> whoever waits

Ids are 16 bytes, time-ordered, and made by whoever submits (the layout of a UUID version 7, RFC 9562), so that
saying a submit twice is harmless. `attempt` counts the leases of a task, only grows, and is the fence: a settlement
is accepted only from the attempt that holds the lease. Hot shapes travel as arrays: a newer version may append
fields, and the older side ignores them.
"""

import enum
import hashlib
import uuid
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

TaskId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=10 * 366 * 86400)]
Moment = Annotated[float, msgspec.Meta(ge=0, lt=253_402_300_800)]
"""Seconds since 1970, before the year 10000: what a calendar can show."""


MOST_OUTPUT = 64 * 1024
"""Bytes of what an attempt has printed that are kept with it: its end, where the reason of a failure stands."""


class State(enum.IntEnum):
    """Where a task stands. `blocked | scheduled → ready → leased → succeeded | failed | cancelled | quarantined`."""

    SCHEDULED = 0
    READY = 1
    LEASED = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    QUARANTINED = 6
    BLOCKED = 7
    """Waits for other tasks: those it comes after, or those that run with the same concurrency key."""

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to a task in this state by itself."""
        return self in _FINAL

    @property
    def word(self) -> str:
        """The state as a person reads it."""
        return self.name.lower()


_FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.QUARANTINED})


class Outcome(enum.IntEnum):
    """How one attempt ended."""

    SUCCEEDED = 0
    FAILED = 1
    """The task raised, ran out of time, may not run here, or its result cannot be sent."""
    CRASHED = 2
    """The child that ran it died under it."""
    RELEASED = 3
    """The worker handed it back (stopping, or never started): costs nothing."""
    LOST = 4
    """The worker vanished: only the master says so."""
    CANCELLED = 5
    """The worker ended it by order: because somebody cancelled the task, or because the attempt was stale."""
    REJECTED = 6
    """The task raised `Reject`: it will never succeed, whatever retries it has left."""

    @property
    def word(self) -> str:
        """The outcome as a person reads it."""
        return self.name.lower()


class Failure(msgspec.Struct, frozen=True):
    """Why an attempt has no result.

    `kind`: exception, retry, rejected, timeout, soft-timeout, exit, signal, memory (its own limit), oom (the kernel had
    none left), not-found, not-allowed, undecodable, unserializable, too-large, lost, stopped, cancelled, expired,
    damaged.
    `type` and `traceback` speak of exceptions, `number` is the exit code or signal.
    """

    kind: str
    message: str
    type: str = ""
    traceback: str = ""
    number: int = 0


Label = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
"""What a worker is or has (`gpu`, `site=berlin`), and a task may require."""

MOST_PREDECESSORS = 1000
"""Tasks that one task may come after: what one request can name, and one transaction look at."""

MOST_LABELS = 100
"""Labels of one worker, or required by one task."""

Labels = Annotated[tuple[Label, ...], msgspec.Meta(max_length=MOST_LABELS)]


BACKOFF_CAP = 3600.0
"""Seconds that a retry waits at most where nothing else is asked for."""


class Task(msgspec.Struct, frozen=True, array_like=True):
    """One task as it is submitted. `payload` is `call.encode_call`'s bytes; the master never opens it."""

    id: TaskId
    name: Name
    payload: bytes
    queue: Name = "default"
    priority: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = 0
    """Lower runs first."""
    delay: Seconds = 0.0
    """Seconds after its arrival at the master before it may run."""
    run_at: Moment = 0.0
    """Wall clock (seconds since 1970) before which it may not run; 0: at once."""
    timeout: Seconds = 0.0
    """Seconds one attempt may take; 0: the worker's own limit. A task with one leaves nothing running behind."""
    retries: Count = 0
    """How many more attempts a failure earns."""
    backoff: Seconds = 1.0
    """Seconds before the first retry; doubles with every further one, drawn with full jitter."""
    key: Annotated[str, msgspec.Meta(max_length=500)] = ""
    """Idempotency key, kept for people; the id was derived from it."""
    mailbox: bool = False
    """Its result goes to `get_result_queue()` of stock clients."""
    soft_timeout: Seconds = 0.0
    """Seconds after which `SoftTimeout` is raised in the task; 0: the worker's own limit."""
    backoff_cap: Seconds = BACKOFF_CAP
    """Seconds that `backoff` never doubles beyond."""
    expires: Seconds = 0.0
    """Seconds after its arrival by which it must have begun, or it is cancelled; 0: it never expires."""
    requires: Labels = ()
    """Labels that a worker must have to run it."""
    concurrency_key: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """No more of them run at once than `per_key` of its queue allows."""
    unique: Literal["", "queued", "running"] = ""
    """While another one like it is queued, or queued or running, this submit is that other task."""
    unique_key: Annotated[str, msgspec.Meta(max_length=500)] = ""
    """What is alike; empty: queue, name and payload."""
    coalesce: bool = False
    """Where it is another task that still waits, that takes over the payload of this one."""
    after: Annotated[tuple[TaskId, ...], msgspec.Meta(max_length=MOST_PREDECESSORS)] = ()
    """Tasks that must have ended before it runs."""
    if_failed: Literal["cancel", "run", "wait"] = "cancel"
    """What becomes of it when one of these ends without success: cancelled, run all the same, or waits for a retry."""
    take: Literal["", "args", "list"] = ""
    """How it gets the results of these: not, as its first arguments, or as one list that is its first argument."""


class Merged(msgspec.Struct, frozen=True, array_like=True):
    """A unique task that was submitted, and the one like it that it is."""

    id: TaskId
    into: TaskId


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """One task handed to a worker under a lease."""

    id: TaskId
    attempt: int
    name: str
    payload: bytes
    queue: str = "default"
    timeout: float = 0.0
    soft_timeout: float = 0.0
    priority: int = 0
    inputs: tuple[bytes, ...] = ()
    """The values of the tasks it comes after, in their order; empty where one has none."""
    take: str = ""
    requires: tuple[str, ...] = ()
    """The labels that it was granted for."""


class Held(msgspec.Struct, frozen=True, array_like=True):
    """What a worker still has in its hands when it says hello."""

    id: TaskId
    attempt: int


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """How far a running task says it is; `total` 0: it does not know."""

    done: float
    total: float = 0.0
    note: Annotated[str, msgspec.Meta(max_length=500)] = ""


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What an attempt that runs has printed, and brought about, since it was last spoken of."""

    id: TaskId
    attempt: int
    output: Annotated[bytes, msgspec.Meta(max_length=MOST_OUTPUT)]
    progress: Progress | None = None
    partials: tuple[bytes, ...] = ()
    """Encoded values."""


class Life(msgspec.Struct, frozen=True):
    """Which life of a worker this is: the machine, its boot, and the start of the unit. Empty where nobody knows."""

    machine: Annotated[str, msgspec.Meta(max_length=64)] = ""
    boot: Annotated[str, msgspec.Meta(max_length=64)] = ""
    invocation: Annotated[str, msgspec.Meta(max_length=64)] = ""

    def outlived_by(self, later: "Life") -> bool:
        """Whether this life is over because `later`, of the same name and host, has begun.

        A machine has one boot at a time, and systemd starts a unit anew only when its last process is gone.
        """
        if not self.machine or self.machine != later.machine:
            return False
        if self.boot != later.boot:
            return True
        return bool(self.invocation and later.invocation) and self.invocation != later.invocation


class Settlement(msgspec.Struct, frozen=True, array_like=True):
    """How one attempt ended, as the worker reports it.

    `value`: the encoded result of a success, else an encoded `Failure`. `token` names the incarnation that held the
    lease when it is not the one that reports (a result that outlived a restart on the worker's disk).
    """

    id: TaskId
    attempt: int
    outcome: Outcome
    value: bytes = b""
    started: float = 0.0
    """Wall clock of the worker, seconds since 1970."""
    wall: float = 0.0
    """Seconds from start to end."""
    cpu: float = 0.0
    """Seconds of processor time, with what the task has started."""
    rss: int = 0
    """Peak memory, KiB: of the child since its birth, or of the task where it ran in a cgroup of its own."""
    token: bytes = b""
    output: bytes = b""
    """The end of what the attempt has printed and logged, at most `MOST_OUTPUT` bytes."""
    wait: float = -1.0
    """Seconds that a task which raised `Retry` wants to wait; negative: as its backoff says."""


class Claim(msgspec.Struct, array_like=True):
    """What the master must know of a leased task to decide how its attempt ends."""

    seq: int
    id: bytes
    attempt: int
    name: str
    queue: str
    retries: int
    backoff: float
    failures: int
    crashes: int
    losses: int
    cancel: int
    mailbox: int
    backoff_cap: float = BACKOFF_CAP
    requires: str = ""
    """Its labels in their order, with line breaks between them: all tasks with the same ones wait in one lane."""
    key: str = ""
    """Its concurrency key."""


class Next(msgspec.Struct, frozen=True):
    """Where a task goes after an attempt: its state, from when it may run, and its counts so far."""

    state: State
    run_at: float
    failures: int
    crashes: int
    losses: int


class Result(msgspec.Struct, frozen=True, array_like=True):
    """The end of a task, as whoever waits sees it. `value` as in `Settlement`."""

    id: TaskId
    state: State
    attempt: int
    value: bytes = b""


class IdMaker:
    """Makes task ids: 48 bits of milliseconds, then random bits, with the version and variant of RFC 9562."""

    def __init__(self, wall: Callable[[], float], randbytes: Callable[[int], bytes]) -> None:
        self._wall = wall
        self._randbytes = randbytes

    def __call__(self) -> bytes:
        """A fresh id, larger than those this maker made in earlier milliseconds."""
        number = int(self._wall() * 1000) << 80 | int.from_bytes(self._randbytes(10), "big")
        return (number & ~_FIXED_BITS | _VERSION_7).to_bytes(16, "big")


_FIXED_BITS = 0xF000 << 64 | 0xC000 << 48
_VERSION_7 = 0x7000 << 64 | 0x8000 << 48


def id_of_key(key: str) -> bytes:
    """The id that an idempotency key stands for: the same key is the same task."""
    return hashlib.blake2b(key.encode(), digest_size=16, person=b"qdist task key").digest()


def id_text(task_id: bytes) -> str:
    """The id as people and the journal write it."""
    return str(uuid.UUID(bytes=task_id))


def id_from_text(text: str) -> bytes:
    """The 16 bytes of an id that a person typed, with or without dashes. ValueError where it is none."""
    return uuid.UUID(text.strip()).bytes
