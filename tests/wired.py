"""A server of nothing but the wire, inside the test's own event loop, and a handler that remembers what it saw.

Natively, `submit` is accepted, `show` fails, `queues` is answered with a megabyte, and `wait` is never answered.
A stock client has a queue; its `qsize` is never answered.
"""

import asyncio
import collections
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from qdistd.address import Address
from qdistd.protocol import VERBS, Accepted, QueueList, Role
from qdistd.views import QueueView
from qdistd.wire.keyring import Key, Keyring
from qdistd.wire.link import Link
from qdistd.wire.network import AsyncioNetwork
from qdistd.wire.server import Gate, Peer, WireLimits

KEY = Key(b"k" * 32, frozenset({Role.SUBMIT, Role.WORK}), "test")
HERE = Address("127.0.0.1", 0)
MEGABYTE = 1024 * 1024


class Doorman:
    """The handler: what it saw is in `peers`, `asked` and, as events, in `gone` (peer, clean) and `parked`."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.asked: list[str] = []
        self.gone: asyncio.Queue[tuple[Peer, bool]] = asyncio.Queue()
        self.parked: asyncio.Queue[Peer] = asyncio.Queue()
        self._items: collections.deque[Any] = collections.deque()

    def opened(self, peer: Peer) -> None:
        self.peers.append(peer)

    def closed(self, peer: Peer, clean: bool) -> None:
        self.gone.put_nowait((peer, clean))

    def native(self, peer: Peer, number: int, verb: str, question: msgspec.Raw) -> None:
        self.asked.append(verb)
        msgspec.msgpack.decode(question, type=VERBS[verb].question)
        if verb == "submit":
            peer.answer(number, Accepted([]))
        elif verb == "queues":
            peer.answer(number, QueueList([QueueView("x" * MEGABYTE)]))
        elif verb == "wait":
            self.parked.put_nowait(peer)
        else:
            peer.fail(number, "not-found", "no such task")

    def stock(self, peer: Peer, ident: str | None, method: str, args: tuple[Any, ...], kwds: dict[str, Any]) -> None:
        self.asked.append(method)
        if method == "create":
            peer.stock_return((args[0], ("put", "get", "qsize", "full")))
        elif ident is None:
            peer.stock_return(None)
        elif method == "put":
            self._items.append(args[0])
            peer.stock_return(None)
        elif method == "get" and self._items:
            peer.stock_return(self._items.popleft())
        elif method == "qsize":
            self.parked.put_nowait(peer)
        else:
            peer.stock_error({"get": "Empty", "full": "Full"}.get(method, f"there is no method {method}"))


class Wired:
    """A listening server and the ways to reach it."""

    def __init__(self, gate: Gate, doorman: Doorman, address: Address) -> None:
        self.gate = gate
        self.doorman = doorman
        self.address = address
        self.clients: list[Link | asyncio.StreamWriter] = []

    async def link(self, secret: bytes = KEY.secret) -> Link:
        link = await Link.open(AsyncioNetwork(), self.address, secret)
        self.clients.append(link)
        return link

    async def stream(self, **where: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        where = where or {"host": self.address.host, "port": self.address.port}
        reader, writer = await asyncio.open_connection(**where)
        self.clients.append(writer)
        return reader, writer

    async def close(self) -> None:
        """End all connections, and let the loop see that they have."""
        for peer in self.doorman.peers:
            peer.abort()
        for client in self.clients:
            client.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def wired(*keys: Key, address: Address = HERE, kind: type[Peer] = Peer, **limits: Any) -> AsyncIterator[Wired]:
    """A server on a real socket; `limits` are those of `WireLimits`."""
    doorman = Doorman()
    ring = Keyring(keys or (KEY,))
    gate = Gate(lambda: ring, doorman, WireLimits(**limits))
    listener = await AsyncioNetwork().listen(address, lambda: kind(gate))
    server = Wired(gate, doorman, listener.address)
    try:
        yield server
    finally:
        listener.close()
        await server.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run an async test with a bound on its time."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())
