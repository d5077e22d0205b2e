"""A master and a pool that do what a test tells them, for the tests of the worker. The wire between them is real.

stage.master.give(grant)                the parked lease brings it, or the next one
stage.pool.finish(grant)                its task is done; finish(grant, b"…", Outcome.FAILED)
await stage.until(lambda: …)            wait for anything above to have happened, ten seconds at most
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from qdistd import protocol as say
from qdistd.address import Address
from qdistd.model import Grant, Held, Outcome, Said, Settlement
from qdistd.pool import PoolSettings
from qdistd.protocol import VERBS, Role
from qdistd.wire.keyring import Key, Keyring
from qdistd.wire.network import AsyncioNetwork, Listener
from qdistd.wire.server import Gate, Peer, WireLimits

PATIENCE = 10.0
"""Seconds after which something that a test waits for will not happen any more."""

ANYWHERE = Address("127.0.0.1", 0)
WORK = Key(b"w" * 32, frozenset({Role.WORK}), "work")
POOL = PoolSettings(processes=2, modules=(), path=(), timeout=60.0, memory=0, result=1 << 20)


class Bell:
    """Rung by whatever happens; one test waits for it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self._event.set()

    async def until(self, happened: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Return when it has happened."""
        async with asyncio.timeout(seconds):
            while not happened():
                await self._event.wait()
                self._event.clear()


class Master:
    """Answers as a master does, from lists that the test fills. `silent`: verbs that get no answer until `speak`."""

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.key = WORK
        self.welcome = say.Welcome(say.VERSION, 30.0, 5.0, 1 << 16, 1 << 20, 0.0)
        self.silent: set[str] = set()
        self.refusing: dict[str, tuple[str, str]] = {}
        self.hellos: list[say.Hello] = []
        self.leases: list[say.Lease] = []
        self.reports: list[say.Report] = []
        self.relabels: list[say.Relabel] = []
        self.byes = 0
        self.settled: list[Settlement] = []
        self.stale: set[bytes] = set()
        self.orders = say.Orders()
        """For the next answer that can carry them."""
        self.turns: list[list[str]] = []
        """The verbs that came in one read, read by read."""
        self.ends: list[bool] = []
        """How connections ended: True with FIN, False with RST."""
        self.unanswered: list[tuple[Peer, int, str, msgspec.Raw]] = []
        self._grants: list[Grant] = []
        self._peers: list[Peer] = []
        self._parked: tuple[Peer, int, say.Lease] | None = None
        self._listener: Listener | None = None
        self._fresh_turn = True

    # -- for the test

    async def start(self, address: Address = ANYWHERE) -> Address:
        gate = Gate(lambda: Keyring([self.key]), self, WireLimits())
        self._listener = await AsyncioNetwork().listen(address, lambda: Peer(gate))
        return self._listener.address

    def stop(self, *, reset: bool = False) -> None:
        """Gone, as a process that ends, or as a cable that is cut."""
        if self._listener:
            self._listener.close()
            self._listener = None
        self.cut(reset=reset)

    def cut(self, *, reset: bool = False) -> None:
        """End the connections."""
        for peer in self._peers:
            peer.abort() if reset else peer.close()
        self._peers.clear()
        self._parked = None

    def give(self, *grants: Grant) -> None:
        self._grants += grants
        self._answer_lease(parked=bool(grants))

    def order(self, orders: say.Orders) -> None:
        """Say it by the parked lease."""
        self.orders = orders
        self._answer_lease(parked=True)

    def speak(self) -> None:
        """Answer everything that was asked in silence."""
        self.silent = set()
        asked, self.unanswered = self.unanswered, []
        for peer, number, verb, question in asked:
            self._serve(peer, number, verb, question)

    @property
    def parked(self) -> say.Lease | None:
        return self._parked[2] if self._parked else None

    # -- for the wire

    def opened(self, peer: Peer) -> None:
        self._peers.append(peer)

    def closed(self, peer: Peer, clean: bool) -> None:
        if peer in self._peers:
            self._peers.remove(peer)
            self.ends.append(clean)
        self.bell()

    def stock(self, peer: Peer, ident: str | None, method: str, args: Any, kwds: Any) -> None:
        raise AssertionError("a worker speaks the native protocol")

    def native(self, peer: Peer, number: int, verb: str, question: msgspec.Raw) -> None:
        self._note_turn(verb)
        if verb in self.refusing:
            peer.fail(number, *self.refusing[verb])
        elif verb in self.silent:
            self.unanswered.append((peer, number, verb, question.copy()))
        else:
            self._serve(peer, number, verb, question)
        self.bell()

    def _serve(self, peer: Peer, number: int, verb: str, question: msgspec.Raw) -> None:
        getattr(self, f"_{verb}")(peer, number, msgspec.msgpack.decode(question, type=VERBS[verb].question))

    def _note_turn(self, verb: str) -> None:
        if self._fresh_turn:
            self._fresh_turn = False
            self.turns.append([])
            asyncio.get_running_loop().call_soon(self._end_turn)
        self.turns[-1].append(verb)

    def _end_turn(self) -> None:
        self._fresh_turn = True

    def _hello(self, peer: Peer, number: int, hello: say.Hello) -> None:
        self.hellos.append(hello)
        peer.answer(number, self.welcome)

    def _lease(self, peer: Peer, number: int, lease: say.Lease) -> None:
        self._answer_lease(parked=True)
        self.leases.append(lease)
        self._parked = peer, number, lease
        self._answer_lease(parked=bool(self._grants and lease.count))

    def _answer_lease(self, *, parked: bool) -> None:
        if not parked or self._parked is None:
            return
        peer, number, lease = self._parked
        self._parked = None
        grants, self._grants = self._grants[: lease.count], self._grants[lease.count :]
        peer.answer(number, say.Granted(grants, self._take_orders()))

    def _report(self, peer: Peer, number: int, report: say.Report) -> None:
        self.reports.append(report)
        self.settled += report.settled
        stale = [item.id for item in report.settled if item.id in self.stale]
        peer.answer(number, say.Reported(stale, self._take_orders()))

    def _labels(self, peer: Peer, number: int, relabel: say.Relabel) -> None:
        self.relabels.append(relabel)
        peer.answer(number, say.Reported([], self._take_orders()))

    def _bye(self, peer: Peer, number: int, bye: say.Bye) -> None:
        self.byes += 1
        peer.answer(number, say.Reported())

    def _take_orders(self) -> say.Orders:
        orders = self.orders
        self.orders = say.Orders(drain=orders.drain)
        return orders


class Pool:
    """Runs nothing: a test says when and how a task ends. `room`: how many tasks it takes in all."""

    def __init__(self, settings: PoolSettings, *, done: Callable[[Settlement], None], room: Callable[[], None]) -> None:
        self.settings = settings
        self.capacity = 2 * settings.processes
        self.tasks: dict[bytes, Grant] = {}
        self.begun: set[bytes] = set()
        self.cancelled: list[bytes] = []
        self.closed = False
        self.news: list[Said] = []
        self.last_words: list[Said] = []
        self.stuck: set[bytes] = set()
        """Tasks that have waited for a child too long."""
        self.bell: Callable[[], None] = lambda: None
        self._done = done
        self._room = room

    # -- for the test

    def finish(self, grant: Grant, value: bytes = b"value", outcome: Outcome = Outcome.SUCCEEDED) -> None:
        del self.tasks[grant.id]
        self.begun.discard(grant.id)
        self._done(Settlement(grant.id, grant.attempt, outcome, value))
        self._room()

    # -- for the worker

    async def start(self) -> None:
        """All children stand."""

    def room(self) -> int:
        return self.capacity - len(self.tasks)

    def give(self, grants: Sequence[Grant]) -> None:
        for grant in grants:
            self.tasks[grant.id] = grant
            if len(self.begun) < self.settings.processes:
                self.begun.add(grant.id)
        self.bell()

    def held(self) -> list[Held]:
        return [Held(grant.id, grant.attempt) for grant in self.tasks.values()]

    def running(self) -> int:
        return len(self.begun)

    def idle(self) -> int:
        return max(0, self.settings.processes - len(self.begun))

    def said(self) -> list[Said]:
        said, self.news = self.news, []
        return said

    def farewells(self) -> list[Said]:
        said, self.last_words = self.last_words, []
        return said

    def cancel(self, task_id: bytes) -> None:
        self.cancelled.append(task_id)
        self.bell()

    def recall(self, patience: float = 0.0) -> list[Grant]:
        waiting = [grant for grant in self.tasks.values() if grant.id not in self.begun]
        if patience:
            waiting = [grant for grant in waiting if grant.id in self.stuck]
        for grant in waiting:
            del self.tasks[grant.id]
        return waiting

    def resize(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.capacity = 2 * settings.processes
        self._room()

    async def close(self) -> None:
        self.closed = True
        self.bell()
        for grant in list(self.tasks.values()):
            self.finish(grant, b"stopped", Outcome.RELEASED)
