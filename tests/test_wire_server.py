"""The server against plain clients of every CPython, and against whoever means it ill."""

import asyncio
import logging
import pickle
import socket
import struct
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from typing import Any

import pytest

from qdistd import protocol as say
from qdistd.protocol import Role
from qdistd.wire.frames import framed
from qdistd.wire.keyring import Key
from qdistd.wire.server import Peer
from tests.interpreters import every_version, interpreter
from tests.plain_client import PLAIN_CLIENT
from tests.wired import KEY, Wired, run, wired

SOON = 0.2
"""Seconds of a deadline that a test waits for."""

WRONG_KEY_CLIENT = """
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
try:
    Client(("127.0.0.1", int(sys.argv[1])), authkey=b"another")
except AuthenticationError as error:
    sys.exit(0 if "rejected" in str(error) else 2)
sys.exit(1)
"""


async def script(python: str, source: str, server: Wired) -> None:
    """Run a plain client in an interpreter of its own; it must end well."""
    process = await asyncio.create_subprocess_exec(
        python, "-c", source, str(server.address.port), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


def stock_request(connection: Connection, *request: object) -> Any:
    connection.send(request)
    return connection.recv()


def in_thread(work: Callable[[Connection], Any], server: Wired, key: bytes = KEY.secret) -> Any:
    """A plain connection, used in a thread as it blocks."""

    def inside() -> Any:
        with Client((server.address.host, server.address.port), authkey=key) as connection:
            return work(connection)

    return asyncio.to_thread(inside)


# -- plain clients


@every_version
def test_a_plain_client_has_a_queue(version: str) -> None:
    python = interpreter(version)

    async def scenario() -> None:
        async with wired() as server:
            await script(python, PLAIN_CLIENT, server)

    run(scenario)


@every_version
def test_a_plain_client_with_another_key_is_told_so(version: str) -> None:
    python = interpreter(version)

    async def scenario() -> None:
        async with wired() as server:
            await script(python, WRONG_KEY_CLIENT, server)
            assert server.gate.refused == 1

    run(scenario)


@pytest.mark.parametrize(("version", "enters"), [("3.11", False), ("3.12", True)])
def test_a_server_that_insists_on_sha256_refuses_old_clients(version: str, enters: bool) -> None:
    python = interpreter(version)

    async def scenario() -> None:
        async with wired(min_digest="sha256") as server:
            if enters:
                await script(python, PLAIN_CLIENT, server)
            else:
                await script(python, WRONG_KEY_CLIENT, server)
                with pytest.raises(AssertionError, match="rejected"):
                    await script(python, PLAIN_CLIENT, server)

    run(scenario)


def test_the_key_gives_the_roles() -> None:
    async def scenario() -> None:
        keys = [Key(role.encode() * 8, frozenset({role}), role) for role in (Role.SUBMIT, Role.WORK, Role.ADMIN)]
        async with wired(*keys) as server:
            for key in keys:
                await in_thread(lambda connection: stock_request(connection, None, "dummy", (), {}), server, key.secret)
                peer = server.doorman.peers[-1]
                assert (peer.roles, peer.label) == (key.roles, key.label)
                assert peer.may(Role.WORK) is (key.label != "submit")

    run(scenario)


def test_a_client_that_dies_inside_a_call_is_noticed_at_once() -> None:
    async def scenario() -> None:
        async with wired() as server:
            await in_thread(lambda connection: connection.send(("7f", "qsize", (), {})), server)
            assert (await server.doorman.gone.get())[1] is True
            peer = await server.doorman.parked.get()
            peer.stock_return(1)  # to nobody, and nothing happens

    run(scenario)


def test_requests_that_did_not_wait_are_answered_one_by_one() -> None:
    async def scenario() -> None:
        def pipeline(connection: Connection) -> list[Any]:
            for value in range(500):
                connection.send(("7f", "put", (value,), {}))
            connection.send(("7f", "qsize", (), {}))
            connection.send(("7f", "get", (), {}))
            return [connection.recv() for _ in range(502)]

        async with wired() as server:
            answers = asyncio.create_task(in_thread(pipeline, server))
            peer = await server.doorman.parked.get()
            assert server.doorman.asked[-1] == "qsize"  # the get behind it has to wait
            peer.stock_return("size")
            assert (await answers)[500:] == [("#RETURN", "size"), ("#RETURN", 0)]

    run(scenario)


def test_who_floods_without_waiting_for_an_answer_is_dropped() -> None:
    async def scenario() -> None:
        def flood(connection: Connection) -> None:
            with pytest.raises(OSError):
                while True:
                    connection.send(("7f", "qsize", (), {}))

        async with wired() as server:
            await in_thread(flood, server)
            assert (await server.doorman.gone.get())[1] is False

    run(scenario)


@pytest.mark.parametrize(
    "request_",
    [b"", b"garbage", pickle.dumps(7), pickle.dumps((1, 2, 3, 4)), pickle.dumps((None, "a", [], {})), b"\x80\x04}}b."],
)
def test_a_broken_request_is_answered_and_the_next_one_too(request_: bytes) -> None:
    async def scenario() -> None:
        def ask(connection: Connection) -> tuple[Any, Any]:
            connection.send_bytes(request_)
            return connection.recv(), stock_request(connection, None, "dummy", (), {})

        async with wired() as server:
            (kind, text), after = await in_thread(ask, server)
            assert kind == "#TRACEBACK" and text.startswith("malformed: ")
            assert after == ("#RETURN", None)

    run(scenario)


def test_a_length_of_gigabytes_ends_the_connection() -> None:
    async def scenario() -> None:
        def announce(connection: Connection) -> None:
            with socket.socket(fileno=connection.fileno()) as sock:
                sock.sendall(struct.pack("!iQ", -1, 2**40))
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
                sock.detach()

        async with wired() as server:
            await in_thread(announce, server)

    run(scenario)


# -- native connections


async def native(server: Wired) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw native connection: no Link that would refuse to say nonsense."""
    connection = await asyncio.to_thread(Client, (server.address.host, server.address.port), authkey=KEY.secret)
    upgrade = (None, say.UPGRADE, (say.VERSION,), {})
    assert await asyncio.to_thread(stock_request, connection, *upgrade) == ("#RETURN", say.VERSION)
    sock = socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
    connection.close()
    return await server.stream(sock=sock)


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"\xc1",
        b"\x93\x01\xa6submit",
        b"\x92\x01\xa6submit",
        b"\x93\x01\x02\xc0",
        b"\x93\x01\xa2\xff\xff\xc0",
        b"\x93\x01\xa6submit" + b"\x91" * 1_000_000 + b"\xc0",
        b"\x93\x01\xa6submit\xdd\xff\xff\xff\xff",
    ],
    ids=lambda request_: repr(request_[:20]),
)
def test_a_broken_native_request_ends_the_connection(request_: bytes) -> None:
    async def scenario() -> None:
        async with wired() as server:
            reader, writer = await native(server)
            writer.write(framed(request_))
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert (await server.doorman.gone.get())[1] is False

    run(scenario)


def test_a_native_frame_over_the_limit_ends_the_connection() -> None:
    async def scenario() -> None:
        async with wired(frame=1000) as server:
            reader, writer = await native(server)
            writer.write(struct.pack("!I", 1001))
            with pytest.raises(ConnectionResetError):
                await reader.read()

    run(scenario)


def test_who_does_not_read_its_answers_is_not_heard_until_it_does() -> None:
    async def scenario() -> None:
        async with wired() as server:
            reader, writer = await native(server)
            many = 100
            writer.write(framed(b"\x93\x01\xa6queues\x80") * many)
            await answer(reader)
            assert len(server.doorman.asked) < many / 2, "megabytes were made for somebody who does not read"
            for _ in range(many - 1):
                await answer(reader)
            assert len(server.doorman.asked) == many

    run(scenario)


async def answer(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


# -- strangers


def test_a_stranger_hears_the_same_few_bytes_whatever_it_says() -> None:
    async def scenario() -> None:
        heard = set()
        async with wired() as server:
            for words in (b"x", b"{sha256}" + b"0" * 32, b"m" * 16, b"", b"#WELCOME#", b"x" * 256, b"x" * 257):
                reader, writer = await server.stream()
                size = int.from_bytes(await reader.readexactly(4), "big")
                assert (await reader.readexactly(size)).startswith(b"#CHALLENGE#{sha256}")
                writer.write(framed(words))
                heard.add(await reader.read())
                assert heard == {framed(b"#FAILURE#")}
            assert server.doorman.peers == []

    run(scenario)


@pytest.mark.parametrize("said", [b"", b"\0", framed(b"m" * 16)[:-1]])
def test_a_slow_handshake_is_cut_at_the_deadline(said: bytes) -> None:
    async def scenario() -> None:
        async with wired(handshake=SOON) as server:
            start = time.monotonic()
            reader, writer = await server.stream()
            writer.write(said)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert SOON <= time.monotonic() - start < 10 * SOON
            assert server.gate.strangers == 0

    run(scenario)


def test_a_trickle_does_not_move_the_deadline() -> None:
    async def scenario() -> None:
        async with wired(handshake=SOON) as server:
            start = time.monotonic()
            reader, writer = await server.stream()
            end = asyncio.create_task(reader.read())
            for byte in framed(b"m" * 200):
                writer.write(bytes([byte]))
                await asyncio.wait([end], timeout=SOON / 50)
                if end.done():
                    break
            assert isinstance(end.exception(), ConnectionResetError)
            assert time.monotonic() - start < 10 * SOON

    run(scenario)


def test_who_has_shown_a_key_has_no_deadline() -> None:
    async def scenario() -> None:
        async with wired(handshake=SOON) as server:
            link = await server.link()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(link.closed), 2 * SOON)
            await link.call(say.Submit([]))

    run(scenario)


def test_a_flood_of_strangers_keeps_nobody_with_a_key_out(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with wired(unauthenticated=50) as server:
            threads = threading.active_count()
            crowd = [await server.stream() for _ in range(300)]
            link = await server.link()
            await in_thread(lambda connection: stock_request(connection, None, "dummy", (), {}), server)
            await link.call(say.Submit([]))
            assert server.gate.strangers == 49
            assert server.gate.refused == 251
            assert threading.active_count() <= threads + 1  # that of this test's own stock client
            reader, _ = crowd[0]
            with pytest.raises(ConnectionResetError):
                await reader.read()

    with caplog.at_level(logging.WARNING):
        run(scenario)
    lines = [record.getMessage() for record in caplog.records if record.name == "qdistd.wire.server"]
    assert 1 <= len(lines) <= 5, "one line a second"
    assert "too many wait for their handshake" in lines[0]


class FromAfar(Peer):
    """A connection that seems to come from another machine."""

    @property
    def host(self) -> str:
        return "192.0.2.7"

    @host.setter
    def host(self, value: str) -> None:
        """It stays there."""


def test_a_host_that_is_refused_again_and_again_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with wired() as server:
            peer = FromAfar(server.gate)
            for now in (0.0, 2.0, 59.0):
                server.gate.note(peer, "the key is wrong", now)
            server.gate.note(peer, "no handshake in time", 59.5)
            server.gate.note(peer, "the key is wrong", 60.5)

    with caplog.at_level(logging.WARNING, "qdistd.wire.server"):
        run(scenario)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(": ", 1)[1] for line in lines] == [
        "the key is wrong (1 refused since the last such line)",
        "no handshake in time (3 refused since the last such line)",
        "the key is wrong (1 refused since the last such line)",
    ]


@pytest.mark.parametrize(("kind", "left"), [(FromAfar, 2), (Peer, 5)], ids=["another machine", "this machine"])
def test_one_address_holds_so_many_strangers_unless_it_is_this_machine(kind: type[Peer], left: int) -> None:
    async def scenario() -> None:
        async with wired(per_address=2, kind=kind) as server:
            readers = [(await server.stream())[0] for _ in range(5)]
            await readers[-1].readexactly(4)
            assert server.gate.strangers == left
            link = await server.link()
            assert server.gate.strangers == left - (kind is FromAfar)
            await link.call(say.Submit([]))

    run(scenario)
