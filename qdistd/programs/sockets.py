"""The network of a service: sockets that systemd handed over, and errors that name their address."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, MutableMapping

from qdistd.address import Address
from qdistd.systemd import listen_fds
from qdistd.wire.network import AsyncioNetwork, Listener

log = logging.getLogger(__name__)


class ServiceNetwork(AsyncioNetwork):
    """Listens on the sockets in `given` where one has the address that is asked for, else on sockets of its own."""

    def __init__(self, given: Iterable[socket.socket] = ()) -> None:
        self._given = {_address_of(sock): sock for sock in given}

    async def listen(
        self, address: Address, factory: Callable[[], asyncio.BaseProtocol], *, sock: socket.socket | None = None
    ) -> Listener:
        """See `Network.listen`."""
        try:
            return await super().listen(address, factory, sock=sock or self._given.pop(address, None))
        except OSError as problem:
            raise OSError(problem.errno, f"cannot listen on {address}: {problem.strerror or problem}") from problem

    def close_unused(self) -> None:
        """Let go of sockets for addresses that the configuration does not name."""
        for address, sock in self._given.items():
            log.warning("systemd hands over a socket for %s, which [master] listen does not name", address)
            sock.close()
        self._given.clear()


def handed_over(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets of systemd, once: afterwards `environ` does not name them any more."""
    return [socket.socket(fileno=fd) for _, fd in listen_fds(environ)]


def _address_of(sock: socket.socket) -> Address:
    name = sock.getsockname()
    return Address(path=name) if sock.family == socket.AF_UNIX else Address(host=name[0], port=name[1])
