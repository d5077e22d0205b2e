"""Long work for one asker: in a thread of its own, one thing after the other, each end told on the loop."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

from qdistd.errors import QdistError

Done = Callable[[Any, QdistError | None], None]


class Clerk:
    """The thread. What is still to be done when the process ends is not waited for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], Any], done: Done) -> None:
        """Work, then call `done` on the loop with what came of it, or with the error."""
        self._work.put((work, done))

    def leave(self) -> None:
        """End when everything is done that was asked for."""
        self._work.put(None)

    def join(self) -> None:
        """Return when that is so."""
        self._thread.join()

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            work, done = job
            try:
                result, trouble = work(), None
            except QdistError as error:
                result, trouble = None, error
            self._loop.call_soon_threadsafe(done, result, trouble)
