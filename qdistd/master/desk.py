"""The verbs: a question comes in, its job goes to the writer, its answer goes out after the commit.

native frame ──role──shape──> Desk.<verb> ──> Writer ──commit──> answer, and results to whoever watches
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from qdistd import protocol as say
from qdistd.broker import Broker, Seat
from qdistd.errors import QdistError
from qdistd.events import Event, told
from qdistd.master.guest import PENDING_BYTES, Guest
from qdistd.master.keeper import Keeper
from qdistd.master.lobby import Lobby, Parked
from qdistd.master.people import People
from qdistd.master.writer import Job, Writer
from qdistd.model import Grant, Result
from qdistd.protocol import UNREADABLE, VERBS, Role, Verb
from qdistd.store import Store, WorkerRow
from qdistd.wire.server import Peer


class Terms(msgspec.Struct, frozen=True):
    """What `Welcome` tells: seconds and bytes."""

    lease: float
    heartbeat: float
    payload: int
    result: int


READ_AT_ONCE = 16
"""Results read from the store between two looks at their size: the largest ones come to a few frames."""


class Read(NamedTuple):
    """What the store says of some ids; `unread`: what the next `Wait` will look at."""

    ended: list[Result]
    unknown: list[bytes]
    unread: list[bytes]


class Desk:
    """Serves the native connections."""

    def __init__(
        self,
        *,
        broker: Broker,
        store: Store,
        lobby: Lobby,
        loop: asyncio.AbstractEventLoop,
        wall: Callable[[], float],
        terms: Callable[[], Terms],
        status: Callable[[], say.StatusView],
        log: logging.Logger,
    ) -> None:
        self.writer: Writer
        self._broker = broker
        self._store = store
        self._lobby = lobby
        self._loop = loop
        self._wall = wall
        self._terms = terms
        self._log = log
        self._guests: dict[Peer, Guest] = {}
        self._workers: dict[bytes, Guest] = {}
        self._watchers: dict[bytes, tuple[Guest, ...]] = {}
        self._decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {
            word: msgspec.msgpack.Decoder(verb.question) for word, verb in VERBS.items()
        }
        people = People(broker, store, status=status, put=self._put, ordered=self._hear_orders)
        self.keeper = Keeper(broker, store, put=self._put, loop=loop, log=log)
        self.serve: dict[str, Callable[[Guest, int, Any], None]] = {
            "hello": self._hello,
            "submit": self._submit,
            "wait": self._wait,
            "lease": self._lease,
            "report": self._report,
            "bye": self._bye,
            **people.verbs,
            **self.keeper.verbs,
        }
        """Who serves a verb. Others may add theirs."""

    # -- connections

    def ask(self, peer: Peer, number: int, word: str, raw: msgspec.Raw) -> None:
        """One native request."""
        verb = VERBS.get(word)
        if verb is None:
            peer.fail(number, "refused", f"this master knows no verb {word!r}; its version is {say.VERSION}")
            return
        if not _may(peer, verb):
            peer.fail(number, "not-allowed", _needs(verb, peer))
            return
        try:
            question = self._decoders[word].decode(raw)
        except UNREADABLE as error:
            peer.fail(number, "malformed", f"{word}: {error}")
            return
        guest = self._guests.get(peer) or self._guests.setdefault(peer, Guest(peer, self._loop))
        self.serve[word](guest, number, question)

    def closed(self, peer: Peer, *, clean: bool) -> None:
        """A native connection is over. `clean`: its process closed it, or died."""
        guest = self._guests.pop(peer, None)
        if guest is None:
            return
        self._leave_lobby(guest)
        self.keeper.left(guest)
        guest.leave()
        for task_id in guest.watched:
            self._unwatch(task_id, guest)
        seat, guest.seat = guest.seat, None
        if seat is not None:
            del self._workers[seat.row.token]
            self._do(lambda: self._broker.gone(seat, ended=clean))
            words, extra = "" if clean else "; its lease still runs", told(Event.WORKER_GONE, WORKER=seat.row.name)
            self._log.info("worker %s is gone%s", seat.row.name, words, extra=extra)

    def announce(self, results: Sequence[Result]) -> None:
        """Hand results to whoever watches them."""
        touched: set[Guest] = set()
        for result in results:
            for guest in self._watchers.pop(result.id, ()):
                guest.push(result)
                touched.add(guest)
        for guest in touched:
            guest.flush()

    def _hello(self, guest: Guest, number: int, hello: say.Hello) -> None:
        if hello.kind != "worker":
            guest.peer.answer(number, self._welcome())
        elif not _may(guest.peer, VERBS["lease"]):
            guest.peer.fail(number, "not-allowed", _needs(VERBS["lease"], guest.peer))
        elif len(hello.token) != 16:
            guest.peer.fail(number, "malformed", "hello: the token of a worker has 16 bytes")
        elif guest.token not in (b"", hello.token):
            guest.peer.fail(number, "refused", "hello: another worker speaks on this connection; open one for each")
        elif hello.epoch not in (b"", self._store.epoch):
            self._log.warning("worker %s holds leases from before this store was restored: they are void", hello.name)
            guest.peer.answer(number, self._welcome())
        else:
            self._hello_worker(guest, number, hello)

    def _hello_worker(self, guest: Guest, number: int, hello: say.Hello) -> None:
        row = WorkerRow(hello.token, hello.name, hello.host, hello.pid, life=hello.life)
        guest.token = hello.token
        self._unseat(guest)
        self._dismiss(self._broker.earlier(row))

        def seated(seat: Seat) -> None:
            if guest.peer not in self._guests:
                self._do(lambda: self._broker.gone(seat, ended=False))
                return
            self._unseat(guest)
            guest.seat = seat
            self._workers[hello.token] = guest
            extra = told(Event.WORKER_HERE, WORKER=row.name)
            self._log.info("worker %s is here from %s", row.name, guest.peer.address, extra=extra)
            guest.peer.answer(number, self._welcome())

        self._put(guest, number, lambda: self._broker.hello(row, hello.queues, hello.processes, hello.held), seated)

    def _unseat(self, guest: Guest) -> None:
        """The worker says hello, as a rule on a new connection: its former one is a leftover, and leases nothing more.

        What was leased to it and never arrived is not in the new `Hello`, and so goes back.
        """
        former = self._workers.pop(guest.token, None)
        if former is None:
            return
        self._leave_lobby(former)
        former.take_grants()
        parked = former.unpark_lease()
        former.seat = None
        if former is not guest:
            former.peer.abort()
        elif parked is not None:
            guest.peer.answer(parked, say.Granted())

    def _dismiss(self, seats: Iterable[Seat]) -> None:
        """These are dead, whatever their connections look like: nothing more is leased to them."""
        for seat in seats:
            guest = self._workers.get(seat.row.token)
            if guest is not None:
                self._leave_lobby(guest)
                guest.peer.abort()

    def _welcome(self) -> say.Welcome:
        terms = self._terms()
        sizes = terms.payload, terms.result
        return say.Welcome(say.VERSION, terms.lease, terms.heartbeat, *sizes, self._wall(), self._store.epoch)

    # -- submitting and waiting

    def _submit(self, guest: Guest, number: int, submit: say.Submit) -> None:
        ids = [task.id for task in submit.tasks]

        def run() -> tuple[list[say.Refusal], Read]:
            before = self._broker.submitted
            refused = self._broker.submit(submit.tasks)
            said_before = self._broker.submitted - before + len(refused) < len(ids)
            return refused, self._read(ids if said_before and submit.watch else [])

        def answer(done: tuple[list[say.Refusal], Read]) -> None:
            refused, read = done
            guest.peer.answer(number, say.Accepted(refused))
            if submit.watch:
                self._watch(guest, ids, [refusal.id for refusal in refused], read)

        self._put(guest, number, run, answer, len(ids))

    def _wait(self, guest: Guest, number: int, wait: say.Wait) -> None:
        ids = list(dict.fromkeys([*wait.ids, *guest.take_overflow(wait.limit)]))
        if not ids:
            guest.wait(number, wait.limit, wait.seconds)
            return

        def answer(read: Read) -> None:
            self._watch(guest, ids, read.unknown, read)
            if read.unknown:
                guest.peer.answer(number, say.Finished([], read.unknown))
            else:
                guest.wait(number, wait.limit, wait.seconds)

        self._put(guest, number, lambda: self._read(ids), answer, len(ids))

    def _read(self, ids: list[bytes]) -> Read:
        """What has ended of `ids`, until that is as much as a connection may keep in memory."""
        ended: list[Result] = []
        unknown: list[bytes] = []
        at = size = 0
        while at < len(ids) and size <= PENDING_BYTES:
            found, strange = self._store.results(ids[at : at + READ_AT_ONCE])
            at += READ_AT_ONCE
            size += sum(len(result.value) for result in found)
            ended += found
            unknown += strange
        return Read(ended, unknown, ids[at:])

    def _watch(self, guest: Guest, ids: Iterable[bytes], but: Sequence[bytes], read: Read) -> None:
        if guest.peer not in self._guests:
            return
        skip = {*but, *read.unread, *(result.id for result in read.ended)}
        new = set(ids) - skip - guest.watched
        guest.watched |= new
        alone = (guest,)
        for task_id in new:
            others = self._watchers.get(task_id)
            self._watchers[task_id] = (*others, guest) if others else alone
        guest.overflow += read.unread
        for result in read.ended:
            guest.push(result)
        guest.flush()

    def _unwatch(self, task_id: bytes, guest: Guest) -> None:
        left = tuple(other for other in self._watchers.get(task_id, ()) if other is not guest)
        if left:
            self._watchers[task_id] = left
        else:
            self._watchers.pop(task_id, None)

    # -- workers

    def _lease(self, guest: Guest, number: int, lease: say.Lease) -> None:
        seat = guest.seat
        if seat is None:
            guest.peer.fail(number, "refused", "a worker says hello before it leases")
            return
        self._answer_lease(guest)
        if lease.count == 0 or seat.cancel or guest.grants:
            self._park(guest, number, lease, None)
            return
        if lease.seconds > 0 and not self._has_work(lease):
            self._broker.renew(seat)
            self._await_work(guest, number, lease, seat)
            return

        def answer(grants: list[Grant]) -> None:
            grants = guest.take_grants() + grants
            if grants or lease.seconds <= 0:
                guest.peer.answer(number, say.Granted(grants, _orders(seat)))
            elif self._has_work(lease):
                self._lease(guest, number, lease)  # work came later in the transaction that found none
            else:
                self._await_work(guest, number, lease, seat)

        self._put(guest, number, lambda: self._broker.lease(seat, lease.queues, lease.count), answer, lease.count)

    def _has_work(self, lease: say.Lease) -> bool:
        return any(self._store.ready(queue) for queue in lease.queues)

    def _await_work(self, guest: Guest, number: int, lease: say.Lease, seat: Seat) -> None:
        """Park where the next transaction that brings work will find it: no transaction of its own is needed."""

        def arrived(grants: list[Grant]) -> None:
            guest.grants += grants
            self._answer_lease(guest)

        self._answer_lease(guest)
        self._park(guest, number, lease, Parked(seat, lease.queues, lease.count, arrived))

    def _park(self, guest: Guest, number: int, lease: say.Lease, parked: Parked | None) -> None:
        if guest.seat is None or guest.peer not in self._guests:
            guest.peer.answer(number, say.Granted())
            return
        guest.park_lease(number, parked, lease.seconds, lambda: self._answer_lease(guest))
        if parked is not None:
            self._lobby.park(parked)
        if guest.grants or guest.seat.cancel:
            self._answer_lease(guest)

    def _answer_lease(self, guest: Guest) -> None:
        """Answer the parked lease, if there is one. Grants that find none parked wait for the next."""
        self._leave_lobby(guest)
        number = guest.unpark_lease()
        if number is not None and guest.seat is not None:
            guest.peer.answer(number, say.Granted(guest.take_grants(), _orders(guest.seat)))

    def _leave_lobby(self, guest: Guest) -> None:
        if guest.lease is not None and guest.lease[1] is not None:
            self._lobby.leave(guest.lease[1])

    def _report(self, guest: Guest, number: int, report: say.Report) -> None:
        seat = guest.seat
        if seat is None:
            guest.peer.fail(number, "refused", "a worker says hello before it reports")
            return

        def answer(stale: list[bytes]) -> None:
            guest.peer.answer(number, say.Reported(stale, _orders(seat)))

        self._broker.hear(seat, report.said)
        if not report.settled:  # a heartbeat
            self._broker.renew(seat)
            answer([])
            return
        self._put(guest, number, lambda: self._broker.report(seat, report.settled), answer, len(report.settled) + 1)

    def _bye(self, guest: Guest, number: int, _: say.Bye) -> None:
        seat = guest.seat
        if seat is None:
            guest.peer.answer(number, say.Reported())
            return
        self._answer_lease(guest)
        guest.seat = None
        self._workers.pop(seat.row.token, None)
        extra = told(Event.WORKER_GONE, WORKER=seat.row.name)
        self._log.info("worker %s says bye", seat.row.name, extra=extra)
        self._put(guest, number, lambda: self._broker.bye(seat), lambda _: guest.peer.answer(number, say.Reported()))

    def _hear_orders(self, seats: Iterable[Seat]) -> None:
        """These workers have an order to obey: the answer to their parked lease carries it."""
        for seat in seats:
            worker = self._workers.get(seat.row.token)
            if worker is not None:
                self._answer_lease(worker)

    # -- the writer

    def _do(self, run: Callable[[], Any]) -> None:
        """A job that nobody waits for."""
        self.writer.put(Job(run, lambda _: None, lambda _: None))

    def _put(
        self,
        guest: Guest,
        number: int,
        run: Callable[[], Any],
        answer: Callable[[Any], None],
        weight: int = 1,
    ) -> None:
        def fail(error: QdistError) -> None:
            guest.peer.fail(number, error.code, str(error))

        self.writer.put(Job(run, answer, fail, weight))


def _orders(seat: Seat) -> say.Orders:
    cancel, seat.cancel = seat.cancel, []
    return say.Orders(cancel)


def _may(peer: Peer, verb: Verb) -> bool:
    return verb.role == Role.ANY or peer.may(verb.role)


def _needs(verb: Verb, peer: Peer) -> str:
    has = ", ".join(sorted(peer.roles)) or "no role"
    return f"{verb.word!r} needs a key with the role {verb.role.value}; the key shown ({peer.label}) has: {has}"
