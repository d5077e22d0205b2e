"""The table of verbs: what may be said on a native connection, by whom, and the shape of question and answer.

    frame    = length (4 bytes, big-endian) + MessagePack
    request  = [number, verb, question]           number: chosen by the client, comes back in the answer
    answer   = [number, 0, answer]  or  [number, 1, [error code, sentence for a person]]

Requests may be pipelined; answers come in any order. Every verb may be said twice with the effect of once. Plain
data only. Maps ignore keys they do not know and arrays ignore what is appended, so neighbouring versions talk.
"""

import enum
from typing import Annotated

import msgspec

from qdistd.model import (
    Count,
    Grant,
    Held,
    Labels,
    Life,
    Merged,
    Name,
    Result,
    Said,
    Settlement,
    State,
    Task,
    TaskId,
)
from qdistd.upkeep import Backup, Piece, Purge, Purged
from qdistd.views import QueueView, ScheduleView, TaskView, WorkerView

VERSION = 2
"""Grows when one side must know what the other one understands: see `neighbours`. Goes with `Hello` and `Welcome`."""

LONGEST_POLL = 60.0
"""Seconds a long poll may be parked: short enough that a vanished peer is found out by the next one."""

LARGEST_BATCH = 1000
"""Tasks, ids or settlements in one request: bounds the length of one transaction."""

MOST_LINKS = 10_000
"""Predecessors that the tasks of one `Submit` name together: each is looked up and written down, some 20 µs."""

MOST_QUEUES = 10_000
"""Queues that one worker may serve: each is looked at with every lease."""

LARGEST_FRAME = 16 * 1024 * 1024
"""Bytes of one frame: bounds the memory of one connection. Whoever fills a batch stays below it."""

UPGRADE = "qdist"
"""The method of the one stock-shaped request that turns a connection native."""

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding the bytes of somebody else may raise: wrong shape or end, text that is none, bottomless nesting."""

Token = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Ids = Annotated[list[TaskId], msgspec.Meta(max_length=LARGEST_BATCH)]
QueueName = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"\A[^\n]*\Z")]
"""In a store a line break after it begins the labels that tasks require."""
QueueNames = Annotated[list[QueueName], msgspec.Meta(max_length=MOST_QUEUES)]
Troubles = Annotated[list[Annotated[str, msgspec.Meta(max_length=500)]], msgspec.Meta(max_length=100)]
Poll = Annotated[float, msgspec.Meta(ge=0, le=LONGEST_POLL)]


class Role(enum.StrEnum):
    """What a key may do. One key may carry several roles; `ADMIN` may say everything."""

    SUBMIT = "submit"
    WORK = "work"
    ADMIN = "admin"
    ANY = "any"


class Hello(msgspec.Struct):
    """First words of a connection. `token`: the secret name of a worker incarnation, 16 bytes; `held`: all it has."""

    kind: str
    name: Name
    version: int = VERSION
    host: Annotated[str, msgspec.Meta(max_length=255)] = ""
    pid: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0
    token: bytes = b""
    queues: QueueNames = []
    processes: Count = 0
    held: list[Held] = []
    life: Life = Life()
    labels: Labels = ()
    troubles: Troubles = []
    epoch: Annotated[bytes, msgspec.Meta(max_length=16)] = b""
    """In which the master has leased what it holds, as `Welcome` said; empty: it holds nothing, or knows of none."""


class Welcome(msgspec.Struct):
    """The master's answer to `Hello`. `lease` and `heartbeat` in seconds, `payload` and `result` in bytes."""

    version: int
    lease: float
    heartbeat: float
    payload: int
    result: int
    now: float
    epoch: bytes = b""
    """The time line of the store. Where it is not that of the `Hello`, the worker has no seat: what it holds is void,
    and it comes back with a token that nobody knows yet."""


