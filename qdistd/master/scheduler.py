"""Wakes the schedules: at the start, after a reload, and whenever one of them is due.

timer ──> Job(Schedules.tick) ──commit──> timer for what is due next
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from qdistd import protocol as say
from qdistd.broker.schedules import AT_ONCE, Schedule, Schedules
from qdistd.errors import QdistError
from qdistd.master.guest import Guest
from qdistd.master.writer import Job, Writer

AGAIN = 1.0
"""Seconds after which a look that failed is taken again: the disk may be full."""


class Scheduler:
    """`verbs` serves what people ask about schedules."""

    def __init__(self, schedules: Schedules, *, loop: asyncio.AbstractEventLoop, log: logging.Logger) -> None:
        self.writer: Writer
        self._schedules = schedules
        self._loop = loop
        self._log = log
        self._timer: asyncio.TimerHandle | None = None
        self.verbs: dict[str, Callable[[Guest, int, Any], None]] = {"schedules": self._say}

    def start(self, schedules: Iterable[Schedule]) -> None:
        """Take up these schedules where the master before has left them."""
        self._look(lambda: self._schedules.start(schedules))

    def reload(self, schedules: Iterable[Schedule]) -> None:
        """Go on with these."""
        self._look(lambda: self._schedules.reload(schedules))

    def stop(self) -> None:
        """Submit nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, look: Callable[[], float]) -> None:
        """Have this done in a transaction, and then always what is due. Nothing else happens until it is done."""
        self.stop()

        def failed(error: QdistError) -> None:
            self._log.error("the schedules wait: %s", error)
            self._set_timer(self._loop.time() + AGAIN, look)

        self.writer.put(Job(look, lambda due: self._set_timer(due, self._schedules.tick), failed, AT_ONCE))

    def _set_timer(self, due: float, look: Callable[[], float]) -> None:
        self.stop()
        if due != float("inf"):
            self._timer = self._loop.call_at(due, self._look, look)

    def _say(self, guest: Guest, number: int, _: say.Schedules) -> None:
        self.writer.put(
            Job(
                self._schedules.views,
                lambda views: guest.peer.answer(number, say.ScheduleList(views)),
                lambda error: guest.peer.fail(number, error.code, str(error)),
            )
        )
