"""How long tasks take, and so how many a child should have before it.

A child that runs short tasks needs the next ones at hand, or it waits longer than it works. Behind a long task
nothing should wait: another child, or another worker, may be free.
"""

import select

from qdistd.child.frames import TICKET

SHORT = 0.005
"""Seconds. Tasks that take longer, and those of which nothing is known, have a child for themselves."""

LONG = 0.05
"""Seconds that a task may run before those behind it go to other children."""

DEAF = 5.0
"""Seconds in which a child takes up its next task, however busy the machine is. One that does not is stopped, or
stuck in what an earlier task has left behind."""

AHEAD = 0.025
"""Seconds of work that a child has before it at most: several round trips to the master, and no long wait."""

MOST = select.PIPE_BUF // TICKET.size
"""Tasks that a child has before it at most (512): all their tickets can then be written at once."""

OVERHEAD = 20e-6
"""Seconds that any task costs on its way into a child and out again."""

MEMORY = 1 / 8
"""Weight of the latest task of a name: a change shows after some ten tasks."""

LONG_MEMORY = 1 / 32
"""Weight of the latest task of any name."""

MOST_NAMES = 10_000
"""Names that are remembered: more are an accident or an attack, and then all are learned anew."""

ALONE = float("inf")
"""The cost of a task that is to have a child for itself."""


class Pace:
    """Learns from tasks that have ended. Times are seconds."""

    def __init__(self) -> None:
        self._by_name: dict[str, float] = {}
        self._typical = ALONE

    def cost(self, name: str) -> float:
        """How long a task of this name will probably keep a child; `ALONE` where that is long, or unknown."""
        cost = self._by_name.get(name, ALONE)
        return cost if cost <= SHORT else ALONE

    def quota(self) -> int:
        """How many tasks, of those that come these days, an idle child should get. At least 1."""
        return 1 if self._typical > SHORT else min(int(AHEAD / self._typical), MOST)

    def learn(self, name: str, seconds: float) -> None:
        """A task of this name took so long."""
        cost = seconds + OVERHEAD
        if len(self._by_name) >= MOST_NAMES and name not in self._by_name:
            self._by_name.clear()
        before = self._by_name.get(name, cost)
        self._by_name[name] = before + (cost - before) * MEMORY
        typical = self._typical if self._typical < ALONE else cost
        self._typical = typical + (cost - typical) * LONG_MEMORY
