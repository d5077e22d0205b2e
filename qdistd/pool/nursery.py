"""Children on their way: started, watched until they stand, and tried again at ever longer intervals if they fail.

want ──> spawn ──ready──> stands(child)
           ^  └──dead, late, or without any module──> failed(reason)
           └──────────── pause, twice as long each time ──┘
"""

import asyncio
import logging
from collections.abc import Callable

from qdistd.child.frames import Ready
from qdistd.pool.cgroups import Ground
from qdistd.pool.inlet import Garbled
from qdistd.pool.process import ChildProcess
from qdistd.pool.settings import PoolSettings
from qdistd.pool.spawn import spawn

SLOWEST_START = 60.0
"""Seconds in which a child must have imported its modules: they may be large and come over the network."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
"""Seconds between two attempts at a child that cannot start: soon after a hiccup, and cheap for hours."""


class Birth:
    """A child that does not stand yet."""

    def __init__(self, settings: PoolSettings, deadline: asyncio.TimerHandle) -> None:
        self.settings = settings
        self.deadline = deadline
        self.fault = ""
        """Why we have killed it."""
        self.dismissed = False
        """Whether we have killed it for no fault of its own."""


class Nursery:
    """`stands` is told of each child that is ready, `failed` of each that will never be, with the reason."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ground: Ground | None,
        log: logging.Logger,
        stands: Callable[[ChildProcess, PoolSettings, Ready], None],
        failed: Callable[[PoolSettings, str], None],
    ) -> None:
        self._loop = loop
        self._ground = ground
        self._log = log
        self._stands = stands
        self._failed = failed
        self._births: dict[ChildProcess, Birth] = {}
        self._settings: PoolSettings | None = None
        self._wanted = 0
        self._failures = 0
        self._pause: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None

    def want(self, settings: PoolSettings, count: int) -> None:
        """Have `count` children of this kind on their way, and no others."""
        if settings is not self._settings:
            self._dismiss()
        self._settings, self._wanted = settings, count
        self._launch()

    def stumble(self, settings: PoolSettings, reason: str) -> None:
        """A child that stood was of no use: that counts as if it had failed to start."""
        self._failures += 1
        if self._pause is None:
            seconds = min(FIRST_PAUSE * 2 ** min(self._failures, 16), LONGEST_PAUSE)
            self._pause = self._loop.call_later(seconds, self._go_on)
        self._failed(settings, reason)

    def praise(self) -> None:
        """A child has done its work: whatever was wrong before is over."""
        self._failures = 0

    async def close(self) -> None:
        """End them all; return when they are gone."""
        self._wanted = 0
        self._dismiss()
        if self._births:
            self._empty = self._loop.create_future()
            await self._empty
            self._empty = None

    def _dismiss(self) -> None:
        """End all that are on their way, and forget past failures."""
        for child, birth in self._births.items():
            birth.dismissed = True
            child.kill()
        self._failures = 0
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _go_on(self) -> None:
        self._pause = None
        self._launch()

    def _launch(self) -> None:
        """Start what is wanted: all at once, or one at a time while it is not known to work."""
        settings = self._settings
        while settings and self._pause is None and self._coming() < self._allowed():
            self._start(settings)

    def _allowed(self) -> int:
        return min(self._wanted, 1) if self._failures else self._wanted

    def _coming(self) -> int:
        return sum(not birth.dismissed for birth in self._births.values())

    def _start(self, settings: PoolSettings) -> None:
        try:
            child = ChildProcess(spawn(settings, self._ground), settings, self._loop, self._log)
        except OSError as error:
            self.stumble(settings, f"no child can be started: {error}")
            return
        self._births[child] = Birth(settings, self._loop.call_later(SLOWEST_START, self._late, child))
        self._loop.add_reader(child.results, self._speaks, child)
        self._loop.add_reader(child.exited, self._died, child)

    def _speaks(self, child: ChildProcess) -> None:
        birth = self._births[child]
        try:
            ready = child.read_ready()
        except Garbled:
            self._refuse(child, "a child said nonsense while it started")
            return
        if child.ended:
            self._loop.remove_reader(child.results)
        if ready is None or birth.fault or birth.dismissed:
            return
        if len(ready.broken) == len(birth.settings.modules):
            self._refuse(child, f"no module of tasks can be imported: {faults_of(ready)}")
            return
        self._leave(child)
        self._stands(child, birth.settings, ready)

    def _late(self, child: ChildProcess) -> None:
        self._refuse(child, f"a child took longer than {SLOWEST_START:g} seconds to import its modules")

    def _refuse(self, child: ChildProcess, fault: str) -> None:
        """Its death, which follows, tells the rest."""
        self._births[child].fault = fault
        child.kill()

    def _died(self, child: ChildProcess) -> None:
        birth = self._leave(child)
        death = child.bury(self._loop.time(), 0.0).death
        if not birth.dismissed:
            reason = birth.fault or f"a child {death.words} while it imported its modules"
            self.stumble(birth.settings, reason)
        if self._empty and not self._empty.done() and not self._births:
            self._empty.set_result(None)

    def _leave(self, child: ChildProcess) -> Birth:
        self._loop.remove_reader(child.results)
        self._loop.remove_reader(child.exited)
        birth = self._births.pop(child)
        birth.deadline.cancel()
        return birth


def faults_of(ready: Ready) -> str:
    """The modules that a child could not import, and why."""
    return "; ".join(f"{name} ({why})" for name, why in ready.broken.items()) or "none is named"
