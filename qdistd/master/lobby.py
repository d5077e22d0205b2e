"""Leases that wait for work: first come, first served, and never one worker all while another waits.

lease ──nothing ready──> parked at each of its queues ──work arrives──> served inside that very transaction
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from qdistd.broker import Broker, Seat
from qdistd.model import Grant


class Parked:
    """One waiting lease. `answer` is called with its grants after the commit, at most once."""

    __slots__ = ("answer", "count", "open", "queues", "seat")

    def __init__(self, seat: Seat, queues: Sequence[str], count: int, answer: Callable[[list[Grant]], None]) -> None:
        self.seat = seat
        self.queues = queues
        self.count = count
        self.answer = answer
        self.open = True


class Lobby:
    """The parked leases of all queues."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: dict[str, deque[Parked]] = {}
        self._served: list[Parked] = []

    def park(self, parked: Parked) -> None:
        """Wait at every queue of the lease."""
        for queue in parked.queues:
            self._waiting.setdefault(queue, deque()).append(parked)

    def leave(self, parked: Parked) -> None:
        """Stop waiting."""
        parked.open = False
        for queue in parked.queues:
            line = self._waiting.get(queue)
            if line and parked in line:
                line.remove(parked)

    def undo(self) -> None:
        """The transaction was rolled back: those it served get nothing, and will ask again."""
        for parked in self._served:
            parked.answer([])
        self._served.clear()

    def serve(self) -> list[Callable[[], None]]:
        """Lease what the queues hold to those who wait for it; what to answer once that is committed."""
        answers: list[Callable[[], None]] = []
        self._served.clear()
        for queue in sorted(self._broker.ready & self._waiting.keys()):
            answers += self._serve_queue(queue)
        return answers

    def _serve_queue(self, queue: str) -> Iterable[Callable[[], None]]:
        line = self._waiting[queue]
        while line and (ready := self._broker.store.ready(queue)) > 0:
            share = -(-ready // len(line))
            parked = line[0]
            grants = self._broker.lease(parked.seat, parked.queues, min(parked.count, share))
            self.leave(parked)
            self._served.append(parked)
            yield partial(parked.answer, grants)
