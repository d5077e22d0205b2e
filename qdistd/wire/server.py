"""The master's side of every connection, stock or native.

    accepted ──► handshake ──► stock ── (None, "qdist", …) ──► native
                    │            │ one request at a time         │ pipelined, answers in any order
                    │            ▼                               ▼
                    │      handler.stock(…)                handler.native(…)
                    ▼
         too many, too slow, wrong key: dropped, and counted in the log

A stranger gets short constant answers and little memory: no thread, 256 bytes a message, five seconds. When too many
strangers wait, the oldest is dropped for the newest: who holds a key needs a moment, who holds none sits for ever.
"""

import asyncio
import ipaddress
import logging
import os
import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from qdistd.errors import Malformed, TooLarge, WrongKey
from qdistd.events import Event, told
from qdistd.protocol import LARGEST_FRAME, UNREADABLE, UPGRADE, VERSION, Role
from qdistd.wire import plain
from qdistd.wire.channel import Channel
from qdistd.wire.handshake import FAILURE, LONGEST, Digest, RandomBytes, serve
from qdistd.wire.keyring import Key, Keyring
from qdistd.wire.network import acknowledge_at_once

SECONDS_PER_LINE = 1.0
"""Refused connections are logged at most this often, with their number: a flood must not fill the journal."""

SECONDS_PER_HOST = 60.0
"""And the same refusal of the same host so often: a worker whose key is wrong tries until somebody mends it."""

HOSTS_TOLD = 1000
"""Refusals that are remembered for that, the latest ones."""

