"""The cgroup that a child lives in, as the child itself sees it.

    child-1/          the child with all it has started: counted here
      run-1/          where earlier tasks have left something running
      run-2/          where the child lives now

A task with limits of its own is to leave nothing running. So the child looks around after it: whoever else lives in
its group by then was started by that task, and is ended with the group while the child goes on in the next one. To
be sure of that, it shares no group with what other tasks have left. Moving costs some milliseconds, looking around
some microseconds; where nothing was left, as nearly always, it only looks.
"""

import contextlib
import os
import time
from pathlib import Path

from qdistd.cgroup import PROCESSES, Cgroup
from qdistd.child.frames import Care
from qdistd.child.scale import Scale

TWO_LINES = 24
"""Bytes of a list of processes that show whether it has more than one."""


class Cell(Scale):
    """`folder`: that of the child's own group, in the first group of which it lives already."""

    def __init__(self, folder: str) -> None:
        self._whole = Cgroup(Path(folder))
        self._number = 1
        self._run = self._whole.below("run-1")
        self._list = self._open()
        self._left: list[Cgroup] = []
        """Where we have been, and others may be still."""
        self._counts = self._run.counts_memory()
        self._weighed = self._whole
        self._refused = 0
        super().__init__()

    def begin(self, care: Care) -> None:
        """Have a task with limits alone with us; in a fresh group, if its memory is to be counted apart."""
        apart = care is Care.APART and self._counts
        with contextlib.suppress(OSError):  # then it shares our group, as tasks without limits do
            if apart or (care and self._crowded()):
                self._move()
        self._weighed = self._run if apart else self._whole

    def end(self, care: Care) -> None:
        """End what a task with limits has left running."""
        with contextlib.suppress(OSError):  # then it ends with us
            if care and self._crowded():
                self._move().kill()

    def full(self) -> bool:
        """See `Scale.full`. Who was refused one is nobody to be let loose on the next task."""
        before, self._refused = self._refused, self._whole.count("pids.events", "max")
        return self._refused > before

    def alone(self) -> bool:
        """See `Scale.alone`. Others may be where earlier tasks have left them."""
        with contextlib.suppress(OSError):
            return not self._crowded()
        return False

    def peak(self) -> int:
        """Peak memory, KiB: of the task where it is counted apart, else of the child since its birth."""
        return self._weighed.peak() if self._counts else super().peak()

    def others(self) -> float:
        """Seconds of processor time of all in the group but this process, of those that run yet, too."""
        ours = time.process_time()
        return self._whole.cpu() - ours

    def _crowded(self) -> bool:
        return os.pread(self._list, TWO_LINES, 0).count(b"\n") > 1

    def _move(self) -> Cgroup:
        """Go on in a fresh group. The one that we have left."""
        self._number += 1
        fresh = self._whole.below(f"run-{self._number}").make()
        fresh.enter()
        left, self._run = self._run, fresh
        os.close(self._list)
        self._list = self._open()
        self._left = [run for run in (*self._left, left) if not run.remove()]
        return left

    def _open(self) -> int:
        return os.open(self._run.path / PROCESSES, os.O_RDONLY | os.O_CLOEXEC)
