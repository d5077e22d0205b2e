"""The manager daemon: one event loop in front, one writer that owns the store.

connections ──> wire.server.Peer ──native──> Desk  ─┐
                                 └─stock───> Faces ─┴─> Writer ─> Broker ─> Store
                                               tick ────┘
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from qdistd import protocol as say
from qdistd.address import Address
from qdistd.broker import Broker, News, Settings
from qdistd.broker.schedules import Schedule, Schedules
from qdistd.errors import QdistError
from qdistd.master.chronicle import Chronicle
from qdistd.master.commits import Commits
from qdistd.master.desk import Desk, Terms
from qdistd.master.faces import Compat, Faces
from qdistd.master.lobby import Lobby
from qdistd.master.people import queue_views
from qdistd.master.scheduler import Scheduler
from qdistd.master.space import Space
from qdistd.master.writer import Job, Writer
from qdistd.model import IdMaker, Result, State
from qdistd.store import Store
from qdistd.wire.keyring import Keyring
from qdistd.wire.network import Listener, Network
from qdistd.wire.server import Gate, Peer, WireLimits

HANDSHAKES = 0.3
"""Seconds for handshakes under way when the master stops: some round trips, and no long wait for who says nothing."""


class MasterSettings(msgspec.Struct, frozen=True):
    """What a master runs by; `qdistd.programs.master` makes it of `master.toml`. Everything in it can be reloaded."""

    listen: tuple[Address, ...]
    keyring: Keyring
    broker: Settings = Settings()
    compat: Compat = Compat()
    heartbeat: float = 5.0
    result: int = 1024 * 1024
    limits: WireLimits = WireLimits()
    connections: int = 10_000
    store_name: str = ""
    schedules: tuple[Schedule, ...] = ()
    folder: Path | None = None
    """Where the store is, if it is on a disk."""
    free: int = 0
    """Bytes that must be free there for new tasks."""


class Host(msgspec.Struct, frozen=True):
    """The machine as `status` reports it."""

    version: str
    name: str
    pid: int


class Master:
    """Serves until it is stopped. `broken` is called when the store can promise nothing more."""

    def __init__(
        self,
        settings: MasterSettings,
        *,
        store: Store,
        network: Network,
        loop: asyncio.AbstractEventLoop,
        commits: Commits,
        wall: Callable[[], float],
        rng: random.Random,
        host: Host,
        broken: Callable[[BaseException], None],
        log: logging.Logger,
    ) -> None:
        self._settings = settings
        self._store = store
        self._network = network
        self._loop = loop
        self._wall = wall
        self._rng = rng
        self._host = host
        self._log = log
        self._started = wall()
        self._listeners: dict[Address, Listener] = {}
        self._peers: dict[Peer, None] = {}
        self._gate = self._make_gate()
        self._timer: asyncio.TimerHandle | None = None
        self._build(commits, broken)

    def _build(self, commits: Commits, broken: Callable[[BaseException], None]) -> None:
        common: dict[str, Any] = {"store": self._store, "loop": self._loop, "log": self._log}
        self._broker = Broker(
            self._store,
            self._settings.broker,
            monotonic=self._loop.time,
            wall=self._wall,
            rng=self._rng,
            low=Space(self._settings.folder, lambda: self._settings.free, self._loop.time),
        )
        self._chronicle = Chronicle(self._loop, self._log)
        lobby = Lobby(self._broker)
        common |= {"broker": self._broker, "lobby": lobby}
        self._desk = Desk(wall=self._wall, terms=self._terms, status=self._status, **common)
        self._faces = Faces(
            new_id=IdMaker(self._wall, self._rng.randbytes),
            randbytes=self._rng.randbytes,
            compat=lambda: self._settings.compat,
            **common,
        )
        schedules = Schedules(self._broker, self._store, wall=self._wall, monotonic=self._loop.time, log=self._log)
        self._scheduler = Scheduler(schedules, loop=self._loop, log=self._log)
        self._desk.serve |= self._scheduler.verbs
        self._writer = Writer(commits=commits, announce=self._announce, broken=broken, **common)
        self._desk.writer = self._faces.writer = self._scheduler.writer = self._writer

    # -- life

    async def start(self) -> list[Address]:
        """Take up the work in the store, then listen. The addresses, with the ports that were really bound."""
        self._broker.recover()
        self._tick()
        self._scheduler.start(self._settings.schedules)
        await self._writer.drain()
        return await self._listen()

    async def stop(self) -> None:
        """Let nobody else in, commit and answer what has arrived, close every connection.

        Who was let in already, and would find nobody at all, may finish the handshake.
        """
        for listener in self._listeners.values():
            listener.close(keep=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HANDSHAKES):
                for listener in self._listeners.values():
                    await listener.settled()
                await self._gate.emptied()
        self._listeners.clear()
        await self._writer.drain()
        self._desk.keeper.close()
        self._writer.stop()
        self._scheduler.stop()
        self._chronicle.close()
        if self._timer is not None:
            self._timer.cancel()
        for peer in list(self._peers):
            peer.abort()

    def hang(self) -> str:
        """What makes no progress, in a few words; empty: all is well. To be asked now and then, not all the time."""
        if self._writer.hangs():
            return "the store does not answer"
        shut = [str(address) for address, listener in self._listeners.items() if not listener.alive()]
        return f"nobody is let in at {', '.join(shut)}" if shut else ""

    def headline(self) -> str:
        """How it stands, in a few words: `3 workers, 120 queued, 4 running`."""
        workers = sum(worker.state == "connected" for worker in self._broker.workers())
        counts = list(self._store.counts().values())
        queued = sum(count.get(state, 0) for count in counts for state in (State.READY, State.SCHEDULED, State.BLOCKED))
        running = sum(count.get(State.LEASED, 0) for count in counts)
        return f"{workers} workers, {queued} queued, {running} running"

    async def reload(self, settings: MasterSettings) -> list[Address]:
        """Apply new settings: connections and leases stay as they are."""
        self._settings = settings
        self._writer.put(Job(lambda: self._broker.reload(settings.broker), lambda _: None, self._complain))
        await self._writer.drain()
        self._gate = self._make_gate()
        addresses = await self._listen()
        self._scheduler.reload(settings.schedules)
        return addresses

    async def _listen(self) -> list[Address]:
        wanted = self._settings.listen
        for address in [address for address in self._listeners if address not in wanted]:
            self._listeners.pop(address).close()
        for address in wanted:
            if address not in self._listeners:
                self._listeners[address] = await self._network.listen(address, self._peer)
        return [self._listeners[address].address for address in wanted]

    def _peer(self) -> Peer:
        return Peer(self._gate)

    def _make_gate(self) -> Gate:
        keyring, limits = self._settings.keyring, self._settings.limits
        return Gate(lambda: keyring, self, limits, self._rng.randbytes)

    # -- what the wire calls

    def opened(self, peer: Peer) -> None:
        """A connection has shown a key."""
        if len(self._peers) >= self._settings.connections:
            self._log.warning(
                "refused %s: %d connections are open ([limits] connections)", peer.address, len(self._peers)
            )
            peer.abort()
            return
        self._peers[peer] = None

    def native(self, peer: Peer, number: int, verb: str, question: msgspec.Raw) -> None:
        """A request of qdist's own client or worker."""
        self._desk.ask(peer, number, verb, question)

    def stock(self, peer: Peer, ident: str | None, method: str, args: tuple[Any, ...], kwds: dict[str, Any]) -> None:
        """A request of a plain `BaseManager` client."""
        self._faces.ask(peer, ident, method, args, kwds)

    def closed(self, peer: Peer, clean: bool) -> None:
        """A connection is over."""
        self._peers.pop(peer, None)
        self._desk.closed(peer, clean=clean)
        self._faces.closed(peer)

    # -- ticks and events

    def _tick(self) -> None:
        def failed(error: QdistError) -> None:
            self._log.error("the tick failed: %s", error)
            self._set_timer(self._loop.time() + 1.0)  # a full disk, say: try again in a second

        self._writer.put(Job(self._broker.tick, self._set_timer, failed))

    def _complain(self, error: QdistError) -> None:
        self._log.error("the new settings of the queues cannot be applied: %s", error)

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._tick)

    def _announce(self, results: Sequence[Result], news: News) -> None:
        self._desk.announce(results)
        self._faces.announce(results)
        self._chronicle.tell(news)
        if self._timer is not None and self._broker.alarm < self._timer.when():
            self._set_timer(self._broker.alarm)

    def _terms(self) -> Terms:
        settings = self._settings
        return Terms(settings.broker.lease, settings.heartbeat, settings.broker.payload, settings.result)

    def _status(self) -> say.StatusView:
        return say.StatusView(
            version=self._host.version,
            pid=self._host.pid,
            host=self._host.name,
            started=self._started,
            now=self._wall(),
            store=self._settings.store_name,
            store_bytes=self._store.size(),
            listen=[str(listener.address) for listener in self._listeners.values()],
            connections=len(self._peers),
            queues=queue_views(self._store, self._broker.flow),
            workers=self._broker.workers(),
            commits=self._writer.commits,
            submitted=self._broker.submitted,
            settled=self._broker.settled,
            stuck=self._broker.stuck(),
            drained=sorted(self._broker.flow.drained),
            overload=self._broker.door.overload(),
        )