_NOBODY = Key(b"", frozenset())
_ENCODE = msgspec.msgpack.Encoder().encode
_REQUEST = msgspec.msgpack.Decoder(tuple[int, str, msgspec.Raw])
_STOCK_ERRORS = {
    "Empty": plain.encode(("#ERROR", queue.Empty())),
    "Full": plain.encode(("#ERROR", queue.Full())),
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WireLimits:
    """What connections may cost: seconds, connections, bytes."""

    handshake: float = 5.0
    unauthenticated: int = 1000
    per_address: int = 200
    """Unauthenticated connections of one address that is not of this machine."""
    frame: int = LARGEST_FRAME
    stock: int = 68 * 1024
    """A stock request: the payload limit and 4 KiB around it."""
    min_digest: Digest = "md5"


class Handler(Protocol):
    """What a server does with its connections. Nothing here may block."""

    def opened(self, peer: "Peer") -> None:
        """A peer has shown a key."""

    def stock(self, peer: "Peer", ident: str | None, method: str, args: tuple[Any, ...], kwds: dict[str, Any]) -> None:
        """A stock request, all plain data. The next one comes after `stock_return` or `stock_error`."""

    def native(self, peer: "Peer", number: int, verb: str, question: msgspec.Raw) -> None:
        """A native request, to be answered by `answer` or `fail` with the same number, at any time."""

    def closed(self, peer: "Peer", clean: bool) -> None:
        """An opened peer is gone. `clean`: it ended the connection in order (FIN), as a dying process does too."""


class Gate:
    """What all connections of a server share: keys, limits, and the strangers (not authenticated), oldest first.

    `keyring` is asked at every handshake, so that a reload takes effect at once.
    """

    def __init__(
        self,
        keyring: Callable[[], Keyring],
        handler: Handler,
        limits: WireLimits,
        randbytes: RandomBytes = os.urandom,
    ) -> None:
        self.keyring = keyring
        self.handler = handler
        self.limits = limits
        self.randbytes = randbytes
        self.refused = 0
        """Connections dropped before they had shown a key, since the start."""
        self._unlogged = 0
        self._quiet_until = 0.0
        self._told: dict[tuple[str, str], float] = {}
        """Until when a host and a reason need no further line, the last one told at the end."""
        self._strangers: dict[Peer, None] = {}
        self._by_host: dict[str, dict[Peer, None]] = {}
        self._emptied = asyncio.Event()

    @property
    def strangers(self) -> int:
        """Connections that have not shown a key yet."""
        return len(self._strangers)

    async def emptied(self) -> None:
        """Return when no stranger is left: all handshakes under way have ended."""
        while self._strangers:
            self._emptied.clear()
            await self._emptied.wait()

    def enter(self, peer: "Peer") -> None:
        """A connection came; where that is one too many, the oldest goes."""
        neighbours = self._by_host.setdefault(peer.host, {})
        neighbours[peer] = self._strangers[peer] = None
        if len(neighbours) > self.limits.per_address and not _is_local(peer.host):
            next(iter(neighbours)).refuse("too many of this address wait for their handshake")
        elif len(self._strangers) > self.limits.unauthenticated:
            next(iter(self._strangers)).refuse("too many wait for their handshake")

    def leave(self, peer: "Peer") -> None:
        """A stranger is no stranger any more, or gone. May be said twice."""
        if peer not in self._strangers:
            return
        del self._strangers[peer]
        neighbours = self._by_host[peer.host]
        del neighbours[peer]
        if not neighbours:
            del self._by_host[peer.host]
        if not self._strangers:
            self._emptied.set()

    def note(self, peer: "Peer", why: str, now: float) -> None:
        """Count a refused connection, and log it unless one was just before, or one like it (`now`: loop time)."""
        self.refused += 1
        self._unlogged += 1
        if now < max(self._quiet_until, self._told.get((peer.host, why), 0.0)):
            return
        text, extra = "refused %s: %s (%d refused since the last such line)", told(Event.PEER_REFUSED)
        log.warning(text, peer.address, why, self._unlogged, extra=extra)
        self._unlogged = 0
        self._quiet_until = now + SECONDS_PER_LINE
        self._told.pop((peer.host, why), None)
        self._told[peer.host, why] = now + SECONDS_PER_HOST
        if len(self._told) > HOSTS_TOLD:
            del self._told[next(iter(self._told))]


class Peer(Channel):
    """One connection to this server. `roles` and `label` are of the key it has shown, `address` is its other end."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(LONGEST)
        self.host = ""
        self.address = "unix"
        self.key = _NOBODY
        self._gate = gate
        self._handler = gate.handler
        self._limits = gate.limits
        self._plain = plain.Limits(bytes=gate.limits.stock)
        self._step: Callable[[memoryview], None] = self._shake
        self._is_open = False
        self._is_native = False

    @property
    def roles(self) -> frozenset[Role]:
        """What this peer may do."""
        return self.key.roles

    @property
    def label(self) -> str:
        """The name of its key."""
        return self.key.label

    def may(self, role: Role) -> bool:
        """Whether its key carries `role`, or may do everything."""
        return self.key.may(role)

    def answer(self, number: int, answer: msgspec.Struct) -> None:
        """Answer a native request. An answer that no frame holds becomes the error that says so."""
        body = _ENCODE((number, 0, answer))
        if len(body) <= self._limits.frame:
            self._send(body)
        else:
            self.fail(number, TooLarge.code, f"the answer has {len(body)} bytes, a frame {self._limits.frame} at most")

    def fail(self, number: int, code: str, message: str) -> None:
        """Answer a native request with an error (`errors` code, a sentence for a person)."""
        self._send(_ENCODE((number, 1, (code, message))))

    def stock_return(self, value: object) -> None:
        """Answer the stock request with a plain value."""
        self._stock_answer(plain.encode(("#RETURN", value)))

    def stock_error(self, kind: str) -> None:
        """Answer the stock request so that the client raises: `queue.Empty` for "Empty", `queue.Full` for "Full", a
        `RemoteError` with that text for anything else."""
        known = _STOCK_ERRORS.get(kind)
        self._stock_answer(known or plain.encode(("#TRACEBACK", kind.rstrip("\n") + "\n")))

    def close(self) -> None:
        """End the connection in order, after all answers have been sent."""
        self._gate.leave(self)
        self._close()

    def abort(self) -> None:
        """End the connection at once (RST)."""
        self._gate.leave(self)
        self._reset()

    def refuse(self, why: str) -> None:
        """Drop a stranger, and say in the log why."""
        self.reason = why
        self._gate.note(self, why, self._loop.time())
        self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        super().connection_made(transport)
        self.host, self.address = _origin(transport.get_extra_info("peername"))
        limits, gate = self._limits, self._gate
        self._deadline = self._loop.call_later(limits.handshake, self.refuse, "no handshake in time")
        self._handshake = serve(gate.keyring(), gate.randbytes, limits.min_digest)
        gate.enter(self)
        self._write(next(self._handshake))

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        if self._tcp and not self._is_native:
            acknowledge_at_once(self._tcp)
        super().data_received(data)
        if self._halted and not self._is_native and self._reader.held > self._limits.stock:
            log.warning("%s sends stock requests without waiting for answers", self.address)
            self.abort()

    def pause_writing(self) -> None:
        """Called by the transport: a peer that does not read its answers is not heard either."""
        super().pause_writing()
        if self._is_native:
            self._halted = True
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Called by the transport."""
        super().resume_writing()
        if self._is_native and not self._over:
            self._go_on()
            self._transport.resume_reading()

    def _ended(self) -> None:
        self._deadline.cancel()
        self._gate.leave(self)
        if self._is_open:
            self._is_open = False
            self._handler.closed(self, self._finished)

    def _received(self, frame: memoryview) -> None:
        self._step(frame)

    def _shake(self, frame: memoryview) -> None:
        try:
            self._write(self._handshake.send(bytes(frame)))
        except StopIteration as end:
            self.key = end.value
            self._deadline.cancel()
            self._gate.leave(self)
            self._reader.limit = self._limits.stock
            self._step = self._stock
            self._is_open = True
            self._handler.opened(self)

    def _stock(self, frame: memoryview) -> None:
        self._halted = True
        try:
            request = plain.decode(frame, self._plain)
        except (Malformed, TooLarge) as error:
            self.stock_error(f"{error.code}: {error}")
            return
        match request:
            case (None, str(method), (int(),), {}) if method == UPGRADE:
                self._upgrade()
            case (None | str() as ident, str(method), tuple(args), dict(kwds)):
                self._handler.stock(self, ident, method, args, kwds)
            case _:
                self.stock_error("malformed: expected (ident, method, args, kwds)")

    def _upgrade(self) -> None:
        self._halted = False
        self._is_native = True
        self._reader.limit = self._limits.frame
        self._step = self._native
        self._write(plain.encode(("#RETURN", VERSION)))

    def _stock_answer(self, body: bytes) -> None:
        self._write(body)
        self._go_on()

    def _go_on(self) -> None:
        """Hear the next frame, which may be here already; not from within: the answer to that one would nest."""
        self._halted = False
        if self._reader.held:
            self._loop.call_soon(self._pump)

    def _native(self, frame: memoryview) -> None:
        try:
            number, verb, question = _REQUEST.decode(frame)
        except UNREADABLE as error:
            raise Malformed(f"expected [number, verb, question]: {error}") from None
        self._handler.native(self, number, verb, question)

    def _offended(self, error: Malformed | TooLarge | WrongKey) -> None:
        if not self._is_open:
            self._gate.note(self, str(error), self._loop.time())
            self._write(FAILURE)
            self.close()
        elif isinstance(error, TooLarge) and not self._is_native:
            # the reader drops the rest of it, and the client reads this when it has sent it all
            self.stock_error(f"{error.code}: {error}; put the data in a file on shared storage and send its path")
        else:
            log.warning("%s breaks the protocol: %s", self.address, error)
            self.abort()


def _origin(peername: object) -> tuple[str, str]:
    """The host of the other end (empty where it has none: a Unix socket), and its name for people."""
    match peername:
        case (str(host), int(port), *_):
            return host, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "", "unix"


def _is_local(host: str) -> bool:
    if not host:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
