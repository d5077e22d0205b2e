"""The words of version 1 of the protocol, as the version before has them. Frozen: never to be changed.

    link = await OldLink.open(…)             a client or a worker of before, on a real socket
    await link.call(Lease(["default"], 1))   asks in its words, and refuses what it does not understand as it would

Questions and answers keep the names that they have today.
"""

import asyncio
import enum
from typing import Any

import msgspec

from qdistd.errors import from_wire
from qdistd.wire.link import Link

VERSION = 1


class State(enum.IntEnum):
    SCHEDULED = 0
    READY = 1
    LEASED = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    QUARANTINED = 6


class Outcome(enum.IntEnum):
    SUCCEEDED = 0
    FAILED = 1
    CRASHED = 2
    RELEASED = 3
    LOST = 4
    CANCELLED = 5


class Task(msgspec.Struct, frozen=True, array_like=True):
    id: bytes
    name: str
    payload: bytes
    queue: str = "default"
    priority: int = 0
    delay: float = 0.0
    run_at: float = 0.0
    timeout: float = 0.0
    retries: int = 0
    backoff: float = 1.0
    key: str = ""
    mailbox: bool = False


class Grant(msgspec.Struct, frozen=True, array_like=True):
    id: bytes
    attempt: int
    name: str
    payload: bytes
    queue: str = "default"
    timeout: float = 0.0


class Held(msgspec.Struct, frozen=True, array_like=True):
    id: bytes
    attempt: int


class Said(msgspec.Struct, frozen=True, array_like=True):
    id: bytes
    attempt: int
    output: bytes


class Settlement(msgspec.Struct, frozen=True, array_like=True):
    id: bytes
    attempt: int
    outcome: Outcome
    value: bytes = b""
    started: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0
    rss: int = 0
    token: bytes = b""
    output: bytes = b""


class Result(msgspec.Struct, frozen=True, array_like=True):
    id: bytes
    state: State
    attempt: int
    value: bytes = b""


class Life(msgspec.Struct, frozen=True):
    machine: str = ""
    boot: str = ""
    invocation: str = ""


class Hello(msgspec.Struct):
    kind: str
    name: str
    version: int = VERSION
    host: str = ""
    pid: int = 0
    token: bytes = b""
    queues: list[str] = []
    processes: int = 0
    held: list[Held] = []
    life: Life = Life()


class Welcome(msgspec.Struct):
    version: int
    lease: float
    heartbeat: float
    payload: int
    result: int
    now: float


class Submit(msgspec.Struct, array_like=True):
    tasks: list[Task]
    watch: bool = True


class Refusal(msgspec.Struct, array_like=True):
    id: bytes
    code: str
    message: str


class Accepted(msgspec.Struct, array_like=True):
    refused: list[Refusal] = []


class Wait(msgspec.Struct, array_like=True):
    ids: list[bytes] = []
    seconds: float = 0.0
    limit: int = 1000


class Finished(msgspec.Struct, array_like=True):
    results: list[Result] = []
    unknown: list[bytes] = []


class Lease(msgspec.Struct, array_like=True):
    queues: list[str]
    count: int
    seconds: float = 0.0


class Orders(msgspec.Struct, array_like=True):
    cancel: list[bytes] = []
    drain: bool = False


class Granted(msgspec.Struct, array_like=True):
    grants: list[Grant] = []
    orders: Orders = msgspec.field(default_factory=Orders)


class Report(msgspec.Struct, array_like=True):
    settled: list[Settlement] = []
    said: list[Said] = []


class Reported(msgspec.Struct, array_like=True):
    stale: list[bytes] = []
    orders: Orders = msgspec.field(default_factory=Orders)


class Bye(msgspec.Struct):
    pass


class Cancel(msgspec.Struct):
    ids: list[bytes]


class Retry(msgspec.Struct):
    ids: list[bytes]


class Cancelled(msgspec.Struct):
    states: dict[bytes, State]
    unknown: list[bytes] = []


class Show(msgspec.Struct):
    id: bytes


class List(msgspec.Struct):
    states: list[State] = []
    queue: str = ""
    name: str = ""
    before: int = 0
    limit: int = 100


class Failure(msgspec.Struct, frozen=True):
    kind: str
    message: str
    type: str = ""
    traceback: str = ""
    number: int = 0


class AttemptView(msgspec.Struct, frozen=True):
    number: int
    outcome: str
    worker: str = ""
    host: str = ""
    started: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0
    rss: int = 0
    failure: Failure | None = None
    output: bytes = b""


class TaskView(msgspec.Struct, frozen=True):
    id: bytes
    name: str
    queue: str
    state: State
    attempt: int
    priority: int = 0
    created: float = 0.0
    run_at: float = 0.0
    finished: float = 0.0
    retries: int = 0
    timeout: float = 0.0
    key: str = ""
    worker: str = ""
    payload: bytes = b""
    value: bytes = b""
    attempts: list[AttemptView] = []


class Listed(msgspec.Struct):
    tasks: list[TaskView]
    before: int = 0


class QueueView(msgspec.Struct, frozen=True):
    name: str
    counts: dict[str, int] = {}


class WorkerView(msgspec.Struct, frozen=True):
    name: str
    host: str
    pid: int
    state: str
    processes: int
    leased: int
    settled: int
    queues: list[str]
    since: float
    seen: float


class Queues(msgspec.Struct):
    pass


class QueueList(msgspec.Struct):
    queues: list[QueueView]


class Workers(msgspec.Struct):
    pass


class WorkerList(msgspec.Struct):
    workers: list[WorkerView]


class Status(msgspec.Struct):
    pass


class StatusView(msgspec.Struct):
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


VERBS: dict[str, tuple[type, type]] = {
    "hello": (Hello, Welcome),
    "submit": (Submit, Accepted),
    "wait": (Wait, Finished),
    "cancel": (Cancel, Cancelled),
    "retry": (Retry, Cancelled),
    "show": (Show, TaskView),
    "list": (List, Listed),
    "queues": (Queues, QueueList),
    "workers": (Workers, WorkerList),
    "status": (Status, StatusView),
    "lease": (Lease, Granted),
    "report": (Report, Reported),
    "bye": (Bye, Reported),
}
"""Word → shapes of question and answer."""

_BY_QUESTION = {question: (word, answer) for word, (question, answer) in VERBS.items()}


class OldLink(Link):
    """One connection of the version before."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._asked_for: dict[int, tuple[asyncio.Future[Any], type]] = {}

    def call(self, question: msgspec.Struct, timeout: float | None = None) -> asyncio.Future[Any]:
        word, answer = _BY_QUESTION[type(question)]
        self._number += 1
        future = self._loop.create_future()
        self._asked_for[self._number] = future, answer
        self._send(msgspec.msgpack.encode((self._number, word, question)))
        return future

    def _answered(self, frame: memoryview) -> None:
        number, status, body = msgspec.msgpack.decode(frame, type=tuple[int, int, msgspec.Raw])
        future, answer = self._asked_for.pop(number)
        if status:
            future.set_exception(from_wire(*msgspec.msgpack.decode(body, type=tuple[str, str])))
            return
        try:
            future.set_result(msgspec.msgpack.decode(body, type=answer))
        except msgspec.MsgspecError as error:
            future.set_exception(error)


def understood(question: msgspec.Struct, kind: type) -> Any:
    """What a master of before makes of a question of today; MsgspecError where it refuses it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(question), type=kind)
