"""Listening sockets outlive the service: kept by the manager, found again by address, given up with the address."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import DEADLINE

from qdistd.address import Address
from qdistd.programs.sockets import ServiceNetwork
from qdistd.systemd import barrier, notify
from qdistd.wire.network import Listener, address_of
from tests.wired import HERE, run


class Manager:
    """A service manager with a store: what it is told to keep, by name."""

    def __init__(self, path: Path) -> None:
        self._store: dict[str, socket.socket] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._obey)
        self._thread.start()

    def given(self) -> list[tuple[str, socket.socket]]:
        """What the next process gets."""
        barrier()
        return [(name, sock.dup()) for name, sock in self._store.items()]

    def close(self) -> None:
        notify(END=1)
        self._thread.join()
        for sock in (self._socket, *self._store.values()):
            sock.close()

    def _obey(self) -> None:
        said: dict[str, str] = {}
        while "END" not in said:
            message, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
            said = dict(line.split("=", 1) for line in message.decode().splitlines())
            if "FDSTORE" in said:
                self._store[said["FDNAME"]] = socket.socket(fileno=fds.pop())
            elif "FDSTOREREMOVE" in said:
                self._store.pop(said["FDNAME"]).close()
            for fd in fds:  # of a barrier, which waits for this
                os.close(fd)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Manager]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")


async def greeted(client: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 16), DEADLINE)


def dialled(listener: Listener) -> socket.socket:
    host, port = listener.address.host, listener.address.port
    client = socket.create_connection((host, port), timeout=DEADLINE)
    client.setblocking(False)
    return client


async def fixed(manager: Manager) -> tuple[ServiceNetwork, Listener]:
    """A listener at a port of its own that stays the same, as one that a person has chosen."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = address_of(free)
    network = ServiceNetwork(manager.given())
    return network, await network.listen(address, Greeter)


def test_who_connects_between_two_lives_is_served_by_the_second(manager: Manager) -> None:
    async def scenario() -> None:
        _, first = await fixed(manager)
        first.close(keep=True)
        with dialled(first) as client:
            second = await ServiceNetwork(manager.given()).listen(first.address, Greeter)
            assert await greeted(client) == b"hello"
            second.close()
            assert manager.given() == []
        with pytest.raises(ConnectionRefusedError):
            dialled(first)

    run(scenario)


def test_a_name_finds_its_socket_again(manager: Manager) -> None:
    async def scenario() -> None:
        _, first = await fixed(manager)
        first.close(keep=True)
        network = ServiceNetwork(manager.given())
        second = await network.listen(Address("localhost", first.address.port), Greeter)
        assert second.address == first.address
        second.close()

    run(scenario)


def test_an_address_that_is_not_wanted_any_more_is_free_before_another_is_bound(manager: Manager) -> None:
    async def scenario() -> None:
        _, first = await fixed(manager)
        first.close(keep=True)
        network = ServiceNetwork(manager.given())
        everywhere = Address("0.0.0.0", first.address.port)
        await network.give_up(but=[everywhere])
        (await network.listen(everywhere, Greeter)).close()

    run(scenario)


def test_a_port_that_is_another_one_each_time_is_not_kept(manager: Manager) -> None:
    async def scenario() -> None:
        listener = await ServiceNetwork().listen(HERE, Greeter)
        assert manager.given() == []
        listener.close()

    run(scenario)


def test_a_unix_socket_outlives_the_service_but_not_its_address(manager: Manager, tmp_path: Path) -> None:
    async def scenario() -> None:
        address = Address(path=str(tmp_path / "s"))
        first = await ServiceNetwork().listen(address, Greeter)
        first.close(keep=True)
        assert Path(address.path).exists()
        second = await ServiceNetwork(manager.given()).listen(address, Greeter)
        second.close()
        assert not Path(address.path).exists()

    run(scenario)


def test_the_sockets_of_a_socket_unit_are_the_addresses_and_a_difference_is_said(manager: Manager) -> None:
    async def scenario() -> None:
        unit = socket.create_server(("127.0.0.1", 0))
        there = address_of(unit)
        network = ServiceNetwork([("rpc", unit)])
        elsewhere = Address("127.0.0.1", 1)
        assert network.addresses([elsewhere]) == (there,)
        assert "not 127.0.0.1:1 as [master] listen says" in await network.dissent([elsewhere])
        assert await network.dissent([Address("localhost", there.port)]) == ""
        listener = await network.listen(there, Greeter)
        with dialled(listener) as client:
            assert await greeted(client) == b"hello"
        assert manager.given() == []
        listener.close()

    run(scenario)


def test_a_listener_that_lets_nobody_in_is_not_alive() -> None:
    async def scenario() -> None:
        listener = await ServiceNetwork().listen(HERE, Greeter)
        assert listener.alive()
        with dialled(listener) as client:
            assert not listener.alive()  # the loop has had no turn since
            assert await greeted(client) == b"hello"
            assert listener.alive()
        listener.close()

    run(scenario)


def test_who_was_let_in_when_it_closes_meets_the_protocol_all_the_same() -> None:
    async def scenario() -> None:
        listener = await ServiceNetwork().listen(HERE, Greeter)
        with dialled(listener) as client:
            while not listener.alive():
                await asyncio.sleep(0)
            listener.close()
            await listener.settled()
            assert await greeted(client) == b"hello"

    run(scenario)
