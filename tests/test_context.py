"""What a task may ask and tell while it runs: who it is, how far it is, pieces of its result; and what it gets."""

import asyncio
import os
import struct
import time
import zlib
from typing import Any

import life_samples
import msgspec
import pytest
from poolside import Poolside, at_the_pool
from samples import MODULES

import qdistd
from qdistd.call import decode_value, encode_value
from qdistd.child import board
from qdistd.model import Grant, Outcome, Progress, Said, id_text
from qdistd.pool.ear import MOST_PARTIALS, PARTIAL_BYTES, Speech


def give(side: Poolside, name: str, *args: object, **options: Any) -> Grant:
    """A task with options of a grant."""
    grant = msgspec.structs.replace(side.grant(name, *args), **options)
    side.pool.give([grant])
    return grant


def values(said: list[Said]) -> list[Any]:
    return [decode_value(value) for news in said for value in news.partials]


# -- who it is


@at_the_pool(modules=MODULES)
async def test_a_task_knows_who_it_is(side: Poolside) -> None:
    begin = time.time()
    grant = give(side, "who", queue="mail", timeout=60.0, attempt=3)
    me = await side.result(grant)
    assert begin + 60 <= me.pop("deadline") <= time.time() + 60
    assert me == {"id": id_text(grant.id), "attempt": 3, "name": "who", "queue": "mail", "cancelled": False}


@at_the_pool(modules=MODULES)
async def test_a_task_without_a_limit_has_no_deadline(side: Poolside) -> None:
    assert (await side.run("who"))["deadline"] is None


@at_the_pool(modules=MODULES, timeout=60.0)
async def test_the_limit_of_the_worker_is_a_deadline_too(side: Poolside) -> None:
    assert (await side.run("who"))["deadline"] > time.time()


@at_the_pool(modules=MODULES)
async def test_a_thread_of_a_task_knows_it_too(side: Poolside) -> None:
    grant = side.give("who_in_a_thread")
    assert await side.result(grant) == id_text(grant.id)


def test_outside_of_a_task_nobody_is_current() -> None:
    with pytest.raises(qdistd.Refused, match=r"qdistd.current\(\) was called outside of a task"):
        life_samples.who()


# -- how far it is


@at_the_pool(modules=MODULES)
async def test_the_latest_progress_is_shown_and_once(side: Poolside) -> None:
    grant = side.give("advance", side.news, side.gate, 1000)
    await side.hears("advanced")
    assert side.pool.said() == [Said(grant.id, 1, b"", Progress(999, 1000, "step 999"))]
    assert side.pool.said() == []
    side.open_gate()
    await side.end(grant)


@at_the_pool(modules=MODULES)
async def test_the_last_progress_of_a_task_that_has_ended_is_told(side: Poolside) -> None:
    grant = side.give("advance_and_end")
    await side.end(grant)
    assert side.pool.farewells() == [Said(grant.id, 1, b"", Progress(7, 7, "all"))]
    await side.run("nap", 0.01)
    assert side.pool.said() == []


@at_the_pool(modules=MODULES)
async def test_progress_in_a_tight_loop_costs_little(side: Poolside) -> None:
    """Prints what one call costs; on a machine without load it is about a microsecond."""
    cost = await side.run("advance_quickly", 100_000)
    print(f"one progress() costs {cost:.2f} µs")
    assert cost < 100


def test_progress_and_partials_outside_of_a_task_do_nothing() -> None:
    assert life_samples.advance_quickly(10) > 0
    assert life_samples.stream(3) == 3


@pytest.mark.parametrize("args", [("1",), (1, None), (float("nan"),), (1, float("inf")), (1, 2, b"note")])
def test_progress_that_makes_no_sense_is_refused(args: Any) -> None:
    with pytest.raises(qdistd.Refused, match="expected two finite numbers and a text"):
        qdistd.progress(*args)


def test_a_page_is_read_as_it_was_written_and_not_while_it_is_written() -> None:
    descriptor = board.make()
    assert board.read(descriptor) is None
    written = board.Board(os.dup(descriptor))
    written.write(7, 1.5, 3.0, "ö" * 600 + "\udcff")
    assert board.read(descriptor) == (7, Progress(1.5, 3.0, "ö" * 500))
    os.pwrite(descriptor, b"x", board.HEAD.size)
    assert board.read(descriptor) is None
    garbage = struct.pack("=QddH", 7, 0.0, 0.0, 0xFFFF)
    os.pwrite(descriptor, board.CHECKSUM.pack(zlib.crc32(garbage)) + garbage, 0)
    assert board.read(descriptor) is None
    os.close(descriptor)


# -- pieces of its result


@at_the_pool(modules=MODULES)
async def test_partial_results_arrive_in_order_while_the_task_runs(side: Poolside) -> None:
    grant = side.give("stream", 20, side.news, side.gate)
    await side.hears("streamed")
    said = []
    while len(values(said)) < 20:
        await asyncio.sleep(0)
        said += side.pool.said()
    assert values(said) == [{"number": number} for number in range(20)]
    assert {news.id for news in said} == {grant.id}
    side.open_gate()
    assert await side.result(grant) == 20
    assert side.pool.farewells() == []


