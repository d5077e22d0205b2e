"""The one thread of a client: an event loop that runs a session until it is closed, abandoned, or the program ends.

any thread ──soon, post──> [ loop: Session.run ] ──end, leave──> joined
"""

import asyncio
import concurrent.futures
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from qdistd.client.session import Session
from qdistd.errors import QdistError

T = TypeVar("T")

GOODBYE = 5.0
"""Seconds to wait for the thread after it was told to end: it needs one for an orderly end of its connection."""


class SessionThread:
    """Runs `session` from the start on. It knows nothing of who uses it, so that these can be forgotten."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="qdist client", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(asyncio.CancelledError), asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._session.run())

    def here(self) -> bool:
        """Whether this thread is the one that asks."""
        return self._thread is threading.current_thread()

    def soon(self, function: Callable[..., None], *args: Any) -> None:
        """Have the loop call a function; nothing happens when it has ended."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *args)

    def post(self, coroutine: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Have the loop run a coroutine; cancelled when it has ended."""
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            never: concurrent.futures.Future[T] = concurrent.futures.Future()
            never.cancel()
            never.set_running_or_notify_cancel()
            return never

    def end(self) -> None:
        """Close the session, and wait for the thread."""
        self.soon(self._session.close)
        if not self.here():
            self._thread.join(GOODBYE)

    def leave(self, patience: float) -> None:
        """The program ends, or nobody holds the client any more: store what is on its way, for `patience` seconds."""
        if self._pid != os.getpid() or not self._thread.is_alive():
            return
        if len(self._session.outbox) and not self.here():
            try:
                self.post(self._session.flush()).result(patience)
            except (QdistError, TimeoutError) as error:
                self._complain(error)
        self.end()

    def _complain(self, error: Exception) -> None:
        session = self._session
        why = session.unavailable() if session.down_since is not None else error
        left = f" ({len(session.outbox)} of them are still on their way)" if len(session.outbox) else ""
        sys.stderr.write(
            f"qdist: not all submitted tasks are stored{left}: {str(why) or 'the master does not answer'}\n"
        )