class Submit(msgspec.Struct, array_like=True):
    """Store these tasks. With `watch`, their results are for the next `Wait` of this connection."""

    tasks: Annotated[list[Task], msgspec.Meta(max_length=LARGEST_BATCH)]
    watch: bool = True
    atomic: bool = False
    """Where one is refused, none is stored."""


class Refusal(msgspec.Struct, array_like=True):
    """One task of a `Submit` that was not stored, and why (`errors` code, sentence)."""

    id: TaskId
    code: str
    message: str
    after: float = 0.0
    """Seconds after which it may be worth trying again; 0: it is not."""


class Accepted(msgspec.Struct, array_like=True):
    """Every task of the `Submit` is on the master's disk, but those refused."""

    refused: list[Refusal] = []
    merged: list[Merged] = []
    """Those that are another task: its result is the one that is watched."""


class Wait(msgspec.Struct, array_like=True):
    """Watch `ids` too, and answer as soon as anything watched has ended, or after `seconds` with nothing.

    A connection has one parked `Wait`: a new one has the old answered empty.
    """

    ids: Ids = []
    seconds: Poll = 0.0
    limit: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_BATCH)] = LARGEST_BATCH


class Finished(msgspec.Struct, array_like=True):
    """Results, each said once to this connection; `unknown`: ids the master has no task for."""

    results: list[Result] = []
    unknown: list[TaskId] = []


class Lease(msgspec.Struct, array_like=True):
    """Up to `count` tasks of `queues` (in this order of preference), or wait `seconds` for them.

    `count` 0 waits for orders alone. A connection has one parked `Lease`: a new one has the old answered empty.
    """

    queues: QueueNames
    count: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_BATCH)]
    seconds: Poll = 0.0
    idle: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_BATCH)] = LARGEST_BATCH
    """Children with nothing to do: of a queue with limits no more is granted, as those begin at once."""
    fair: bool = False
    """The queues share this worker by their weights, and are not served in this order."""


class Orders(msgspec.Struct, array_like=True):
    """What the master wants of a worker; rides home on the answers to `Lease` and `Report`."""

    cancel: list[TaskId] = []
    drain: bool = False


class Granted(msgspec.Struct, array_like=True):
    """Leased tasks, theirs to run until settled, released or the lease ends."""

    grants: list[Grant] = []
    orders: Orders = msgspec.field(default_factory=Orders)


class Report(msgspec.Struct, array_like=True):
    """Settle attempts and renew the lease of all the rest this worker holds. An empty one is a heartbeat."""

    settled: Annotated[list[Settlement], msgspec.Meta(max_length=LARGEST_BATCH)] = []
    said: Annotated[list[Said], msgspec.Meta(max_length=LARGEST_BATCH)] = []
    """For those who look at a task while it runs. The master has it in memory only, until the attempt ends."""


class Reported(msgspec.Struct, array_like=True):
    """The settlements are on disk, but the `stale` ones: another attempt holds, or held, those tasks."""

    stale: list[TaskId] = []
    orders: Orders = msgspec.field(default_factory=Orders)


class Bye(msgspec.Struct):
    """A worker goes on purpose: what it still holds goes back to its queue at once and at no cost."""


class Relabel(msgspec.Struct):
    """What a worker has, and what it cannot do just now, has changed. Both lists are whole."""

    labels: Labels = ()
    troubles: Troubles = []


class Cancel(msgspec.Struct):
    """Cancel tasks: queued ones at once, running ones by order to their worker."""

    ids: Ids


class Cancelled(msgspec.Struct):
    """The state of each task after the `Cancel`; one that is still leased ends within moments."""

    states: dict[TaskId, State]
    unknown: list[TaskId] = []


class Show(msgspec.Struct):
    """Everything about one task."""

    id: TaskId


class List(msgspec.Struct):
    """Newest tasks first, `before` a position of an earlier page (0: from the newest)."""

    states: Annotated[list[State], msgspec.Meta(max_length=len(State))] = []
    queue: str = ""
    name: str = ""
    before: Annotated[int, msgspec.Meta(ge=0, lt=2**62)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_BATCH)] = 100


