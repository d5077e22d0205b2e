"""What people see of tasks, queues and workers: values that the master answers questions with, and nothing else."""

import msgspec

from qdistd.model import Failure, Progress, State, TaskId


class AttemptView(msgspec.Struct, frozen=True):
    """One attempt as `qdist show` prints it."""

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
    """One task as people see it. `payload`, `value` and `attempts` only where one task was asked for."""

    id: TaskId
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
    soft_timeout: float = 0.0
    backoff: float = 0.0
    backoff_cap: float = 0.0
    expires: float = 0.0
    """Seconds since 1970; 0: never."""
    requires: list[str] = []
    concurrency_key: str = ""
    after: list[TaskId] = []
    if_failed: str = "cancel"
    blocked_by: int = 0
    """How many of `after` it still waits for."""
    failures: int = 0
    crashes: int = 0
    losses: int = 0
    progress: Progress | None = None
    partials: list[bytes] = []
    """The latest ones of the running attempt; `partials_before`: how many there were before them."""
    partials_before: int = 0
    why: str = ""
    """Why it does not run now: one sentence, where there is something to say."""


class QueueView(msgspec.Struct, frozen=True):
    """A queue and how many of its tasks stand where (`counts`: state word → number)."""

    name: str
    counts: dict[str, int] = {}
    paused: float = 0.0
    """Since when (seconds since 1970); 0: it is not."""
    limits: dict[str, str] = {}
    """The limits that hold for it, by the name of their setting."""


class ScheduleView(msgspec.Struct, frozen=True):
    """A schedule. Times in seconds since 1970, 0: never. `last_id` and `last_state` are empty before its first time.

    `last_state` is empty, too, once the retention of that task is over.
    """

    name: str
    calendar: str
    time_zone: str
    task: str
    queue: str
    next: float
    last: float = 0.0
    last_id: bytes = b""
    last_state: State | None = None


class WorkerView(msgspec.Struct, frozen=True):
    """A worker incarnation the master knows. `state`: connected, silent (lease still running), gone."""

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
    labels: list[str] = []
    troubles: list[str] = []
    """What it cannot do just now, in sentences: a share that does not answer."""
    drained: bool = False
