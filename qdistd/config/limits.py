"""What holds for the child processes of a worker: how long, how much, how often."""

from collections.abc import Iterator
from dataclasses import dataclass

from qdistd.config.kinds import Duration, Number, Size
from qdistd.config.rows import Fault, setting

LARGEST_VALUE = "8 MiB"
"""Half a frame of the wire, so that every payload and every result fits into one with all that surrounds it."""

MOST_PIDS = 4_194_304
"""Processes that a Linux system has at most (PID_MAX_LIMIT)."""

MOST_TASKS = 1_000_000_000
"""Tasks of one child: it would take hours of the shortest ones."""


@dataclass(frozen=True)
class WorkerLimits:
    """Limits of one child of a worker: seconds, bytes."""

    timeout: float = setting(
        Duration("100 ms", "3650d"),
        "1h",
        "Duration: how long one attempt of a task may run, where the task itself asks for no other limit.",
    )
    soft_timeout: float = setting(
        Duration("0s", "3650d"),
        "0s",
        "Duration: after how long a task gets the exception qdistd.SoftTimeout, where it asks for no other limit, so "
        "that it can come to an end by itself before timeout ends it. 0s: never.",
    )
    grace: float = setting(
        Duration("0s", "10m"),
        "2s",
        "Duration: how long a task may take to tidy up when it is told to end (SIGTERM, and qdistd.Cancelled in its "
        "code), because it was cancelled or its worker stops. Then it is killed.",
    )
    memory: int = setting(
        Size("16 MiB", "1024 TiB", optional=True),
        "",
        'Size: how much memory one child process may have, such as "512 MiB". Empty: no limit. Where the worker has a '
        "cgroup to divide (Delegate=yes of its unit), all that the child has started counts too, and what is over the "
        "limit is killed; elsewhere the child alone counts, and gets a MemoryError.",
    )
    pids: int = setting(
        Number(0, MOST_PIDS),
        0,
        "How many processes and threads one child process may have at once, itself and all that it has started; 0: no "
        "limit. One more is refused (BlockingIOError, or RuntimeError for a thread), and the child is replaced after "
        "that task. Needs a cgroup to divide, too; elsewhere nothing counts them by child, and TasksMax= or the nproc "
        "limit of the worker's user has to do.",
    )
    result: int = setting(Size("1 KiB", LARGEST_VALUE), "1 MiB", "Size: the largest result of one task, encoded.")
    child_tasks: int = setting(
        Number(0, MOST_TASKS),
        0,
        "After how many tasks a child process is replaced by a fresh one; 0: never. The next one takes over when it "
        "stands, so that no task waits for it: until then the old one runs some more.",
    )
    child_memory: int = setting(
        Size("16 MiB", "1024 TiB", optional=True),
        "",
        'Size: a child process that has more memory than this after a task, such as "1 GiB", is replaced by a fresh '
        "one in the same way. Empty: never. For tasks that leak: unlike memory it ends none of them.",
    )

    def faults(self) -> Iterator[Fault]:
        """What is wrong with the settings together."""
        if self.soft_timeout >= self.timeout:
            keys = (("limits", "soft_timeout"), ("limits", "timeout"))
            wrong = f"soft_timeout ({self.soft_timeout:g} s) is no shorter than timeout ({self.timeout:g} s)"
            yield Fault(keys, wrong, "soft_timeout less than timeout")
