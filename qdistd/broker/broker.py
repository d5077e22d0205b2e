"""Read, decide, save.

    submit ─┐                       ┌─> finished   results for whoever waits
    report ─┼─> Broker ─> Store     ┼─> ready      queues that got work, for the leases that wait
    lease  ─┘      │                ├─> news       for the log
                   │                └─> (answers)
                lifecycle: every rule

Every method runs inside a transaction that the caller opens and commits; `finished` and `news` may be acted upon only
after the commit. What is leased is also kept in memory, by seat, so that a settlement needs no read; after a
rollback `recover` builds that memory again from the store. Nothing here waits, sleeps or reads a clock of its own.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import msgspec

from qdistd import lifecycle
from qdistd.broker.clock import SteadyClock
from qdistd.broker.news import News
from qdistd.broker.retention import PURGE_EVERY, PURGE_PAUSE, Retention
from qdistd.broker.seats import Seat, Seats
from qdistd.model import MOST_OUTPUT, Claim, Failure, Grant, Held, Next, Outcome, Result, Said, Settlement, State, Task
from qdistd.protocol import Refusal
from qdistd.store import LARGEST_LEASE, Arrival, Ending, Leased, Store, WorkerRow
from qdistd.views import WorkerView

LONGEST_NAP = 10.0
"""Seconds between ticks at most: the wall clock may step, and a task for a time of day must notice."""

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


class Broker:
    """The rules applied to the rows."""

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
        self._next_due: float | None = None
        self.alarm = 0.0
        """Monotonic time by which `tick` has something to do; only `tick` moves it later."""
        self._purge_at = 0.0
        self.finished: list[Result] = []
        self.news = News()
        self.ready: set[str] = set()
        self.submitted = 0
        self.settled = 0

    # -- start, and start again after a rollback

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
        self._next_due = self.store.next_due()
        self.finished.clear()
        self.news = News()
        self.ready = set(self.store.counts())

    def _stranger(self, row: WorkerRow) -> Seat:
        """The connection of a stock client ended with the old master: nobody will settle what it held.

        Nor may anybody settle what was leased before the store was restored.
        """
        lease = 0.0 if row.stock or row.former else self.settings.lease
        return Seat(row, lease, self._monotonic() + lease, self._now())

    # -- submit

    def submit(self, tasks: Sequence[Task]) -> list[Refusal]:
        """Store the tasks; the ones that are refused, and why."""
        now = self._now()
        limit = self.settings.payload
        good = [task for task in tasks if len(task.payload) <= limit]
        arrivals = [Arrival(task, *lifecycle.arrival(task.run_at, task.delay, now, self._now.ahead)) for task in good]
        new = self.store.insert(arrivals, now)
        self.submitted += new
        self.news.new += new
        self.news.submitted += good
        for arrival in arrivals:
            if arrival.state == State.READY:
                self.ready.add(arrival.task.queue)
            else:
                self._due(arrival.run_at)
        return [_too_large(task, limit) for task in tasks if len(task.payload) > limit]

    # -- workers

    def hello(self, row: WorkerRow, queues: list[str], processes: int, held: Sequence[Held]) -> Seat:
        """A worker connects. What it should hold and does not comes back at once; so does what its dead past held.

        What it holds and should not is stale, and better ended than run: it hears that as an order, and so what was
        cancelled while it was away.
        """
        seat = self.sit(row)
        seat.queues, seat.processes, seat.lease = queues, processes, self.settings.lease
        self.renew(seat)
        inhand = set() if seat.row.former else {(hold.id, hold.attempt) for hold in held}
        seat.number = 0 if seat.row.former else seat.number
        seat.row = row
        for old in self._seats.earlier(row):
            self._drop_claims(old, inhand, Outcome.LOST, "its worker died and was started again")
        self._drop_claims(seat, inhand, Outcome.RELEASED, "the worker never received it")
        seat.stale = {(hold.id, hold.attempt) for hold in held if not self._is_leased(seat, hold)}
        seat.cancel = [task_id for task_id, _ in seat.stale]
        seat.cancel += [claim.id for claim in seat.claims.values() if claim.cancel]  # the order may have been lost
        return seat

    def earlier(self, row: WorkerRow) -> list[Seat]:
        """The seats that this hello empties."""
        return self._seats.earlier(row)

    def sit(self, row: WorkerRow) -> Seat:
        """The seat of a worker incarnation, or of a stock client's connection."""
        seat = self._seats.get(row.token) or Seat(row, self.settings.lease, 0.0, self._now())
        self.renew(seat)
        return seat

    def _is_leased(self, seat: Seat, hold: Held) -> bool:
        """Whether it may go on with what it holds: as a rule it has the lease itself."""
        claims = (holder.claims.get(hold.id) for holder in chain((seat,), self._seats))
        return any(claim is not None and claim.attempt == hold.attempt for claim in claims)

    def lease(self, seat: Seat, queues: Iterable[str], count: int) -> list[Grant]:
        """Up to `count` tasks of the queues, in this order; fewer where their payloads would not fit into a frame."""
        self.renew(seat)
        grants: list[Grant] = []
        for queue in queues:
            wanted = count - len(grants)
            if wanted > 0 and self.store.ready(queue) > 0 and _payload(grants) < LARGEST_LEASE:
                seat.number = seat.number or self.store.worker(seat.row, self._now())
                grants += self._grant(seat, self.store.lease(queue, wanted, seat.number, self._now()))
        if grants:
            self.news.leased.append((seat.row.name, grants))
        return grants

    def _grant(self, seat: Seat, leased: Sequence[Leased]) -> list[Grant]:
        grants = []
        for one in leased:
            claim = one.claim
            if one.damaged:
                self._set_aside(claim)
                continue
            if (claim.id, claim.attempt) in seat.stale:
                self._hand_back(claim)
                continue
            seat.claims[claim.id] = claim
            grants.append(Grant(claim.id, claim.attempt, claim.name, one.payload, claim.queue, one.timeout))
        return grants

    def report(self, seat: Seat, settled: Sequence[Settlement]) -> list[bytes]:
        """Settle attempts, renew the rest; the ids whose settlement is stale."""
        self.renew(seat)
        endings: list[Ending] = []
        stale: list[bytes] = []
        for settlement in settled:
            holder = self._holder(seat, settlement)
            claim = holder.claims.get(settlement.id) if holder else None
            if holder is None or claim is None or claim.attempt != settlement.attempt:
                seat.stale.discard((settlement.id, settlement.attempt))
                stale.append(settlement.id)
                continue
            holder.let_go(settlement.id)
            endings.append(self._ending(claim, settlement))
        seat.settled += len(endings)
        self._end(endings, seat.row.name)
        return stale

    def _holder(self, seat: Seat, settlement: Settlement) -> Seat | None:
        """The seat that holds the lease: another one for a result that outlived its incarnation on disk."""
        if not settlement.token or settlement.token == seat.row.token:
            return seat
        holder = self._seats.get(settlement.token)
        return None if holder is None or holder.row.former else holder

    def unmail(self, seat: Seat) -> None:
        """What this stock client holds will have no result to collect."""
        for claim in seat.claims.values():
            claim.mailbox = 0

    def bye(self, seat: Seat) -> None:
        """The worker ends on purpose: what it still holds costs nothing."""
        self._drop_claims(seat, set(), Outcome.RELEASED, "the worker was stopped")
        self._leave(seat)

    def gone(self, seat: Seat, *, ended: bool) -> None:
        """A connection is over. `ended`: its process has ended as well, so nobody will settle what it held."""
        seat.connected = False
        seat.seen = self._now()
        if ended:
            seat.deadline = self._monotonic()  # should the store refuse this now, the tick tries again
            self._drop_claims(seat, set(), Outcome.LOST, "the process that held it ended")
            self._leave(seat)

    def _leave(self, seat: Seat) -> None:
        seat.connected, seat.gone, seat.seen = False, True, self._now()

    def hear(self, seat: Seat, news: Iterable[Said]) -> None:
        """What the tasks of this worker have printed. Kept in memory: who restarts has it from their settlement."""
        seat.hear(news)

    def said(self, task_id: bytes) -> bytes:
        """What a running task has printed so far; its end."""
        return b"".join(bytes(seat.said.get(task_id, b"")) for seat in self._seats)

    @property
    def now(self) -> float:
        """Seconds since 1970, by the clock of all times in the store."""
        return self._now()

    def workers(self) -> list[WorkerView]:
        """Every worker that is here, or was lately."""
        return [seat.view() for seat in self._seats if not seat.row.stock]

    # -- people

    def cancel(self, ids: Iterable[bytes]) -> tuple[dict[bytes, State], list[Seat]]:
        """Cancel tasks: their states now, and the seats that have an order to hear."""
        states = self.store.cancel(ids, self._now())
        ordered = []
        for seat in self._seats:
            running = [task_id for task_id in states if task_id in seat.claims]
            for task_id in running:
                seat.claims[task_id].cancel = 1
            if running:
                seat.cancel += running
                ordered.append(seat)
        self._announce(states)
        return states, ordered

    def retry(self, ids: Iterable[bytes]) -> dict[bytes, State]:
        """Failed, cancelled and quarantined tasks back to their queues."""
        states = self.store.retry(ids, self._now())
        self.ready.update(self.store.counts())
        return states

    def take_finished(self) -> list[Result]:
        """The tasks that have ended in this transaction. Act on it after the commit."""
        finished, self.finished = self.finished, []
        return finished

    def take_news(self) -> News:
        """What this transaction has done. Tell it after the commit."""
        news, self.news = self.news, News()
        return news

    def _announce(self, states: dict[bytes, State]) -> None:
        ended = [task_id for task_id, state in states.items() if state == State.CANCELLED]
        self.finished += self.store.results(ended)[0]

    # -- the tick

    def tick(self) -> float:
        """Do what is due; the monotonic time when something will be due next."""
        now = self._monotonic()
        self._promote()
        for seat in self._seats.expired(now):
            self._drop_claims(seat, set(), *seat.end_of_lease)
            self._leave(seat)
        self._purge(now)
        self._seats.forget(self._now())
        self.alarm = max(now, min(self._due_in(now), self._seats.next_deadline(), self._purge_at, now + LONGEST_NAP))
        return self.alarm

    def _due_in(self, now: float) -> float:
        return float("inf") if self._next_due is None else now + self._next_due - self._now()

    def _promote(self) -> None:
        if self._now.stepped():
            self.store.realign(self._now.ahead)
            self._next_due = self.store.next_due()
        if self._next_due is not None and self._next_due <= self._now():
            self.ready.update(self.store.promote(self._now()))
            self._next_due = self.store.next_due()

    def _purge(self, now: float) -> None:
        if now < self._purge_at:
            return
        _, more = self.store.ends.purge(self.settings.retention.keep(self._now()))
        self._purge_at = now + (PURGE_PAUSE if more else PURGE_EVERY)

    # -- helpers

    def renew(self, seat: Seat) -> None:
        """The seat has spoken, perhaps after its lease had run out: it is here, and what it leases can be lost again.

        A stock client has no word to renew with: what it holds is its own for as long as its connection.
        """
        seat.deadline = float("inf") if seat.row.stock else self._monotonic() + seat.lease
        seat.seen = self._now()
        seat.connected, seat.gone = True, False
        self._seats.add(seat)
        self.alarm = min(self.alarm, seat.deadline)

    def _due(self, run_at: float) -> None:
        if self._next_due is None or run_at < self._next_due:
            self._next_due = run_at
            self.alarm = min(self.alarm, self._due_in(self._monotonic()))

    def _ending(self, claim: Claim, settlement: Settlement) -> Ending:
        after = lifecycle.after(claim, settlement.outcome, self.settings.policy, self._now(), self._rng)
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
                self.finished.append(Result(claim.id, after.state, claim.attempt, ending.value))
            elif after.state == State.READY:
                self.ready.add(claim.queue)
            else:
                self._due(after.run_at)

    def _drop_claims(self, seat: Seat, keep: set[tuple[bytes, int]], outcome: Outcome, why: str) -> None:
        """End every claim of the seat that is not in `keep`."""
        dropped = [claim for claim in seat.claims.values() if (claim.id, claim.attempt) not in keep]
        kind = "lost" if outcome == Outcome.LOST else "stopped"
        value = msgspec.msgpack.encode(Failure(kind, why))
        ends = [Settlement(claim.id, claim.attempt, outcome, value, output=seat.let_go(claim.id)) for claim in dropped]
        self._end([self._ending(claim, end) for claim, end in zip(dropped, ends, strict=True)], seat.row.name)

    def _hand_back(self, claim: Claim) -> None:
        """The worker has an attempt of this number from a past that is no more: have it be another one."""
        why = Failure("stopped", "its worker still holds an attempt of this number from before the store was restored")
        end = Settlement(claim.id, claim.attempt, Outcome.RELEASED, msgspec.msgpack.encode(why))
        self._end([self._ending(claim, end)])

    def _set_aside(self, claim: Claim) -> None:
        why = Failure("damaged", "the stored payload is not what was submitted: the disk has changed it")
        after = Next(State.QUARANTINED, self._now(), claim.failures, claim.crashes, claim.losses)
        self._end([Ending(claim, Outcome.FAILED, after, msgspec.msgpack.encode(why))])


def _measured(settlement: Settlement) -> tuple[float, float, float, int]:
    """Start, seconds, processor seconds and memory; nothing where a child made up what no row and no clock can hold."""
    started, wall, cpu, rss = settlement.started, settlement.wall, settlement.cpu, settlement.rss
    if 0 <= started < FAR and 0 <= wall < FAR and 0 <= cpu < FAR and 0 <= rss < FAR:  # NaN fails every comparison
        return started, wall, cpu, rss
    return 0.0, 0.0, 0.0, 0


def _payload(grants: Iterable[Grant]) -> int:
    return sum(len(grant.payload) for grant in grants)


def _too_large(task: Task, limit: int) -> Refusal:
    return Refusal(
        task.id,
        "too-large",
        f"the payload of {task.name!r} has {len(task.payload):,} bytes, the limit is {limit:,}:"
        " put the data in a file on shared storage and send its path ([limits] payload in master.toml)",
    )
