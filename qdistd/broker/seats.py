"""Who holds what: one seat for every worker incarnation the master knows.

    hello ──> connected ──reset, silence──> silent ──lease over──> gone (its claims are lost)
                  └────── bye, FIN: the process ended ──────────────┘

Deadlines are the master's monotonic seconds and are never stored: after a restart every seat gets a whole lease.
`lease` is what its worker was told in the `Welcome`: a reload takes none from those who have heard of a longer one.
"""

from collections.abc import Iterable, Iterator

from qdistd.broker.late import Late, Live
from qdistd.model import Claim, Outcome, Said
from qdistd.store import WorkerRow
from qdistd.views import WorkerView

FORGET_AFTER = 3600.0
"""Seconds a worker that went away stays in `qdist workers`."""


class Seat:
    """One incarnation of a worker, and the claims it holds."""

    def __init__(self, row: WorkerRow, lease: float, deadline: float, now: float, late: Late) -> None:
        """`late` keeps what its tasks have told of themselves when they have ended."""
        self.number = 0
        """Its row in the store; 0 before its first lease, and after a rollback, which may have taken the row away."""
        self.row = row
        self.lease = lease
        self.deadline = deadline
        self.claims: dict[bytes, Claim] = {}
        self.said: dict[bytes, Live] = {}
        """What is known of running tasks, as far as it was told."""
        self._late = late
        self.connected = False
        self.gone = False
        self.stale: set[tuple[bytes, int]] = set()
        """(id, attempt) that it holds, or may yet report, and that this master has not leased to it."""
        self.cancel: list[bytes] = []
        self.queues: list[str] = []
        self.labels: frozenset[str] = frozenset()
        self.troubles: list[str] = []
        self.drained = False
        self.told = False
        """Whether its worker knows it as drained."""
        self.processes = 0
        self.settled = 0
        self.since = now
        self.seen = now

    def hear(self, news: Iterable[Said]) -> None:
        """Add to what its tasks have printed."""
        for said in news:
            claim = self.claims.get(said.id)
            if claim is None or claim.attempt != said.attempt:
                continue
            self.said.setdefault(said.id, Live()).hear(said)

    def news_of(self, task_id: bytes) -> Live:
        """What is known of a running task."""
        return self.said.get(task_id) or Live()

    def let_go(self, task_id: bytes) -> bytes:
        """It has this task no more: what that has printed."""
        claim = self.claims.pop(task_id, None)
        live = self.said.pop(task_id, None)
        output = bytes(live.output) if live else b""
        if claim and live and live.told:
            self._late.keep(task_id, claim.attempt, live)
        return output

    @property
    def end_of_lease(self) -> tuple[Outcome, str]:
        """What the end of its lease is to the tasks it holds, and why."""
        if self.row.former:
            return Outcome.RELEASED, "the store was restored from a backup: no lease of before is valid"
        return Outcome.LOST, "its lease ran out without a word of the worker"

    def view(self) -> WorkerView:
        """The seat as people see it."""
        state = "gone" if self.gone else "connected" if self.connected else "silent"
        row = self.row
        return WorkerView(
            *(row.name, row.host, row.pid, state, self.processes, len(self.claims), self.settled),
            *(self.queues, self.since, self.seen, sorted(self.labels), self.troubles, self.drained),
        )


class Seats:
    """All seats, by token."""

    def __init__(self) -> None:
        self._by_token: dict[bytes, Seat] = {}
        self.late = Late()

    def add(self, seat: Seat) -> Seat:
        """Take a seat into the registry."""
        self._by_token[seat.row.token] = seat
        return seat

    def get(self, token: bytes) -> Seat | None:
        """The seat of an incarnation."""
        return self._by_token.get(token)

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._by_token.values()))

    def earlier(self, row: WorkerRow) -> list[Seat]:
        """Seats of earlier incarnations of the same worker: their connection has ended, or this one proves them dead.

        Another host may have a worker of the same name: it is another worker.
        """
        return [
            seat
            for seat in self
            if (seat.row.name, seat.row.host) == (row.name, row.host) and seat.row.token != row.token
            if not seat.gone and (not seat.connected or seat.row.life.outlived_by(row.life))
        ]

    def expired(self, now: float) -> Iterable[Seat]:
        """Seats whose lease is over at monotonic `now`."""
        return [seat for seat in self if not seat.gone and seat.deadline <= now]

    def next_deadline(self) -> float:
        """When the next lease ends."""
        return min((seat.deadline for seat in self if not seat.gone), default=float("inf"))

    def forget(self, wall: float) -> None:
        """Drop what went away long ago, and connections of stock clients, which nobody asks after, at once."""
        for seat in self:
            if seat.gone and (seat.row.stock or seat.seen < wall - FORGET_AFTER):
                del self._by_token[seat.row.token]
