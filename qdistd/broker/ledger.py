"""What all parts of the broker share: who holds what, what is next, and how an attempt ends.

recover ─> claims by seat ─> _end ─> Store.end, news, and whatever the end of a task means for others
"""

import random
from collections.abc import Callable, Sequence

import msgspec

from qdistd import lifecycle
from qdistd.broker.agenda import Agenda
from qdistd.broker.clock import SteadyClock
from qdistd.broker.flow import Flow, QueueLimits
from qdistd.broker.kin import Kin
from qdistd.broker.news import News
from qdistd.broker.retention import Retention
from qdistd.broker.seats import Seat, Seats
from qdistd.call import encode_failure
from qdistd.model import MOST_OUTPUT, Claim, Failure, Outcome, Result, Settlement, State
from qdistd.store import Ending, Store, WorkerRow

FAR = 253_402_300_800
"""Seconds since 1970 of the year 10000: no measure of an attempt comes near."""


class GuardFailed(Exception):
    """Memory and store disagree about a claim: roll back and `recover`."""


class Settings(msgspec.Struct, frozen=True):
    """What the configuration decides. Times in seconds, `payload` in bytes."""

    lease: float = 30.0
    payload: int = 64 * 1024
    retention: Retention = Retention()
    policy: lifecycle.Policy = lifecycle.Policy()
    queues: dict[str, QueueLimits] = {}
    queued: int = 0
    """Tasks that may wait in all queues together; 0: any number."""


class Ledger:
    """The claims, in memory as in the store."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.settings = settings
        self.store = store
        self._monotonic = monotonic
        self._now = SteadyClock(monotonic, wall, store.latest())
        self._rng = rng
        self._seats = Seats()
        self._agenda = Agenda(monotonic, self._now)
        self.flow = Flow(store, lambda: self.settings.queues, self._now)
        self._kin = Kin(store, self.flow, self._agenda)
        self.news = News()
        self.settled = 0

    @property
    def ready(self) -> set[str]:
        """Queues that may have something for the leases that wait."""
        return self._agenda.ready

    @property
    def now(self) -> float:
        """Seconds since 1970, by the clock of all times in the store."""
        return self._now()

    @property
    def alarm(self) -> float:
        """Monotonic time by which `tick` has something to do; only `tick` moves it later."""
        return self._agenda.alarm

    def recover(self) -> None:
        """Build the claims from the store. A seat nobody has said hello for gets a whole lease from now."""
        for seat in self._seats:
            seat.claims.clear()
            seat.number = 0
        held = self.store.claims()
        rows = self.store.workers({number for number, _ in held})
        for number, claim in held:
            holder = self._seats.get(rows[number].token) or self._seats.add(self._stranger(rows[number]))
            holder.number = number
            holder.gone = False  # where its end was rolled back, its deadline still stands: the next tick sees to it
            holder.claims[claim.id] = claim
        self._agenda.next_due = self.store.next_due()
        self._agenda.next_expiry = self.store.bonds.next_expiry()
        self._agenda.finished.clear()
        self._agenda.alarm = 0.0
        self.flow.recover()
        self._kin.recover()
        self._see_drained()
        self.news = News()
        self.ready.update(self.store.counts())

    def reload(self, settings: Settings) -> None:
        """Go on with other settings. Inside a transaction, as everything else."""
        self.settings = settings
        self.flow.recover()
        self._kin.recover()
        self._tidy_up()
        self.ready.update(self.store.counts())

    def _stranger(self, row: WorkerRow) -> Seat:
        """The connection of a stock client ended with the old master: nobody will settle what it held.

        Nor may anybody settle what was leased before the store was restored.
        """
        lease = 0.0 if row.stock or row.former else self.settings.lease
        return Seat(row, lease, self._monotonic() + lease, self._now(), self._seats.late)

    def renew(self, seat: Seat) -> None:
        """The seat has spoken, perhaps after its lease had run out: it is here, and what it leases can be lost again.

        A stock client has no word to renew with: what it holds is its own for as long as its connection.
        """
        seat.deadline = float("inf") if seat.row.stock else self._monotonic() + seat.lease
        seat.seen = self._now()
        seat.connected, seat.gone = True, False
        self._seats.add(seat)
        self._agenda.alarm = min(self.alarm, seat.deadline)

    def _tidy_up(self, *, at_tick: bool = False) -> None:
        """At the end of whatever may have ended tasks, or brought some."""
        self._kin.settle(self._now())
        for queue, at in self.flow.opens():
            if at:
                self._agenda.wake(at)
            elif at_tick:
                self.ready.add(queue)  # else the alarm has woken for it, or somebody has been woken for the task

    def _ending(self, claim: Claim, settlement: Settlement) -> Ending:
        policy, now = self.settings.policy, self._now()
        after = lifecycle.after(claim, settlement.outcome, policy, now, self._rng, settlement.wait)
        output = settlement.output[-MOST_OUTPUT:]
        return Ending(claim, settlement.outcome, after, settlement.value, *_measured(settlement), output)

    def _end(self, endings: Sequence[Ending], worker: str = "") -> None:
        if self.store.end(endings, self._now()) != len(endings):
            raise GuardFailed("a claim in memory is not the claim in the store")
        self.settled += len(endings)
        self.news.ended.append((worker, endings))
        for ending in endings:
            claim, after = ending.claim, ending.next
            if after.state.final:
                self._agenda.end(Result(claim.id, after.state, claim.attempt, ending.value))
            elif after.state == State.READY:
                self.ready.add(claim.queue)
            else:
                self._agenda.due(after.run_at)
        self._tidy_up()
        for queue in {ending.claim.queue for ending in endings}:
            if self.flow.limits(queue).concurrency:
                self.ready.add(queue)  # there is a place for another one

    def _announce(self, ended: Sequence[bytes]) -> None:
        """The store has ended these tasks."""
        for result in self.store.results(ended)[0]:
            self._agenda.end(result)

    def _drop_claims(self, seat: Seat, keep: set[tuple[bytes, int]], outcome: Outcome, why: str) -> None:
        """End every claim of the seat that is not in `keep`."""
        dropped = [claim for claim in seat.claims.values() if (claim.id, claim.attempt) not in keep]
        kind = "lost" if outcome == Outcome.LOST else "stopped"
        value = encode_failure(Failure(kind, why))
        ends = [Settlement(claim.id, claim.attempt, outcome, value, output=seat.let_go(claim.id)) for claim in dropped]
        self._end([self._ending(claim, end) for claim, end in zip(dropped, ends, strict=True)], seat.row.name)

    def _see_drained(self) -> list[Seat]:
        """Tell the seats whether they are drained; those for which that is news."""
        changed = []
        for seat in self._seats:
            drained = not seat.row.stock and not self.flow.drained.keys().isdisjoint((seat.row.name, seat.row.host))
            if drained != seat.drained:
                seat.drained = drained
                changed.append(seat)
        return changed


def _measured(settlement: Settlement) -> tuple[float, float, float, int]:
    """Start, seconds, processor seconds and memory; nothing where a child made up what no row and no clock can hold."""
    started, wall, cpu, rss = settlement.started, settlement.wall, settlement.cpu, settlement.rss
    if 0 <= started < FAR and 0 <= wall < FAR and 0 <= cpu < FAR and 0 <= rss < FAR:  # NaN fails every comparison
        return started, wall, cpu, rss
    return 0.0, 0.0, 0.0, 0
