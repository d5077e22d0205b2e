"""Our own client against the server, over real sockets."""

import asyncio
import pickle
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from qdistd import protocol as say
from qdistd.address import Address
from qdistd.errors import Malformed, NotFound, TooLarge, Unavailable, WrongKey
from qdistd.model import Task
from qdistd.wire.frames import framed
from qdistd.wire.handshake import serve
from qdistd.wire.keyring import Key, Keyring
from qdistd.wire.link import Link
from qdistd.wire.network import AsyncioNetwork
from tests.wired import KEY, MEGABYTE, run, wired

SOON = 0.2
"""Seconds of a deadline that a test waits for."""


def test_a_question_is_answered() -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            assert await link.call(say.Submit([])) == say.Accepted([])
            assert server.doorman.peers[0].roles == KEY.roles
            assert server.doorman.peers[0].label == "test"
            assert server.doorman.peers[0].address.startswith("127.0.0.1:")

    run(scenario)


def test_an_error_has_the_class_that_its_code_names() -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            with pytest.raises(NotFound, match="no such task"):
                await link.call(say.Show(bytes(16)))

    run(scenario)


def test_a_parked_question_holds_no_other_up() -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            waiting = link.call(say.Wait(seconds=5))
            answers = await asyncio.gather(*[link.call(say.Submit([])) for _ in range(1000)])
            assert len(answers) == 1000 and not waiting.done()

    run(scenario)


def test_large_questions_and_answers_pass() -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            large = Task(bytes(16), "n", b"x" * (8 * MEGABYTE))
            assert await link.call(say.Submit([large])) == say.Accepted([])
            answers = await asyncio.gather(*[link.call(say.Queues()) for _ in range(10)])
            assert [len(answer.queues[0].name) for answer in answers] == [MEGABYTE] * 10

    run(scenario)


def test_a_question_that_no_frame_holds_is_refused_here_and_the_link_lives() -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            with pytest.raises(TooLarge, match="submit"):
                await link.call(say.Submit([Task(bytes(16), "n", b"x" * say.LARGEST_FRAME)]))
            await link.call(say.Submit([]))

    run(scenario)


def test_an_answer_that_no_frame_holds_is_an_error_and_the_link_lives() -> None:
    async def scenario() -> None:
        async with wired(frame=1000) as server:
            link = await server.link()
            with pytest.raises(TooLarge, match="1000 at most"):
                await link.call(say.Queues())
            await link.call(say.Submit([]))

    run(scenario)


def test_a_wrong_key_is_told_quickly_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with wired() as server:
            start = time.monotonic()
            with pytest.raises(WrongKey, match=str(server.address)):
                await server.link(b"another")
            assert time.monotonic() - start < 1
            assert server.gate.refused == 1 and server.doorman.peers == []

    run(scenario)
    assert "does not hold this key" in caplog.text


def test_nobody_there_is_unavailable_and_names_the_address() -> None:
    async def scenario() -> None:
        async with wired() as server:
            pass
        with pytest.raises(Unavailable, match=f"{server.address}: .*refused"):
            await server.link()

    run(scenario)


@asynccontextmanager
async def rogue(messages: list[bytes], *, greet: bool = True) -> AsyncIterator[Address]:
    """A server that holds the key, and then has one of these for each frame; without `greet`, all at once."""

    async def frame(reader: asyncio.StreamReader) -> bytes:
        return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        side = serve(Keyring([KEY]), lambda size: b"r" * size)
        reply: bytes | None = next(side) if greet else None
        while reply is not None:
            writer.write(framed(reply))
            try:
                reply = side.send(await frame(reader))
            except StopIteration:
                reply = None
        for message in messages:
            if greet:
                await frame(reader)
            writer.write(message)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


WELCOMED = framed(pickle.dumps(("#RETURN", 1), 4))


def test_a_silent_server_is_unavailable_at_the_deadline() -> None:
    async def scenario() -> None:
        async with rogue([], greet=False) as address:
            start = time.monotonic()
            with pytest.raises(Unavailable, match="no answer within"):
                await Link.open(AsyncioNetwork(), address, KEY.secret, deadline=SOON)
            assert SOON <= time.monotonic() - start < 5

    run(scenario)


@pytest.mark.parametrize(
    "message",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        framed(b"SSH-2.0-OpenSSH_9.2"),
        b"\xff\xff\xff\xff" * 20,
        framed(b"x" * 300),
    ],
    ids=["http", "another frame", "endless", "too long"],
)
def test_a_server_of_something_else_is_unavailable(message: bytes) -> None:
    async def scenario() -> None:
        async with rogue([message], greet=False) as address:
            with pytest.raises(Unavailable, match="does not speak the protocol"):
                await Link.open(AsyncioNetwork(), address, KEY.secret, deadline=5)

    run(scenario)


@pytest.mark.parametrize(
    "reply",
    [("#TRACEBACK", "AssertionError: 'qdist' unrecognized"), ("#RETURN", "yes"), ("#RETURN", {"a": 1})],
    ids=repr,
)
def test_a_server_without_the_upgrade_is_unavailable(reply: object) -> None:
    async def scenario() -> None:
        async with rogue([framed(pickle.dumps(reply, 4))]) as address:
            with pytest.raises(Unavailable, match="a plain BaseManager server"):
                await Link.open(AsyncioNetwork(), address, KEY.secret)

    run(scenario)


