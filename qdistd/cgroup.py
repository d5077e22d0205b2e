"""One control group of the kernel's version 2: a folder, whose files are questions and orders (cgroups(7)).

Processes that it starts stay in it, whatever they do to get away from their parent: that is what it is for. Where a
group or the whole file system is gone, its processes are gone too, so nobody here takes that for an error.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

PROCESSES = "cgroup.procs"
"""Lists the processes; a number written to it moves that process here, and 0 the one that writes."""

CONTROLLERS = "cgroup.subtree_control"
"""Which controllers the groups below have. While it names any, processes may live in the leaves only."""


class Cgroup:
    """The group whose folder is `path`. OSError where the kernel refuses, unless it says otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> "Cgroup":
        """Have it exist."""
        self.path.mkdir(exist_ok=True)
        return self

    def below(self, name: str) -> "Cgroup":
        """The group of this name in it."""
        return Cgroup(self.path / name)

    def write(self, file: str, value: str) -> None:
        """Give one order. As a single write, for the kernel takes each as an order of its own."""
        (self.path / file).write_text(value)

    def enter(self) -> None:
        """Move this process here, with all its threads."""
        self.write(PROCESSES, "0")

    def processes(self) -> list[int]:
        """Who lives here, those below not counted."""
        with contextlib.suppress(FileNotFoundError):
            return [int(pid) for pid in (self.path / PROCESSES).read_text().split()]
        return []

    def enable(self, controller: str) -> bool:
        """Give the groups below a controller; False where that is not to be had here."""
        try:
            self.write(CONTROLLERS, f"+{controller}")
        except OSError:
            return False
        return True

    def enabled(self) -> set[str]:
        """The controllers that the groups below have."""
        return set((self.path / CONTROLLERS).read_text().split())

    def count(self, file: str, key: str = "") -> int:
        """A number of a file, that of the line with this `key` where it has several; 0 for none, and for "max"."""
        with contextlib.suppress(OSError):
            for line in (self.path / file).read_text().splitlines():
                name, _, number = line.rpartition(" ")
                if name == key and number.isdecimal():
                    return int(number)
        return 0

    def cpu(self) -> float:
        """Seconds of processor time of all that ever lived here or below."""
        return self.count("cpu.stat", "usage_usec") / 1e6

    def peak(self) -> int:
        """The most memory it ever had at once, KiB, with cached files; 0 where memory is not counted."""
        return self.count("memory.peak") >> 10

    def counts_memory(self) -> bool:
        """Whether the memory of its processes is counted: it takes the controller, and Linux 5.19."""
        return (self.path / "memory.peak").exists()

    def kill(self) -> None:
        """End all processes here and below, and those that they are about to start."""
        try:
            self.write("cgroup.kill", "1")
        except FileNotFoundError:  # before Linux 5.14: one by one, and again by whoever finds that it is not empty
            for group in self._whole():
                _kill(group.processes())

    def remove(self) -> bool:
        """Remove it and what is below; False while processes are left there."""
        try:
            for group in self._whole():
                group.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _whole(self) -> Iterator["Cgroup"]:
        """All below it, the deepest first, and itself."""
        for folder, _, _ in os.walk(self.path, topdown=False):
            yield Cgroup(Path(folder))


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
