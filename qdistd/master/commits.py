"""Where the fsync of a transaction happens.

    quick disk   on the loop: the two hand-overs to a thread and back would cost more than the fsync itself
    slow disk    in a thread of its own, so that the loop goes on receiving

Which it is, the last commits tell.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

Commit = Callable[[], None]
Done = Callable[[BaseException | None], None]


class Commits(Protocol):
    """Runs a commit and calls `done` on the loop with what it raised, or None."""

    def __call__(self, commit: Commit, done: Done) -> None:
        """Start the commit; one at a time."""

    def close(self) -> None:
        """Let go of threads."""


QUICK = 0.001
"""Seconds: a commit below this holds the loop for less than one batch of requests takes anyway."""

PROBE = 64
"""Commits of a slow disk after which one is tried on the loop again, if the one before was quick."""


class DiskCommits:
    """Commits on the loop while the disk is quick, and in one thread of its own while it is not.

    The statements themselves stay on the loop's thread either way.

    Were they run here as well, each of them would hand the interpreter lock to and fro with the loop: SQLite
    statements of a few microseconds would wait for a switch interval each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: queue.SimpleQueue[tuple[Commit, Done] | None] = queue.SimpleQueue()
        self._slow = 0
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def __call__(self, commit: Commit, done: Done) -> None:
        if self._slow:
            self._work.put((commit, done))
        else:
            done(self._timed(commit))

    def close(self) -> None:
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            commit, done = job
            self._loop.call_soon_threadsafe(done, self._timed(commit))

    def _timed(self, commit: Commit) -> BaseException | None:
        """Commit, and learn from how long that took."""
        began = time.monotonic()
        error = _outcome(commit)
        quick = time.monotonic() - began < QUICK
        self._slow = max(0, self._slow - 1) if quick else PROBE
        return error


def _outcome(commit: Commit) -> BaseException | None:
    try:
        commit()
    except Exception as error:  # noqa: BLE001 - handed over: the loop decides, and it decides to end the process
        return error
    return None
