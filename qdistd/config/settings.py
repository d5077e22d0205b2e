"""Every setting there is: its kind, its default, what it does. The dataclasses are the table.

    setting(kind, default, explanation) ──> defaults, loading, checking, `qdist config show`, the shipped samples

A field of a `…Config` is a key of the main section ([master], [worker], [client]); a field made by `section` is a
section of that name, and one made by `named` holds all tables below that name. Values are read: seconds as float,
bytes as int, addresses as `Address`, files as `Path`.
"""

# ruff: noqa: RUF009 - `setting` and `section` make dataclass fields, which ruff cannot see
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from qdistd.address import Address
from qdistd.config.defaults import TaskOptions
from qdistd.config.kinds import (
    FOLDER,
    FOLDERS,
    KEY_FILE,
    KEY_FILES,
    LISTEN,
    MASTERS,
    MODULES,
    NAME,
    NAMES,
    STORE,
    Choice,
    Duration,
    Flag,
    Number,
    Size,
)
from qdistd.config.limits import LARGEST_VALUE, WorkerLimits
from qdistd.config.retention import Retention
from qdistd.config.rows import Fault, Named, Setting, listed, named, rows, section, setting
from qdistd.config.share import LABELS, Share
from qdistd.config.tables import MOST_TASKS, QueueConfig, ScheduleConfig
from qdistd.model import MOST_LABELS

FileKind = Literal["master", "worker", "client"]

DEFAULT_INSTANCE = "1"
"""The worker that runs where no instance is named; `DefaultInstance=` of the unit."""

MOST_FILES = 1_000_000
"""Open files the kernel gives a process at most by default (`fs.nr_open`, about a million)."""

MOST_PROCESSES = 1024
"""Children of one worker: more want a second worker, for one loop feeds them all."""


LEVEL = Choice(("debug", "info", "warning", "error"))


@dataclass(frozen=True)
class Log:
    """What is written to the journal."""

    level: str = setting(LEVEL, "info", "The least important records that are written: debug, info, warning or error.")


@dataclass(frozen=True)
class MasterKeys:
    """Which key files are valid for which role. The files are read by `config.keys.master_keys`."""

    admin: tuple[Path, ...] = setting(
        KEY_FILES,
        ["/etc/qdist/keys/admin.key"],
        "Files of the keys that may do everything. Each file holds one key; all files of a list are valid, so that "
        "keys can be changed one after the other, and a file may stand under several roles. While unset, the systemd "
        "credential admin.key is used where there is one.",
    )
    work: tuple[Path, ...] = setting(
        KEY_FILES,
        ["/etc/qdist/keys/work.key"],
        "Files of the keys that may take tasks and report their results: those of the workers. While unset, the "
        "systemd credential work.key is used where there is one.",
    )
    submit: tuple[Path, ...] = setting(
        KEY_FILES,
        ["/etc/qdist/keys/submit.key"],
        "Files of the keys that may submit tasks and wait for results: those of the clients. While unset, the systemd "
        "credential submit.key is used where there is one.",
    )
    weak: bool = setting(
        Flag(),
        False,
        "Whether keys under 32 bytes are accepted (the original script's abc). Only while every listen address is "
        "loopback or a Unix socket.",
    )
    min_digest: str = setting(
        Choice(("md5", "sha256")),
        "md5",
        "The weakest digest a client may answer the handshake with. md5 lets clients of Python before 3.12 in; "
        "sha256 refuses them.",
    )


@dataclass(frozen=True)
class MasterLimits:
    """Limits of the master: bytes, seconds, connections."""

    payload: int = setting(
        Size("1 KiB", LARGEST_VALUE),
        "64 KiB",
        "Size: the largest arguments of one task, encoded. Send the path of a file that is larger.",
    )
    result: int = setting(Size("1 KiB", LARGEST_VALUE), "1 MiB", "Size: the largest result of one task, encoded.")
    lease: float = setting(
        Duration("1s", "1h"),
        "30s",
        "Duration: a worker that says nothing for this long has lost its tasks, and they run again elsewhere.",
    )
    heartbeat: float = setting(
        Duration("100 ms", "10m"),
        "5s",
        "Duration: how often a worker reports even when it has nothing to report. Less than half of lease, so that "
        "one lost report costs nothing.",
    )
    handshake: float = setting(
        Duration("100 ms", "1m"), "5s", "Duration: how long a new connection may take to prove its key."
    )
    connections: int = setting(
        Number(1, MOST_FILES), 10000, "How many connections may be open; more are refused at the door."
    )
    unauthenticated: int = setting(
        Number(1, MOST_FILES), 1000, "How many connections may be open that have not yet proved their key."
    )
    queued: int = setting(
        Number(0, MOST_TASKS),
        0,
        "How many tasks may wait in all queues together; more are refused as overloaded, with a hint when to come "
        "back. 0: no limit.",
    )
    free: int = setting(
        Size("1 MiB", "1024 TiB", optional=True),
        "256 MiB",
        "Size: with less space than this left on the file system of the store, tasks are refused as overloaded, while "
        "results of tasks that run are still stored. Empty: no limit.",
    )