class Listed(msgspec.Struct):
    """One page; `before` is where the next one starts (0: that was all)."""

    tasks: list[TaskView]
    before: int = 0


class Queues(msgspec.Struct):
    """All queues and their counts."""


class QueueList(msgspec.Struct):
    """Answer to `Queues`."""

    queues: list[QueueView]


class Workers(msgspec.Struct):
    """All workers the master has heard of."""


class WorkerList(msgspec.Struct):
    """Answer to `Workers`."""

    workers: list[WorkerView]


class Schedules(msgspec.Struct):
    """All schedules of the master."""


class ScheduleList(msgspec.Struct):
    """Answer to `Schedules`."""

    schedules: list[ScheduleView]


class Retry(msgspec.Struct):
    """Put failed, cancelled or quarantined tasks back to `ready` with fresh budgets."""

    ids: Ids


class Pause(msgspec.Struct):
    """Lease nothing more of these queues; `on` false: do again. What runs is left alone. Outlives restarts."""

    queues: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=LARGEST_BATCH)]
    on: bool = True


class Drain(msgspec.Struct):
    """Lease nothing more to these workers, or to all workers of these hosts; `on` false: do again.

    They finish what they run and hand the rest back. It holds for whoever has the name later, too.
    """

    names: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=LARGEST_BATCH)]
    on: bool = True


class Switched(msgspec.Struct):
    """Answer to `Pause` and `Drain`: those that were not so before, and those that nobody has heard of."""

    changed: list[str]
    unknown: list[str] = []


class Stuck(msgspec.Struct, frozen=True):
    """Tasks that are ready and that nobody can take, and why."""

    queue: str
    requires: list[str]
    tasks: int
    reason: str


class Status(msgspec.Struct):
    """How the master is."""


class StatusView(msgspec.Struct):
    """Answer to `Status`. Times in seconds, sizes in bytes."""

    version: str
    pid: int
    host: str
    started: float
    now: float
    store: str
    store_bytes: int
    listen: list[str]
    connections: int
    queues: list[QueueView]
    workers: list[WorkerView]
    commits: int
    submitted: int
    settled: int
    stuck: list[Stuck] = []
    drained: list[str] = []
    overload: str = ""
    """Why no task is taken just now, where that is so."""


class Verb(msgspec.Struct, frozen=True):
    """One row of the table: the word, the role that may say it, the shapes of question and answer."""

    word: str
    role: Role
    question: type
    answer: type


VERBS: dict[str, Verb] = {
    verb.word: verb
    for verb in (
        Verb("hello", Role.ANY, Hello, Welcome),
        Verb("submit", Role.SUBMIT, Submit, Accepted),
        Verb("wait", Role.SUBMIT, Wait, Finished),
        Verb("cancel", Role.SUBMIT, Cancel, Cancelled),
        Verb("retry", Role.SUBMIT, Retry, Cancelled),
        Verb("pause", Role.ADMIN, Pause, Switched),
        Verb("drain", Role.ADMIN, Drain, Switched),
        Verb("purge", Role.ADMIN, Purge, Purged),
        Verb("backup", Role.ADMIN, Backup, Piece),
        Verb("show", Role.SUBMIT, Show, TaskView),
        Verb("list", Role.SUBMIT, List, Listed),
        Verb("queues", Role.SUBMIT, Queues, QueueList),
        Verb("workers", Role.SUBMIT, Workers, WorkerList),
        Verb("schedules", Role.SUBMIT, Schedules, ScheduleList),
        Verb("status", Role.SUBMIT, Status, StatusView),
        Verb("lease", Role.WORK, Lease, Granted),
        Verb("report", Role.WORK, Report, Reported),
        Verb("bye", Role.WORK, Bye, Reported),
        Verb("labels", Role.WORK, Relabel, Reported),
    )
}

BY_QUESTION: dict[type, Verb] = {verb.question: verb for verb in VERBS.values()}
"""The verb that a question belongs to: callers pass a question and nothing else."""