@at_the_pool(modules=MODULES)
async def test_partial_results_just_before_the_end_are_told_too(side: Poolside) -> None:
    assert await side.run("stream", 5) == 5
    assert values(side.pool.farewells()) == [{"number": number} for number in range(5)]


@at_the_pool(modules=MODULES)
async def test_what_a_task_told_before_it_died_is_told(side: Poolside) -> None:
    grant = side.give("say_and_leave", side.news)
    await side.failure(grant, Outcome.CRASHED)
    [said] = side.pool.said()
    assert (said.id, said.progress, values([said])) == (grant.id, Progress(1, 2, "half"), ["the last words"])


@at_the_pool(modules=MODULES)
async def test_a_task_that_streams_too_fast_waits_and_loses_nothing(side: Poolside) -> None:
    grant = side.give("stream", 80)
    assert await side.result(grant) == 80
    assert (await side.end(grant)).wall > 0.5
    assert len(values(side.pool.said())) == 80


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("stream_large", "qdistd.errors.TooLarge", "write a file and send its path"),
        ("stream_what_is_not_plain", "qdistd.errors.Refused", "object is not plain data"),
    ],
)
@at_the_pool(modules=MODULES)
async def test_a_partial_result_that_cannot_be_sent_is_refused_in_the_task(
    side: Poolside, name: str, kind: str, words: str
) -> None:
    failure = await side.failure(side.give(name))
    assert failure.type == kind
    assert words in failure.message


@at_the_pool(modules=MODULES)
async def test_a_forked_copy_of_a_task_cannot_write_between_its_frames(side: Poolside) -> None:
    assert b"in another process than that of its task" in await side.run("stream_from_a_copy")


def test_where_there_is_no_master_for_long_the_oldest_partial_results_are_let_go() -> None:
    many, large = Speech(0.0), Speech(0.0)
    for number in range(MOST_PARTIALS + 5):
        many.bring(b"%d" % number)
        large.bring(b"x" * 10_000)
    assert many.partials[0] == b"5"
    assert sum(map(len, large.partials)) <= PARTIAL_BYTES
    assert large.news()[1]
    assert large.news() == (b"", ())


# -- over an exec of the worker


def of_before(estate: dict[str, Any]) -> None:
    """As a program has written it that knew nothing of all this."""
    del estate["farewells"]
    [child] = estate["children"]
    os.close(child["descriptors"].pop("board"))
    del child["asked"]
    for name in ("soft_timeout", "grace", "child_tasks", "child_memory"):
        del child["settings"][name]


async def streamed(side: Poolside) -> Grant:
    """A task that runs, and has told the pool something that nobody else knows yet."""
    grant = side.give("stream", 3, side.news, side.gate)
    await side.hears("streamed")
    [child] = side.pool._children
    while not child.ear._speeches or len(child.ear._speeches[1].partials) < 3:
        await asyncio.sleep(0)
    return grant


@at_the_pool(modules=MODULES)
async def test_what_nobody_was_told_of_yet_outlives_an_exec(side: Poolside) -> None:
    grant = await streamed(side)
    await side.hand_over()
    assert values(side.pool.said()) == [{"number": number} for number in range(3)]
    side.pool.cancel(grant.id)
    await side.failure(grant, Outcome.CANCELLED)
    assert await side.run("add", 1, 2) == 3


@at_the_pool(modules=MODULES)
async def test_a_child_of_an_older_program_is_taken_over_without_it(side: Poolside) -> None:
    grant = await streamed(side)
    await side.hand_over(of_before)
    assert side.pool.said() == []
    side.open_gate()
    assert await side.result(grant) == 3
    assert await side.run("add", 1, 2) == 3


# -- what it gets from those it comes after


INPUTS = (encode_value(1), b"", encode_value([2]))


@at_the_pool(modules=MODULES)
async def test_a_task_gets_the_results_of_others_before_its_own_arguments(side: Poolside) -> None:
    assert await side.result(give(side, "give_back", "own", inputs=INPUTS, take="args")) == [1, None, [2], "own"]
    assert await side.result(give(side, "give_back", "own", inputs=INPUTS, take="list")) == [[1, None, [2]], "own"]
    assert await side.result(give(side, "give_back", "own", inputs=(), take="list")) == [[], "own"]
    assert await side.result(give(side, "give_back", "own")) == ["own"]


@at_the_pool(modules=MODULES)
async def test_a_result_of_others_that_is_no_plain_data_is_named(side: Poolside) -> None:
    failure = await side.failure(give(side, "give_back", inputs=(b"rubbish",), take="args"))
    assert failure.kind == "undecodable"
    assert failure.message.startswith("give_back: the bytes are not plain data")