@dataclass(frozen=True)
class MasterCompat:
    """What `get_task_queue().put(x)` of a plain BaseManager client makes."""

    queue: str = setting(NAME, "default", "The queue that tasks of plain BaseManager clients go to.")
    task: str = setting(NAME, "square", "The task that runs on what a plain BaseManager client puts.")


@dataclass(frozen=True)
class MasterTasks:
    """Budgets that hold for every task."""

    crashes: int = setting(
        Number(1, 1_000_000),
        3,
        "How many child processes a task may kill before it is quarantined (set aside until `qdist retry`).",
    )
    losses: int = setting(
        Number(1, 1_000_000),
        10,
        "How many workers may vanish with a task before it is quarantined. More than crashes: most workers vanish "
        "through no fault of the task.",
    )


@dataclass(frozen=True)
class MasterConfig:
    """All settings of a master."""

    listen: tuple[Address, ...] = setting(
        LISTEN,
        ["127.0.0.1:5000"],
        'Addresses to listen on: "host:port", "[IPv6 address]:port" or "unix:/path". Beyond loopback, set up keys '
        "first (`qdist key --help`): the connection is authenticated, not encrypted.",
    )
    store: str = setting(
        STORE,
        "sqlite:///var/lib/qdist/qdist.db",
        "Where tasks and results are kept: sqlite:// and the absolute path of a file.",
    )
    keys: MasterKeys = section(MasterKeys)
    limits: MasterLimits = section(MasterLimits)
    retention: Retention = section(Retention)
    compat: MasterCompat = section(MasterCompat)
    tasks: MasterTasks = section(MasterTasks)
    log: Log = section(Log)
    queue: Mapping[str, QueueConfig] = named(
        QueueConfig,
        "mail",
        "For each queue that is to flow otherwise than by these defaults, a table of its name (here: mail).",
    )
    schedule: Mapping[str, ScheduleConfig] = named(
        ScheduleConfig,
        "nightly",
        "For each task that is to run by the clock, a table of a name of your own (here: nightly). `qdist schedules` "
        "shows them.",
    )

    def faults(self) -> Iterator[Fault]:
        """What is wrong with the settings together."""
        if self.limits.heartbeat >= self.limits.lease / 2:
            keys = (("limits", "heartbeat"), ("limits", "lease"))
            wrong = f"heartbeat ({self.limits.heartbeat:g} s) is too long for lease ({self.limits.lease:g} s)"
            yield Fault(keys, wrong, "heartbeat less than half of lease")
        if not (self.keys.admin or self.keys.work or self.keys.submit):
            yield Fault((("keys", "admin"),), "no role has a key", "a key file for one role at least")
        yield from _weak_beyond_this_host(self.keys.weak, self.listen, ("keys", "weak"), ("master", "listen"))
        for name, schedule in self.schedule.items():
            yield from schedule.faults(name, self.limits.payload)


@dataclass(frozen=True)
class WorkerCompat:
    """What a worker with `protocol = "queue"` does with what it gets."""

    task: str = setting(NAME, "square", 'The task that runs on what the server hands out when protocol is "queue".')


_MASTERS_EXPLAINED = (
    'Addresses of the master: "host:port", "[IPv6 address]:port" or "unix:/path". '
    "With several, the first that answers is taken."
)
_WEAK_EXPLAINED = (
    "Whether a key under 32 bytes is accepted (the original script's abc). Only while every master is on "
    "loopback or a Unix socket."
)


