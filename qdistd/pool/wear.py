"""How worn a child is: what it has run, and how large it has become. A worn one is replaced (see `pool.staff`)."""

import os
from pathlib import Path

BETWEEN_LOOKS = 1.0
"""Seconds between two looks at a child that runs short tasks: one costs as much as one of them."""

PAGE = os.sysconf("SC_PAGE_SIZE")


class Wear:
    """Of the process `pid`. `tasks`, `memory`: how many, and bytes of resident memory, are enough; 0: none ever."""

    def __init__(self, pid: int, tasks: int, memory: int) -> None:
        self._statm = Path(f"/proc/{pid}/statm")
        self._tasks = tasks
        self._memory = memory
        self._look_at = 0.0
        self.ran = 0
        """Tasks that it has run."""
        self.peak = 0
        """KiB of memory that it had at most when it was last weighed."""

    def out(self, now: float) -> bool:
        """Whether it is worn out."""
        if self._tasks and self.ran >= self._tasks:
            return True
        if not self._memory or (self.peak << 10 <= self._memory and now < self._look_at):
            return False
        self._look_at = now + BETWEEN_LOOKS
        return self._resident() > self._memory

    def _resident(self) -> int:
        try:
            return int(self._statm.read_text().split()[1]) * PAGE
        except (OSError, IndexError):  # it has just died
            return 0
