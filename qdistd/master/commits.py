"""Where the fsync of a transaction happens: in a thread of its own, so that the loop goes on receiving."""

import asyncio
import queue
import threading
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


class ThreadCommits:
    """One thread that does nothing but commit. The statements themselves stay on the loop's thread.

    Were they run here as well, each of them would hand the interpreter lock to and fro with the loop: SQLite
    statements of a few microseconds would wait for a switch interval each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: queue.SimpleQueue[tuple[Commit, Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def __call__(self, commit: Commit, done: Done) -> None:
        self._work.put((commit, done))

    def close(self) -> None:
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            commit, done = job
            self._loop.call_soon_threadsafe(done, _outcome(commit))


def _outcome(commit: Commit) -> BaseException | None:
    try:
        commit()
    except Exception as error:  # noqa: BLE001 - handed over: the loop decides, and it decides to end the process
        return error
    return None
