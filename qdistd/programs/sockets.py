"""The network of a service: sockets that outlive it, and errors that name their address.

    systemd ──LISTEN_FDS──┬─ of a .socket unit ──> these are the addresses, whatever [master] listen says
                          └─ `listen-…`, our own of last time ──> the address is ours already, nobody was refused
    bind ──FDSTORE=1──> systemd keeps a copy: who connects while we are down waits in it for our next start

The store lasts over restarts and crashes and ends with a stop. An address that is given up is taken out of it.
"""

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from pathlib import Path

from qdistd.address import Address
from qdistd.systemd import barrier, listen_fds, notify
from qdistd.wire.network import AsyncioNetwork, DoorListener, Listener, address_of, bound, resolved

STORED = "listen-"
"""How the names of our own sockets in the store begin; those of a .socket unit are called otherwise."""

LONGEST_NAME = 255
"""Characters of a name in the store (FDNAME_MAX of systemd)."""

log = logging.getLogger(__name__)

Given = tuple[str, socket.socket]


class ServiceNetwork(AsyncioNetwork):
    """Listens on the sockets in `given`, else on sockets of its own, which go into systemd's store."""

    def __init__(self, given: Iterable[Given] = ()) -> None:
        given = list(given)
        self._units = {address_of(sock): sock for name, sock in given if not name.startswith(STORED)}
        self._stored = {address_of(sock): sock for name, sock in given if name.startswith(STORED)}
        self._ruled = tuple(self._units)
        """The addresses of .socket units: they are what is listened on, as the sandbox may allow no other."""

    def addresses(self, wanted: Sequence[Address]) -> tuple[Address, ...]:
        """Where to listen when the configuration wants these addresses."""
        return self._ruled or tuple(wanted)

    async def dissent(self, wanted: Iterable[Address]) -> str:
        """What a person must know where .socket units and the configuration want different things; empty: nothing."""
        names = {await _resolved(address) for address in wanted}
        if not self._ruled or names == set(self._ruled):
            return ""
        return (
            f"the addresses are those of systemd's socket unit, not {', '.join(sorted(map(str, names)))}"
            " as [master] listen says: edit the one or the other"
        )

    async def give_up(self, but: Iterable[Address]) -> None:
        """Let go of sockets of last time for addresses other than these."""
        keep = {await _resolved(address) for address in but}
        for address in [address for address in self._stored if address not in keep]:
            log.info("no longer listening on %s", address)
            _forget(address, self._stored.pop(address))

    async def listen(
        self, address: Address, factory: Callable[[], asyncio.BaseProtocol], *, sock: socket.socket | None = None
    ) -> Listener:
        """See `Network.listen`."""
        try:
            where = await resolved(address)
            if sock := sock or self._units.pop(where, None):
                return DoorListener(sock, factory)
            sock = self._stored.pop(where, None) or await bound(where)
            return _StoredListener(sock, factory, lasting=where.port > 0 or bool(where.path))
        except OSError as problem:
            raise OSError(problem.errno, f"cannot listen on {address}: {problem.strerror or problem}") from problem


class _StoredListener(DoorListener):
    """A socket of which systemd keeps a copy. `lasting`: not one whose port is another one each time."""

    def __init__(
        self, sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol], *, lasting: bool = True
    ) -> None:
        super().__init__(sock, factory, remove=address_of(sock).path)
        self._kept = lasting and notify(fds=[sock.fileno()], FDSTORE=1, FDNAME=_name(self.address))

    def close(self, *, keep: bool = False) -> None:
        """See `Listener.close`."""
        super().close(keep=keep and self._kept)
        if self._kept and not keep:
            self._kept = False
            _forget(self.address)


def handed_over(environ: MutableMapping[str, str]) -> list[Given]:
    """The listening sockets of systemd, once: afterwards `environ` does not name them any more."""
    return [(name, socket.socket(fileno=fd)) for name, fd in listen_fds(environ)]


def _forget(address: Address, sock: socket.socket | None = None) -> None:
    """Have systemd close its copy, and wait for that: the address is free then."""
    if sock is not None:
        sock.close()
        if address.path:
            Path(address.path).unlink(missing_ok=True)
    notify(FDSTOREREMOVE=1, FDNAME=_name(address))
    barrier()


def _name(address: Address) -> str:
    return (STORED + re.sub(r"[^A-Za-z0-9.]", "-", str(address)))[:LONGEST_NAME]


async def _resolved(address: Address) -> Address:
    try:
        return await resolved(address)
    except OSError:  # said where it is listened on
        return address