@pytest.mark.parametrize(
    "answer",
    [b"", b"\xc1", b"\x93\x07\x00\xc0", b"\x92\x01\x00", b"\x93\x01\x00" + b"\x91" * 100_000, b"\x93\xa2\xff\xff\0\0"],
)
def test_an_answer_to_nothing_ends_the_link(answer: bytes) -> None:
    async def scenario() -> None:
        async with rogue([WELCOMED, framed(answer)]) as address:
            link = await Link.open(AsyncioNetwork(), address, KEY.secret)
            with pytest.raises(Unavailable):
                await link.call(say.Wait(seconds=60))
            assert "does not speak the protocol" in await link.closed

    run(scenario)


@pytest.mark.parametrize("body", [b"\xc0", b"\x91\x05", b"\x91\x91\x93\xc4\x01x\xa1\xff\xa0", b"\xa1x"])
def test_an_answer_of_another_shape_fails_its_question_alone(body: bytes) -> None:
    async def scenario() -> None:
        async with rogue([WELCOMED, framed(b"\x93\x01\x00" + body)]) as address:
            link = await Link.open(AsyncioNetwork(), address, KEY.secret)
            with pytest.raises(Malformed, match="submit"):
                await link.call(say.Submit([]))
            assert not link.closed.done()

    run(scenario)


def test_no_answer_in_time_ends_the_whole_link_with_a_reset() -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            patient = link.call(say.Wait(seconds=60))
            with pytest.raises(Unavailable, match="no answer to 'wait' in time"):
                await link.call(say.Wait(), timeout=SOON)
            with pytest.raises(Unavailable):
                await patient
            assert (await server.doorman.gone.get())[1] is False

    run(scenario)


def test_an_answered_question_leaves_no_alarm_that_ends_the_link() -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            await link.call(say.Submit([]), timeout=SOON)
            later = link.call(say.Wait(), timeout=3 * SOON)
            start = time.monotonic()
            with pytest.raises(Unavailable):
                await later
            assert time.monotonic() - start > 2 * SOON

    run(scenario)


def test_a_question_that_was_given_up_does_not_disturb_the_next() -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            link.call(say.Submit([])).cancel()
            assert await link.call(say.Submit([])) == say.Accepted([])

    run(scenario)


@pytest.mark.parametrize("orderly", [True, False])
def test_a_broken_link_fails_all_calls_and_says_why(orderly: bool) -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            calls = [link.call(say.Wait(seconds=60)) for _ in range(3)]
            peer = await server.doorman.parked.get()
            if orderly:
                peer.close()
            else:
                peer.abort()
            for call in calls:
                with pytest.raises(Unavailable, match=str(server.address)):
                    await call
            reason = await link.closed
            assert ("reset" in reason) is not orderly
            with pytest.raises(Unavailable, match=re.escape(reason)):
                await link.call(say.Submit([]))

    run(scenario)


def test_the_end_of_a_process_is_clean_and_an_abort_is_not() -> None:
    async def scenario() -> None:
        async with wired() as server:
            for end, clean in ((Link.close, True), (lambda link: link.abort("test"), False)):
                link = await server.link()
                end(link)
                peer, was_clean = await server.doorman.gone.get()
                assert (peer, was_clean) == (server.doorman.peers[-1], clean)

    run(scenario)


def test_what_was_asked_before_close_still_arrives() -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            call = link.call(say.Submit([]))
            link.close()
            with pytest.raises(Unavailable, match="on this side"):
                await call
            await server.doorman.gone.get()
            assert server.doorman.asked == ["submit"]

    run(scenario)


def test_a_link_over_a_unix_socket(tmp_path: object) -> None:
    async def scenario() -> None:
        async with wired(address=Address(path=f"{tmp_path}/s")) as server:
            link = await server.link()
            assert await link.call(say.Submit([])) == say.Accepted([])
            link.abort("test")
            await server.doorman.gone.get()
            assert server.doorman.peers[0].address == "unix"

    run(scenario)


def test_idle_counts_from_the_last_byte() -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            link.call(say.Wait(seconds=60))
            await server.doorman.parked.get()
            before = link.idle()
            await link.call(say.Submit([]))
            assert 0 <= link.idle() < 1 and before >= 0

    run(scenario)


def test_whoever_outruns_the_master_can_wait_until_it_has_read() -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            assert link.drained().done()
            large = Task(bytes(16), "n", b"x" * MEGABYTE)
            calls = []
            while link.writable:
                calls.append(link.call(say.Submit([large])))
            waiting = link.drained()
            assert not waiting.done()
            await waiting
            assert link.writable
            assert len(await asyncio.gather(*calls)) == len(calls)

    run(scenario)


def test_the_end_of_the_link_lets_go_of_whoever_waits_to_write() -> None:
    async def scenario() -> None:
        async with rogue([WELCOMED]) as address:
            link = await Link.open(AsyncioNetwork(), address, KEY.secret)
            large = Task(bytes(16), "n", b"x" * (8 * MEGABYTE))
            calls = []
            while link.writable:
                calls.append(link.call(say.Submit([large])))
            waiting = link.drained()
            link.abort("test")
            await waiting
            assert all(isinstance(end, Unavailable) for end in await asyncio.gather(*calls, return_exceptions=True))

    run(scenario)


def test_keys_may_change_while_connections_live() -> None:
    async def scenario() -> None:
        async with wired() as server:
            link = await server.link()
            server.gate.keyring = lambda: Keyring([Key(b"new", KEY.roles)])
            await link.call(say.Submit([]))
            with pytest.raises(WrongKey):
                await server.link()
            await server.link(b"new")

    run(scenario)
