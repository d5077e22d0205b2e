"""Finds children that stand still: a task has stopped its own process (SIGSTOP), or somebody else has.

Nothing else would show that before the time of the task is over. The kernel tells the parent who asks (waitid(2),
WSTOPPED): one system call for each child that has tasks, and what it says stays there for whoever asks next. What a
debugger or a freezer holds is not told, and is left alone.
"""

import asyncio
import os
from collections.abc import Callable, Iterable

from qdistd.pool.deaths import stalled
from qdistd.pool.process import ChildProcess

LOOK = 2.0
"""Seconds between two looks."""

STANDSTILL = 10.0
"""Seconds that a child may stand still: time enough for somebody who stops it to look at it, and lets it go on."""


def stopped_by(pidfd: int) -> int:
    """The signal that a child of this process is stopped by; 0: it is not."""
    told = os.waitid(os.P_PIDFD, pidfd, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    return told.si_status if told else 0


class Vigil:
    """Looks at the children that `children` gives, until `end`. The task that runs in one that stands still is blamed.

    No other can be: a child that does not even take up its tasks is replaced long before (`pace.DEAF`).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, children: Callable[[], Iterable[ChildProcess]]) -> None:
        self._loop = loop
        self._children = children
        self._since: dict[ChildProcess, float] = {}
        """Since when they stand still, as far as we know."""
        self._timer = loop.call_later(LOOK, self._look)

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        self._timer = self._loop.call_later(LOOK, self._look)
        stopped = {child: number for child in self._children() if child.count and (number := stopped_by(child.exited))}
        self._since = {child: self._since.get(child, now) for child in stopped}
        for child, number in stopped.items():
            if now - self._since[child] >= STANDSTILL:
                _condemn(child, number)


def _condemn(child: ChildProcess, number: int) -> None:
    ticket, grant = child.speaker()
    if grant:
        child.fate.verdicts.setdefault(ticket, stalled(grant.name, number, STANDSTILL))
    child.kill()
