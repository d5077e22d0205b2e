"""The verbs: a question comes in, its job goes to the writer, its answer goes out after the commit.

native frame ──role──shape──> Desk.<verb> ──> Writer ──commit──> answer, and results to whoever watches
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from qdistd import protocol as say
from qdistd.broker import Broker, Seat
from qdistd.errors import QdistError
from qdistd.events import Event, told
from qdistd.master.guest import Guest
from qdistd.master.inputs import closed
from qdistd.master.keeper import Keeper
from qdistd.master.lobby import Lobby, Parked
from qdistd.master.people import People
from qdistd.master.watchers import Read, Watchers
from qdistd.master.writer import Job, Writer
from qdistd.model import Grant, Merged
from qdistd.neighbours import LIFE
from qdistd.protocol import UNREADABLE, VERBS, Role, Verb
from qdistd.store import Store, WorkerRow
from qdistd.wire.server import Peer


class Terms(msgspec.Struct, frozen=True):
    """What `Welcome` tells: seconds and bytes."""

    lease: float
    heartbeat: float
    payload: int
    result: int


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
        self._watchers = Watchers(store)
        self.announce = self._watchers.announce
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
            "labels": self._relabel,
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
        self._watchers.forget(guest)
        seat, guest.seat = guest.seat, None
        if seat is not None:
            del self._workers[seat.row.token]
            self._do(lambda: self._broker.gone(seat, ended=clean))
            words, extra = "" if clean else "; its lease still runs", told(Event.WORKER_GONE, WORKER=seat.row.name)
            self._log.info("worker %s is gone%s", seat.row.name, words, extra=extra)

    def _hello(self, guest: Guest, number: int, hello: say.Hello) -> None:
        guest.version = hello.version
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

        self._put(guest, number, lambda: self._broker.hello(row, hello), seated)

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

        def run() -> tuple[say.Accepted, list[bytes], Read]:
            before = self._broker.submitted
            refused = self._broker.submit(submit.tasks, atomic=submit.atomic)
            merged = self._broker.merged
            said_before = self._broker.submitted - before + len({refusal.id for refusal in refused}) < len(ids)
            real = _real(ids, merged) if merged else ids
            return (
                say.Accepted(refused, merged),
                real,
                self._watchers.read(real if said_before and submit.watch else []),
            )

        def answer(done: tuple[say.Accepted, list[bytes], Read]) -> None:
            accepted, real, read = done
            guest.peer.answer(number, accepted)
            if submit.watch:
                self._watch(guest, real, [*read.unknown, *(refusal.id for refusal in accepted.refused)], read)

        self._put(guest, number, run, answer, sum(1 + len(task.after) for task in submit.tasks))

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

        self._put(guest, number, lambda: self._watchers.read(ids), answer, len(ids))

    def _watch(self, guest: Guest, ids: Iterable[bytes], but: Sequence[bytes], read: Read) -> None:
        if guest.peer in self._guests:
            self._watchers.watch(guest, ids, but, read)

    # -- workers

    def _lease(self, guest: Guest, number: int, lease: say.Lease) -> None:
        seat = guest.seat
        if seat is None:
            guest.peer.fail(number, "refused", "a worker says hello before it leases")
            return
        self._answer_lease(guest)
        if lease.count == 0 or seat.cancel or guest.grants or seat.told != seat.drained:
            self._park(guest, number, lease, None)
            return
        if lease.seconds > 0 and not self._has_work(seat, lease):
            self._broker.renew(seat)
            self._await_work(guest, number, lease, seat)
            return

        def answer(grants: list[Grant]) -> None:
            grants = guest.take_grants() + grants
            if grants or lease.seconds <= 0:
                guest.peer.answer(number, self._granted(guest, seat, grants))
            elif self._has_work(seat, lease):
                self._lease(guest, number, lease)  # work came later in the transaction that found none
            else:
                self._await_work(guest, number, lease, seat)

        def run() -> list[Grant]:
            return self._broker.lease(seat, lease.queues, lease.count, lease.idle, fair=lease.fair)

        self._put(guest, number, run, answer, lease.count)

    def _has_work(self, seat: Seat, lease: say.Lease) -> bool:
        return any(self._broker.open(seat, queue, lease.idle) > 0 for queue in lease.queues)

    def _await_work(self, guest: Guest, number: int, lease: say.Lease, seat: Seat) -> None:
        """Park where the next transaction that brings work will find it: no transaction of its own is needed."""

        def arrived(grants: list[Grant]) -> None:
            guest.grants += grants
            self._answer_lease(guest)

        self._answer_lease(guest)
        self._park(guest, number, lease, Parked(seat, lease.queues, lease.count, arrived, lease.idle, fair=lease.fair))

    def _park(self, guest: Guest, number: int, lease: say.Lease, parked: Parked | None) -> None:
        if guest.seat is None or guest.peer not in self._guests:
            guest.peer.answer(number, say.Granted())
            return
        guest.park_lease(number, parked, lease.seconds, lambda: self._answer_lease(guest))
        if parked is not None:
            self._lobby.park(parked)
        if guest.grants or guest.seat.cancel or guest.seat.told != guest.seat.drained:
            self._answer_lease(guest)

    def _answer_lease(self, guest: Guest) -> None:
        """Answer the parked lease, if there is one. Grants that find none parked wait for the next."""
        self._leave_lobby(guest)
        number = guest.unpark_lease()
        if number is not None and guest.seat is not None:
            guest.peer.answer(number, self._granted(guest, guest.seat, guest.take_grants()))

    def _granted(self, guest: Guest, seat: Seat, grants: list[Grant]) -> say.Granted:
        if guest.version < LIFE:
            grants, ends = closed(grants)
            if ends:
                self._do(lambda: self._broker.report(seat, ends))
        return say.Granted(grants, _orders(seat))

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

    def _relabel(self, guest: Guest, number: int, new: say.Relabel) -> None:
        seat = guest.seat
        if seat is None:
            guest.peer.fail(number, "refused", "a worker says hello before it speaks of itself")
            return

        def answer(_: None) -> None:
            guest.peer.answer(number, say.Reported([], _orders(seat)))

        self._put(guest, number, lambda: self._broker.relabel(seat, new.labels, new.troubles), answer)

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
    seat.told = seat.drained
    return say.Orders(cancel, seat.drained)


def _real(ids: Iterable[bytes], merged: Iterable[Merged]) -> list[bytes]:
    """The ids of the tasks that these submits are."""
    into = {merge.id: merge.into for merge in merged}
    return [into.get(task_id, task_id) for task_id in ids]


def _may(peer: Peer, verb: Verb) -> bool:
    return verb.role == Role.ANY or peer.may(verb.role)


def _needs(verb: Verb, peer: Peer) -> str:
    has = ", ".join(sorted(peer.roles)) or "no role"
    return f"{verb.word!r} needs a key with the role {verb.role.value}; the key shown ({peer.label}) has: {has}"
