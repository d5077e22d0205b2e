"""What the master remembers of one connection: its seat, its parked polls, the results it waits for.

watch(id) ──> task ends ──> pending ──> the parked Wait is answered, or the next one finds it there
"""

import asyncio
from collections import deque
from collections.abc import Callable

from qdistd.broker import Seat
from qdistd.master.lobby import Parked
from qdistd.model import Grant, Result
from qdistd.protocol import VERSION, Finished
from qdistd.wire.server import Peer

PENDING_BYTES = 8 * 1024 * 1024
"""Results kept in memory for a connection that does not ask for them; beyond it only their ids, read back later."""

ANSWER_BYTES = 4 * 1024 * 1024
"""Results in one answer: well inside the largest frame."""


class Poll:
    """A parked question: its number, and the timer that answers it with nothing."""

    __slots__ = ("limit", "number", "timer")

    def __init__(self, number: int, limit: int, timer: asyncio.TimerHandle) -> None:
        self.number = number
        self.limit = limit
        self.timer = timer


class Guest:
    """The state of one native connection."""

    def __init__(self, peer: Peer, loop: asyncio.AbstractEventLoop) -> None:
        self.peer = peer
        self.seat: Seat | None = None
        self.lease: tuple[int, Parked | None, asyncio.TimerHandle] | None = None
        self.watched: set[bytes] = set()
        self.version = VERSION
        """Of the protocol, as its hello says: what may be said to it, see `neighbours`."""
        self.token = b""
        """The worker incarnation that said hello here."""
        self._loop = loop
        self._pending: deque[Result] = deque()
        self._pending_bytes = 0
        self._wait: Poll | None = None
        self.overflow: list[bytes] = []
        self.grants: list[Grant] = []

    # -- results

    def push(self, result: Result) -> None:
        """A watched task has ended."""
        self.watched.discard(result.id)
        if self._pending_bytes > PENDING_BYTES:
            self.overflow.append(result.id)
            return
        self._pending.append(result)
        self._pending_bytes += len(result.value)

    def take_overflow(self, limit: int) -> list[bytes]:
        """Ids whose results are to be read (again), once all that is in memory has been taken."""
        if self._pending:
            return []
        ids = self.overflow[:limit]
        del self.overflow[:limit]
        return ids

    def wait(self, number: int, limit: int, seconds: float) -> None:
        """Answer with what is pending, or park the question; an older parked one is answered empty."""
        self._answer_wait([])
        if self._pending or seconds <= 0:
            self.peer.answer(number, Finished(self._take(limit)))
            return
        timer = self._loop.call_later(seconds, self._answer_wait, [])
        self._wait = Poll(number, limit, timer)

    def flush(self) -> None:
        """Answer the parked `Wait`, if there is one, with what is pending."""
        if self._wait is not None and self._pending:
            self._answer_wait(self._take(self._wait.limit))

    def _answer_wait(self, results: list[Result]) -> None:
        if self._wait is None:
            return
        poll, self._wait = self._wait, None
        poll.timer.cancel()
        self.peer.answer(poll.number, Finished(results))

    def _take(self, limit: int) -> list[Result]:
        taken: list[Result] = []
        size = 0
        while self._pending and len(taken) < limit and size < ANSWER_BYTES:
            result = self._pending.popleft()
            size += len(result.value)
            taken.append(result)
        self._pending_bytes -= size
        return taken

    # -- leases

    def park_lease(self, number: int, parked: Parked | None, seconds: float, expire: Callable[[], None]) -> None:
        """Remember the parked `Lease`. `expire` is called when its seconds are over."""
        self.lease = number, parked, self._loop.call_later(seconds, expire)

    def unpark_lease(self) -> int | None:
        """Forget the parked `Lease`; its number, so that it can be answered."""
        if self.lease is None:
            return None
        number, _, timer = self.lease
        self.lease = None
        timer.cancel()
        return number

    def take_grants(self) -> list[Grant]:
        """Grants that came while no lease was parked: the older lease had just been replaced."""
        grants, self.grants = self.grants, []
        return grants

    def leave(self) -> None:
        """The connection is over."""
        self.unpark_lease()
        if self._wait is not None:
            self._wait.timer.cancel()
            self._wait = None
