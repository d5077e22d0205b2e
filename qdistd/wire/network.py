"""Sockets: how a connection comes to be and which options it carries.

    network.connect(address, factory) ──► protocol        one connection to a master
    network.listen(address, factory)  ──► Listener        one protocol for each connection that comes

`AsyncioNetwork` is the machine's own. Another one (all in memory, for a simulation) gives its protocols a transport
that knows write, close, abort, is_closing, get_extra_info, pause_reading, resume_reading, set_write_buffer_limits.
"""

import asyncio
import contextlib
import errno
import os
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

KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 3, 1, 3
"""Seconds of silence, seconds between probes, probes: a peer without power is found out after 6 seconds."""

USER_TIMEOUT = 6000
"""Milliseconds that sent bytes may stay unacknowledged: the same 6 seconds while something is under way."""

SOCKET_MODE = 0o660
"""A Unix socket is for its owner and its group."""

_LINGER_NOTHING = struct.pack("ii", 1, 0)

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Listener(Protocol):
    """Takes connections until it is closed; those that stand then live on."""

    @property
    def address(self) -> Address:
        """Where it listens, with the real port where port 0 was asked for."""

    def close(self) -> None:
        """Take no more connections."""


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
        loop = asyncio.get_running_loop()
        inherited = sock is not None
        if sock is None:
            sock = _unix_socket(address.path) if address.path else await _tcp_socket(address)
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            _watch(sock)  # Linux hands these options on to every connection that is accepted
        # create_unix_server would remove the file of a socket that is systemd's, from CPython 3.13 on
        server = await loop.create_server(factory, sock=sock, backlog=AT_ONCE)
        sock.listen(BACKLOG)
        return _Listener(server, _address_of(sock), remove=bool(address.path) and not inherited)


class _Listener:
    def __init__(self, server: asyncio.AbstractServer, address: Address, *, remove: bool) -> None:
        self._server = server
        self._remove = remove
        self.address = address

    def close(self) -> None:
        self._server.close()
        if self._remove:
            Path(self.address.path).unlink(missing_ok=True)


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


def _address_of(sock: socket.socket) -> Address:
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


async def _tcp_socket(address: Address) -> socket.socket:
    """A bound socket. A name is looked up as IPv4, which is all that stock clients speak."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    found = await asyncio.get_running_loop().getaddrinfo(
        address.host, address.port, family=family, type=socket.SOCK_STREAM
    )
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(found[0][4])
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