@dataclass(frozen=True)
class WorkerConfig:
    """All settings of one instance of a worker."""

    masters: tuple[Address, ...] = setting(MASTERS, ["127.0.0.1:5000"], _MASTERS_EXPLAINED)
    queues: tuple[str, ...] = setting(NAMES, ["default"], "Queues to take tasks from.")
    order: str = setting(
        Choice(("fair", "listed")),
        "fair",
        'How queues that all have work share this worker: "fair", by the weights that master.toml gives them (a flood '
        'in one never starves another), or "listed": the first one first, and the next only when that is empty.',
    )
    key: Path = setting(
        KEY_FILE,
        "/etc/qdist/keys/work.key",
        "The file of the key shown to the master. While unset, the systemd credential work.key is used where there "
        "is one.",
    )
    weak: bool = setting(Flag(), False, _WEAK_EXPLAINED)
    processes: int = setting(Number(0, MOST_PROCESSES), 0, "How many child processes run tasks. 0: one per CPU.")
    tasks: tuple[str, ...] = setting(MODULES, ["qdistd.tasks"], "Modules whose tasks may run here. Nothing else runs.")
    path: tuple[Path, ...] = setting(
        FOLDERS, [], "Folders to look for these modules in before all others (put first on the import path)."
    )
    state: Path = setting(
        FOLDER,
        "/var/lib/qdist/worker",
        "The folder for what must outlive a restart: results that the master does not have yet. Every instance has "
        "a folder of its own name in it.",
    )
    protocol: str = setting(
        Choice(("qdist", "queue")),
        "qdist",
        'What the master speaks: "qdist", or "queue" for a plain BaseManager server with get_task_queue and '
        "get_result_queue.",
    )
    drain: float = setting(
        Duration("0s", "30d"),
        "30s",
        "Duration: how long running tasks may go on when the worker is told to stop; then they are handed back.",
    )
    labels: tuple[str, ...] = setting(
        LABELS,
        [],
        "What this worker is or has, for tasks that require it: such a task runs on no worker without all of its "
        "labels. While a [[share]] is well, its label share=NAME is there, too.",
    )
    compat: WorkerCompat = section(WorkerCompat)
    limits: WorkerLimits = section(WorkerLimits)
    log: Log = section(Log)
    share: Mapping[str, Share] = listed(
        Share,
        "For each folder that other hosts have as well, maybe elsewhere, a table: an argument share://data/in/x.log "
        "becomes the path of that file on the worker that runs the task. A worker looks at its shares all the time; "
        "one that is not there, or hangs, takes no task that needs it, and says so in `qdist status`. Another file "
        "can change single keys of the share of the same name.",
    )
    instance: str = DEFAULT_INSTANCE

    @property
    def folder(self) -> Path:
        """The folder of this instance alone."""
        return self.state / self.instance

    def faults(self) -> Iterator[Fault]:
        """What is wrong with the settings together."""
        yield from self.limits.faults()
        yield from _weak_beyond_this_host(self.weak, self.masters, ("worker", "weak"), ("worker", "masters"))
        if len(self.labels) + len(self.share) > MOST_LABELS:
            wrong = f"{len(self.labels)} labels and {len(self.share)} shares are too many"
            yield Fault((("worker", "labels"),), wrong, f"{MOST_LABELS} together at most")


@dataclass(frozen=True)
class ClientConfig:
    """All settings of a client."""

    masters: tuple[Address, ...] = setting(
        MASTERS, ["127.0.0.1:5000"], f"{_MASTERS_EXPLAINED} $QDIST_MASTER (with commas) stands above this."
    )
    key: Path = setting(
        KEY_FILE,
        "/etc/qdist/keys/submit.key",
        'The file of the key shown to the master; "~/" is your home. While unset, the systemd credential submit.key '
        "is used where there is one.",
    )
    weak: bool = setting(Flag(), False, _WEAK_EXPLAINED)
    timeout: float = setting(
        Duration("100 ms", "365d"),
        "30s",
        "Duration: how long a call waits for a master that does not answer before it fails with Unavailable.",
    )
    options: TaskOptions = section(TaskOptions)

    def faults(self) -> Iterator[Fault]:
        """What is wrong with the settings together."""
        yield from self.options.faults()
        yield from _weak_beyond_this_host(self.weak, self.masters, ("client", "weak"), ("client", "masters"))


def _weak_beyond_this_host(weak: bool, addresses: Iterable[Address], *keys: tuple[str, str]) -> Iterator[Fault]:
    far = [str(address) for address in addresses if not address.local]
    if weak and far:
        wrong = f"weak keys are for this machine alone, and {', '.join(far)} can be reached from others"
        yield Fault(keys, wrong, "weak = false, or only loopback addresses and Unix sockets")


Config = MasterConfig | WorkerConfig | ClientConfig


class Schema(NamedTuple):
    """The table of one file: `sections` in the order of the sample, `main` the name of the first; then the `named`."""

    main: FileKind
    config: type[Config]
    sections: dict[str, dict[str, Setting]]
    named: dict[str, Named]

    def rows(self, section: str) -> dict[str, Setting]:
        """The keys of a section, or of each table of a kind."""
        return self.sections[section] if section in self.sections else self.named[section].rows

    def listed(self, section: str) -> bool:
        """Whether its tables are written as [[share]], with their name in a key."""
        return section in self.named and self.named[section].listed


def schema(kind: FileKind) -> Schema:
    """The table that the dataclasses of a file are."""
    config: type[Config] = {"master": MasterConfig, "worker": WorkerConfig, "client": ClientConfig}[kind]
    fields = dataclasses.fields(config)
    sections = {field.name: rows(field.metadata["section"]) for field in fields if "section" in field.metadata}
    tables = {field.name: field.metadata["named"] for field in fields if "named" in field.metadata}
    return Schema(kind, config, {kind: rows(config), **sections}, tables)
