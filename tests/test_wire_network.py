"""Sockets carry the options that a long life needs, and a listener leaves things as it found them."""

import asyncio
import errno
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qdistd.address import Address
from qdistd.config.settings import MasterLimits
from qdistd.wire import network
from qdistd.wire.network import AsyncioNetwork
from tests.wired import HERE, run

WATCHED = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): network.KEEPALIVE_IDLE,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): network.KEEPALIVE_INTERVAL,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): network.KEEPALIVE_COUNT,
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): network.USER_TIMEOUT,
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
}


class End(asyncio.Protocol):
    """One end of a connection; `made` is done when it stands."""

    def __init__(self) -> None:
        self.made: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.made.set_result(transport)


def options(transport: asyncio.Transport) -> dict[tuple[int, int], int]:
    sock = transport.get_extra_info("socket")
    return {option: sock.getsockopt(*option) for option in WATCHED}


@asynccontextmanager
async def pair(
    address: Address, **listen: Any
) -> AsyncIterator[tuple[asyncio.Transport, asyncio.Transport, network.Listener]]:
    """Both ends of a connection to a fresh listener."""
    accepted = End()
    listener = await AsyncioNetwork().listen(address, lambda: accepted, **listen)
    client = await AsyncioNetwork().connect(listener.address, End)
    ends = await client.made, await accepted.made
    try:
        yield *ends, listener
    finally:
        listener.close()
        for end in ends:
            end.abort()
        await asyncio.sleep(0)


def test_both_ends_find_out_a_peer_that_vanished() -> None:
    async def scenario() -> None:
        async with pair(HERE) as (client, server, _):
            assert options(client) == WATCHED
            assert options(server) == WATCHED

    run(scenario)


def test_whoever_says_nothing_but_heartbeats_finds_out_within_ten_seconds_too() -> None:
    idle = network.KEEPALIVE_IDLE + network.KEEPALIVE_INTERVAL * network.KEEPALIVE_COUNT
    assert max(idle, MasterLimits().heartbeat + network.USER_TIMEOUT / 1000) < 10.0


def test_the_address_names_the_port_that_was_given() -> None:
    async def scenario() -> None:
        async with pair(HERE) as (_, server, listener):
            assert listener.address == Address("127.0.0.1", server.get_extra_info("sockname")[1])

    run(scenario)


def test_an_ipv6_listener_leaves_the_ipv4_port_free() -> None:
    async def scenario() -> None:
        async with pair(Address("::1", 0)) as (client, _, _):
            assert client.get_extra_info("socket").family == socket.AF_INET6
            every = await AsyncioNetwork().listen(Address("::", 0), End)
            also = await AsyncioNetwork().listen(Address("0.0.0.0", every.address.port), End)
            for each in (every, also):
                each.close()

    if not socket.has_dualstack_ipv6():
        pytest.skip("this kernel has no IPv6")
    run(scenario)


def test_a_name_is_looked_up() -> None:
    async def scenario() -> None:
        async with pair(Address("localhost", 0)) as (client, _, _):
            assert client.get_extra_info("peername")[0] == "127.0.0.1"

    run(scenario)


def test_nobody_there_is_an_oserror() -> None:
    async def scenario() -> None:
        listener = await AsyncioNetwork().listen(HERE, End)
        listener.close()
        with pytest.raises(OSError):
            await AsyncioNetwork().connect(listener.address, End)
        with pytest.raises(OSError):
            await AsyncioNetwork().connect(Address(path="/nowhere/at.all"), End)

    run(scenario)


def test_a_port_that_is_taken_is_an_oserror() -> None:
    async def scenario() -> None:
        listener = await AsyncioNetwork().listen(HERE, End)
        with pytest.raises(OSError) as taken:
            await AsyncioNetwork().listen(listener.address, End)
        assert taken.value.errno == errno.EADDRINUSE
        listener.close()

    run(scenario)


def test_a_unix_socket_is_for_its_owner_and_group_and_goes_with_its_listener(tmp_path: Path) -> None:
    path = tmp_path / "qdist.sock"

    async def scenario() -> None:
        async with pair(Address(path=str(path))) as (client, server, listener):
            assert listener.address == Address(path=str(path))
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            listener.close()
            assert not path.exists()
            assert not client.is_closing() and not server.is_closing()

    run(scenario)


def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "qdist.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def scenario() -> None:
        async with pair(Address(path=str(path))) as (client, _, _):
            assert not client.is_closing()

    run(scenario)


def test_the_socket_of_a_living_process_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "qdist.sock"

    async def scenario() -> None:
        async with pair(Address(path=str(path))) as (first, _, _):
            with pytest.raises(OSError) as taken:
                await AsyncioNetwork().listen(Address(path=str(path)), End)
            assert taken.value.errno == errno.EADDRINUSE
            again = await AsyncioNetwork().connect(Address(path=str(path)), End)
            (await again.made).abort()
            assert not first.is_closing()

    run(scenario)


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious.txt"
    path.write_text("data")

    async def scenario() -> None:
        with pytest.raises(OSError, match="no socket"):
            await AsyncioNetwork().listen(Address(path=str(path)), End)

    run(scenario)
    assert path.read_text() == "data"


def test_a_socket_that_systemd_bound_is_used_and_left(tmp_path: Path) -> None:
    path = tmp_path / "qdist.sock"

    async def scenario() -> None:
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(path))
        async with pair(HERE, sock=unix) as (_, _, listener):
            assert listener.address == Address(path=str(path))
            listener.close()
            assert path.exists()
        tcp = socket.create_server(("127.0.0.1", 0))
        async with pair(Address("::", 1), sock=tcp) as (_, server, _):
            assert options(server) == WATCHED

    run(scenario)
