"""What a service says of itself every moment: WATCHDOG=1, STATUS=, and while it stops EXTEND_TIMEOUT_USEC=."""

import asyncio
import logging
import os
from typing import Protocol

from qdistd.systemd import notify, watchdog_seconds

BEAT = 2.0
"""Seconds between two STATUS lines: what `systemctl status` shows is no older than that."""

BEATS_A_WATCHDOG = 3
"""Beats in one period of the watchdog, so that one may be late."""

EXTENSION = 10_000_000
"""Microseconds from each beat of a drain to a SIGKILL, should TimeoutStopSec= be over: a drain that hangs ends soon."""

AFTERWORDS = 15.0
"""Seconds beyond its drain that a service may ask for: last reports, and children that need a SIGKILL."""

log = logging.getLogger(__name__)


class Living(Protocol):
    """Whose pulse it is: see `daemon.Service`."""

    def hang(self) -> str:
        """What makes no progress; empty: all is well."""

    def status(self) -> str:
        """One line for `systemctl status`."""


class Pulse:
    """Says WATCHDOG=1 and STATUS from the event loop, and while stopping asks for more time.

    A service that makes no progress is not spoken for: after WatchdogSec= systemd ends it, and starts it anew.
    """

    def __init__(self, service: Living) -> None:
        self.stopping = False
        self.remark = ""
        self._hang = ""
        self._until = 0.0
        self._service = service
        watchdog = watchdog_seconds(os.environ)
        self._seconds = min(BEAT, watchdog / BEATS_A_WATCHDOG) if watchdog else BEAT
        self._timer: asyncio.TimerHandle | None = None

    def beat(self) -> None:
        """Beat once, and again in a moment. Said without waiting: a busy manager gets the next one."""
        loop = asyncio.get_running_loop()
        self._look()
        if self._hang:
            notify(patience=0, STATUS=self.status())
        else:
            notify(patience=0, WATCHDOG=1, STATUS=self.status())
        if loop.time() < self._until:
            notify(patience=0, EXTEND_TIMEOUT_USEC=EXTENSION)
        self._timer = loop.call_later(self._seconds, self.beat)

    def allow(self, seconds: float) -> None:
        """The service is stopping, and may take so many seconds for it."""
        self.stopping = True
        self._until = asyncio.get_running_loop().time() + seconds + AFTERWORDS

    def status(self) -> str:
        """What the service says, and what a person should know beside it."""
        return self._service.status() + self.remark + (f"; no progress: {self._hang}" if self._hang else "")

    def _look(self) -> None:
        before, self._hang = self._hang, self._service.hang()
        if self._hang and self._hang != before:
            log.error("no progress: %s; without any the watchdog ends this process", self._hang)

    def stop(self) -> None:
        """Beat no more."""
        if self._timer:
            self._timer.cancel()
