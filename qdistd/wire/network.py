"""Sockets: how a connection comes to be and which options it carries.

    network.connect(address, factory) ──► protocol        one connection to a master
    network.listen(address, factory)  ──► Listener        one protocol for each connection that comes

`AsyncioNetwork` is the machine's own. Another one (all in memory, for a simulation) gives its protocols a transport
that knows write, close, abort, is_closing, get_extra_info, pause_reading, resume_reading, set_write_buffer_limits.
"""

import asyncio
import contextlib
import errno
import logging
import os
import select
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from qdistd.address import Address

BACKLOG = 4096
"""Connections that may wait to be accepted: a herd of workers that return at once must not be turned away."""

AT_ONCE = 64
"""Connections that are accepted in one turn of the loop: a flood must not keep it from everything else."""

SCARCITY = 1.0
"""Seconds without an accept when descriptors or memory are used up: those who wait would only be met by an error."""

KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 2, 1, 2
"""Seconds of silence, seconds between probes, probes: a peer without power is found out after 4 seconds."""

USER_TIMEOUT = 4000
"""Milliseconds that sent bytes may stay unacknowledged. Who sends nothing but heartbeats notices a cut
one heartbeat and this time after it: 9 s by default."""

SOCKET_MODE = 0o660
"""A Unix socket is for its owner and its group."""

_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_LINGER_NOTHING = struct.pack("ii", 1, 0)

log = logging.getLogger(__name__)

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Listener(Protocol):
    """Takes connections until it is closed; those that stand then live on."""

    @property
    def address(self) -> Address:
        """Where it listens, with the real port where port 0 was asked for."""

    def close(self, *, keep: bool = False) -> None:
        """Take no more connections. `keep`: the address stays ours where somebody holds it for our next process."""

    async def settled(self) -> None:
        """Return when all who were let in have met their protocol."""

    def alive(self) -> bool:
        """Whether it does its work: nobody waits to be let in, or somebody was since the last look."""


class Network(Protocol):
    """Whatever can carry connections."""

    async def connect(self, address: Address, factory: Callable[[], P]) -> P:
        """A connected protocol. OSError where nobody answers there."""

    async def listen(
        self,
        address: Address,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        sock: socket.socket | None = None,
    ) -> Listener:
        """Listen at `address`, or on `sock`, which somebody has bound already. OSError where that cannot be."""


class AsyncioNetwork:
    """TCP and Unix sockets, on the running asyncio loop."""

    async def connect(self, address: Address, factory: Callable[[], P]) -> P:
        """See `Network.connect`."""
        loop = asyncio.get_running_loop()
        if address.path:
            _, protocol = await loop.create_unix_connection(factory, address.path)
            return protocol
        transport, protocol = await loop.create_connection(factory, address.host, address.port)
        _watch(transport.get_extra_info("socket"))
        return protocol

    async def listen(
        self,
        address: Address,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        sock: socket.socket | None = None,
    ) -> Listener:
        """See `Network.listen`."""
        if sock is not None:
            return DoorListener(sock, factory)
        sock = await bound(address)
        return DoorListener(sock, factory, remove=address.path)


class DoorListener:
    """Lets connections in at a bound socket, which it owns; `remove`: the file that goes when it is closed.

    A listener of asyncio's own drops whom it has just accepted when it is closed; this one does not.
    """

    def __init__(self, sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol], *, remove: str = "") -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._factory = factory
        self._remove = remove
        self._meetings: set[asyncio.Task[object]] = set()
        self._looked = False
        """Whether the queue of those who wait was looked at since `alive`."""
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            _watch(sock)  # Linux hands these options on to every connection that is accepted
        try:
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        self.address = address_of(sock)
        self._resume()

    def close(self, *, keep: bool = False) -> None:
        """See `Listener.close`."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock)
        self._sock.close()  # no shutdown(): that would end the socket for everybody who holds it
        if self._remove and not keep:
            Path(self._remove).unlink(missing_ok=True)

    async def settled(self) -> None:
        """See `Listener.settled`."""
        if self._meetings:
            await asyncio.wait(self._meetings)

    def alive(self) -> bool:
        """See `Listener.alive`."""
        looked, self._looked = self._looked, False
        waiting = select.poll()
        waiting.register(self._sock, select.POLLIN)
        return looked or not waiting.poll(0)

    def _resume(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        self._looked = True
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as problem:
                if problem.errno not in _SCARCE:
                    raise
                log.error("connections have to wait: %s", problem.strerror)
                self._loop.remove_reader(self._sock)
                self._loop.call_later(SCARCITY, self._resume)
                return
            connection.setblocking(False)
            meeting = self._loop.create_task(self._meet(connection))
            self._meetings.add(meeting)
            meeting.add_done_callback(self._meetings.discard)

    async def _meet(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it is gone already
            await self._loop.connect_accepted_socket(self._factory, connection)


def why(error: Exception) -> str:
    """What went wrong, in the system's words: `Connection refused`."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or str(error)


def tcp_socket(transport: asyncio.BaseTransport) -> socket.socket | None:
    """The socket under a transport, where it is one of TCP: only those take the options below."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    return sock if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) else None


def reset_on_close(sock: socket.socket) -> None:
    """Make the end of this connection an RST: the other side shall see a fault, not the end of a process."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)


def acknowledge_at_once(sock: socket.socket) -> None:
    """Acknowledge what was read now, not 40 ms later: a stock client waits for it between its two writes.

    The kernel forgets this option, so it is set after every read.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def address_of(sock: socket.socket) -> Address:
    """Where a socket is bound."""
    name = sock.getsockname()
    return Address(path=name) if sock.family == socket.AF_UNIX else Address(host=name[0], port=name[1])


def _watch(sock: socket.socket) -> None:
    """Have the kernel find out a peer that vanished, and send every write at once."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, KEEPALIVE_IDLE),
        (socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL),
        (socket.TCP_KEEPCNT, KEEPALIVE_COUNT),
        (socket.TCP_USER_TIMEOUT, USER_TIMEOUT),
        (socket.TCP_NODELAY, 1),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def resolved(address: Address) -> Address:
    """The address with its name looked up: as IPv4, which is all that stock clients speak. OSError: no such name."""
    if address.path:
        return address
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, family=family, type=socket.SOCK_STREAM)
    return Address(*found[0][4][:2])


async def bound(address: Address) -> socket.socket:
    """A socket at this address that does not listen yet. OSError where that cannot be."""
    return _unix_socket(address.path) if address.path else _tcp_socket(await resolved(address))


def _tcp_socket(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.host, address.port))
    except OSError:
        sock.close()
        raise
    return sock


def _unix_socket(path: str) -> socket.socket:
    """A bound socket at `path`. Nobody can connect before it listens, so the mode is right from the first moment."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        Path(path).chmod(SOCKET_MODE)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket of a process that is gone; OSError where somebody listens there, or it is no socket."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise OSError(errno.EADDRINUSE, "there is a file that is no socket", path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            if probe.connect_ex(path) != errno.ECONNREFUSED:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
        Path(path).unlink()
