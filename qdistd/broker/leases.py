"""Workers and what they lease: who is here, what each may take, and how attempts come back.

hello ──> Seat ──lease──> Grants ──report──> endings
            └─ bye, gone: what it still held goes back
"""

from collections.abc import Iterable, Sequence

from qdistd.broker.flow import UNBOUNDED
from qdistd.broker.kin import AT_ONCE
from qdistd.broker.late import Live
from qdistd.broker.ledger import Ledger
from qdistd.broker.seats import Seat
from qdistd.call import encode_failure
from qdistd.model import Claim, Failure, Grant, Held, Next, Outcome, Said, Settlement, State
from qdistd.protocol import Hello
from qdistd.store import LARGEST_LEASE, MOST_LANES, Ending, Leased, WorkerRow, labels_of
from qdistd.views import WorkerView

_EXPIRED = encode_failure(Failure("expired", "it had not begun when its time was over"))


class Leases(Ledger):
    """What workers want."""

    def hello(self, row: WorkerRow, words: Hello) -> Seat:
        """A worker connects. What it should hold and does not comes back at once; so does what its dead past held.

        What it holds and should not is stale, and better ended than run: it hears that as an order, and so what was
        cancelled while it was away.
        """
        seat = self.sit(row)
        seat.queues, seat.processes, seat.lease, seat.told = words.queues, words.processes, self.settings.lease, False
        self.relabel(seat, words.labels, words.troubles)
        inhand = set() if seat.row.former else {(hold.id, hold.attempt) for hold in words.held}
        seat.number = 0 if seat.row.former else seat.number
        seat.row = row
        for old in self._seats.earlier(row):
            self._drop_claims(old, inhand, Outcome.LOST, "its worker died and was started again")
        self._drop_claims(seat, inhand, Outcome.RELEASED, "the worker never received it")
        seat.stale = self._not_leased(seat, words.held)
        seat.cancel = [task_id for task_id, _ in seat.stale]
        seat.cancel += [claim.id for claim in seat.claims.values() if claim.cancel]  # the order may have been lost
        return seat

    def earlier(self, row: WorkerRow) -> list[Seat]:
        """The seats that this hello empties."""
        return self._seats.earlier(row)

    def sit(self, row: WorkerRow) -> Seat:
        """The seat of a worker incarnation, or of a stock client's connection."""
        seat = self._seats.get(row.token) or Seat(row, self.settings.lease, 0.0, self._now(), self._seats.late)
        self.renew(seat)
        self._see_drained()
        return seat

    def relabel(self, seat: Seat, labels: Sequence[str], troubles: Sequence[str]) -> None:
        """What this worker has, and what troubles it, is this from now on."""
        seat.labels, seat.troubles = frozenset(labels), list(troubles)
        self.renew(seat)
        self.ready.update(seat.queues)

    def _not_leased(self, seat: Seat, held: Iterable[Held]) -> set[tuple[bytes, int]]:
        """What it may not go on with: as a rule it has the leases itself. All others are looked through once."""
        mine = {(claim.id, claim.attempt) for claim in seat.claims.values()}
        strange = {(hold.id, hold.attempt) for hold in held} - mine
        if strange:
            strange -= {(claim.id, claim.attempt) for other in self._seats for claim in other.claims.values()}
        return strange

    def lease(
        self, seat: Seat, queues: Sequence[str], count: int, idle: int = UNBOUNDED, *, fair: bool = False
    ) -> list[Grant]:
        """Up to `count` tasks of the queues; fewer where their payloads would not fit into a frame.

        `idle`: children of this worker with nothing to do: of queues with limits no more is leased. `fair`: the queues
        take turns by their weights; else the first comes first.
        """
        self.renew(seat)
        self._expire()
        grants: list[Grant] = []
        shares = self._shares(seat, queues, count, idle) if fair and len(queues) > 1 else dict.fromkeys(queues, count)
        for queue, share in shares.items():
            wanted = min(share, count - len(grants), self.open(seat, queue, idle - len(grants)))
            if wanted > 0 and _payload(grants) < LARGEST_LEASE:
                grants += self._take(seat, queue, wanted)
        if grants:
            self.news.leased.append((seat.row.name, grants))
        self._tidy_up()
        return grants

    def _shares(self, seat: Seat, queues: Sequence[str], count: int, idle: int) -> dict[str, int]:
        return self.flow.shares({queue: self.open(seat, queue, idle) for queue in queues}, count)

    def open(self, seat: Seat, queue: str, idle: int) -> int:
        """How many tasks of the queue this worker could lease now."""
        if seat.drained:
            return 0
        ready = self.store.ready(queue, seat.labels)
        return min(ready, self.flow.room(queue, idle)) if ready > 0 else 0

    def _take(self, seat: Seat, queue: str, count: int) -> list[Grant]:
        now = self._now()
        lanes = [*self.store.lanes(queue, seat.labels)]
        if len(lanes) >= MOST_LANES:
            self._rng.shuffle(lanes)  # not all can be looked at, and none shall wait for the others for ever
        seat.number = seat.number or self.store.worker(seat.row, now)
        leased = self.store.lease(queue, count, seat.number, now, ["", *lanes])
        grants = [self._grant(seat, one) for one in self._with_inputs(leased)]
        self.flow.begin(queue, len(grants))
        return [grant for grant in grants if grant is not None]

    def _with_inputs(self, leased: list[Leased]) -> list[Leased]:
        """Those of a lease whose inputs, the results that go along, fit into a frame; the others never were in it."""
        if not any(one.take for one in leased):
            return leased
        size, fitting = 0, []
        for one in leased:
            one.inputs = self.store.bonds.inputs(one.claim.seq) if one.take else ()
            more = sum(map(len, one.inputs))
            if size and size + more > LARGEST_LEASE:
                self.store.unlease(one)
                continue
            size += more
            fitting.append(one)
        return fitting

    def _grant(self, seat: Seat, one: Leased) -> Grant | None:
        claim = one.claim
        if one.damaged or (one.inputs and sum(map(len, one.inputs)) > LARGEST_LEASE):
            self._set_aside(claim, damaged=one.damaged)
            return None
        if (claim.id, claim.attempt) in seat.stale:
            self._hand_back(claim)
            return None
        seat.claims[claim.id] = claim
        return Grant(
            *(claim.id, claim.attempt, claim.name, one.payload, claim.queue, one.timeout),
            *(one.soft_timeout, one.priority, one.inputs, one.take),
            requires=labels_of(claim.requires),
        )

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

    def live(self, task_id: bytes, attempt: int) -> Live | None:
        """What an attempt has told of itself: the one that runs, or one that ran a moment ago."""
        seat = self.seat_of(task_id)
        if seat is not None:
            return seat.news_of(task_id)
        return self._seats.late.of(task_id, attempt)

    def seat_of(self, task_id: bytes) -> Seat | None:
        """Who runs this task."""
        return next((seat for seat in self._seats if task_id in seat.claims), None)

    def workers(self) -> list[WorkerView]:
        """Every worker that is here, or was lately."""
        return [seat.view() for seat in self._seats if not seat.row.stock]

    def _expire(self) -> None:
        agenda, now = self._agenda, self._now()
        if agenda.next_expiry is None or agenda.next_expiry > now:
            return
        ended = self.store.bonds.expire(now, AT_ONCE, _EXPIRED)
        self._announce(ended)
        agenda.next_expiry = None
        following = self.store.bonds.next_expiry()
        if following is not None:
            agenda.expires(following)

    def _hand_back(self, claim: Claim) -> None:
        """The worker has an attempt of this number from a past that is no more: have it be another one."""
        why = Failure("stopped", "its worker still holds an attempt of this number from before the store was restored")
        end = Settlement(claim.id, claim.attempt, Outcome.RELEASED, encode_failure(why))
        self._end([self._ending(claim, end)])

    def _set_aside(self, claim: Claim, *, damaged: bool) -> None:
        if damaged:
            why = Failure("damaged", "the stored payload is not what was submitted: the disk has changed it")
        else:
            why = Failure("too-large", f"the results it takes are over {LARGEST_LEASE:,} bytes together: pass paths")
        state = State.QUARANTINED if damaged else State.FAILED
        after = Next(state, self._now(), claim.failures, claim.crashes, claim.losses)
        self._end([Ending(claim, Outcome.FAILED, after, encode_failure(why))])


def _payload(grants: Iterable[Grant]) -> int:
    return sum(len(grant.payload) for grant in grants)
