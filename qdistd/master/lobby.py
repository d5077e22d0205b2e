"""Leases that wait for work: first come, first served, and never one worker all while another waits.

lease ──nothing ready──> parked at each of its queues ──work arrives──> served inside that very transaction
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from qdistd.broker import Broker, Seat
from qdistd.model import Grant


class Parked:
    """One waiting lease. `answer` is called once: with its grants after the commit, or with none, to ask again."""

    __slots__ = ("answer", "count", "fair", "idle", "queues", "seat")

    def __init__(
        self,
        seat: Seat,
        queues: Sequence[str],
        count: int,
        answer: Callable[[list[Grant]], None],
        idle: int = 1,
        *,
        fair: bool = False,
    ) -> None:
        self.seat = seat
        self.idle = idle
        self.fair = fair
        self.queues = queues
        self.count = count
        self.answer = answer


class Lobby:
    """The parked leases of all queues."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: dict[str, dict[Parked, None]] = {}
        self._served: dict[Parked, None] = {}
        """Those whose grants are not committed yet."""

    def park(self, parked: Parked) -> None:
        """Wait at every queue of the lease."""
        for queue in parked.queues:
            self._waiting.setdefault(queue, {})[parked] = None

    def leave(self, parked: Parked) -> None:
        """Stop waiting."""
        for queue in parked.queues:
            line = self._waiting.get(queue, {})
            line.pop(parked, None)
            if not line:  # any worker may think of any number of names
                self._waiting.pop(queue, None)

    def has_served(self, parked: Parked) -> bool:
        """Whether its grants are on their way: leased in the transaction that is being committed."""
        return parked in self._served

    def undo(self) -> None:
        """The transaction was rolled back: those it served get nothing, and will ask again."""
        served, self._served = self._served, {}
        for parked in served:
            parked.answer([])

    def serve(self) -> list[Callable[[], None]]:
        """Lease what the queues hold to those who wait for it; what to answer once that is committed."""
        answers: list[Callable[[], None]] = []
        while queues := self._broker.ready & self._waiting.keys():  # serving one may bring work to another
            self._broker.ready.clear()
            for queue in sorted(queues):
                answers += self._serve_queue(queue)
        self._broker.ready.clear()
        return answers

    def _serve_queue(self, queue: str) -> Iterable[Callable[[], None]]:
        line = list(self._waiting.get(queue, ()))
        vain: set[object] = set()
        for place, parked in enumerate(line):
            kind = parked.seat.labels, parked.seat.drained, parked.idle > 0
            if kind in vain:
                continue
            if not self._broker.store.ready(queue) or not self._broker.flow.room(queue, idle=1):
                return
            ready = self._broker.open(parked.seat, queue, parked.idle)
            if ready <= 0:  # it lacks a label, or is drained: perhaps the next one that is not like it
                vain.add(kind)
                continue
            share = -(-ready // (len(line) - place))
            self.leave(parked)
            self._served[parked] = None
            count = min(parked.count, share)
            grants = self._broker.lease(parked.seat, parked.queues, count, parked.idle, fair=parked.fair)
            yield partial(self._answer, parked, grants)

    def _answer(self, parked: Parked, grants: list[Grant]) -> None:
        del self._served[parked]
        parked.answer(grants)
