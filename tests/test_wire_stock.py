"""Our client of plain BaseManager servers, against those of every CPython."""

import asyncio
import queue
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from qdistd.address import Address
from qdistd.errors import Malformed, Refused, Unavailable, WrongKey
from qdistd.wire.link import Link
from qdistd.wire.network import AsyncioNetwork
from qdistd.wire.stock import StockQueues
from tests.interpreters import every_version, interpreter
from tests.wired import KEY, run

PLAIN_SERVER = """
import queue, sys, fractions
from multiprocessing.managers import BaseManager

class QueueManager(BaseManager): pass

tasks, results = queue.Queue(), queue.Queue()
for task in eval(sys.argv[1]):
    tasks.put(task)
QueueManager.register("get_task_queue", callable=lambda: tasks)
QueueManager.register(sys.argv[2], callable=lambda: results)
server = QueueManager(("127.0.0.1", 0), authkey=b"k" * 32).get_server()
print(server.address[1], flush=True)
server.serve_forever()
"""


@asynccontextmanager
async def plain_server(
    tasks: str = "[]", python: str = sys.executable, results: str = "get_result_queue"
) -> AsyncIterator[tuple[Address, asyncio.subprocess.Process]]:
    """The original script with these tasks in its queue, and its process."""
    process = await asyncio.create_subprocess_exec(
        python, "-c", PLAIN_SERVER, tasks, results, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield Address("127.0.0.1", int(await process.stdout.readline())), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def open_queues(address: Address, key: bytes = KEY.secret) -> StockQueues:
    return await StockQueues.open(AsyncioNetwork(), address, key)


TASKS = "[None, 7, 'x' * 60000, {'a': [1, {2}]}, b'y', 2 + 3j]"


@every_version
def test_tasks_come_and_results_go(version: str) -> None:
    python = interpreter(version)

    async def scenario() -> None:
        async with plain_server(TASKS, python) as (address, _):
            queues = await open_queues(address)
            for task in eval(TASKS):
                assert await queues.get(1) == task
                await queues.put_result(task)
            with pytest.raises(queue.Empty):
                await queues.get(0.01)
            queues.close()

    run(scenario)


def test_a_waiting_get_holds_no_result_up() -> None:
    async def scenario() -> None:
        async with plain_server() as (address, _):
            queues = await open_queues(address)
            waiting = asyncio.create_task(queues.get(0.5))
            await asyncio.gather(*[queues.put_result(n) for n in range(20)])
            assert not waiting.done()
            with pytest.raises(queue.Empty):
                await waiting

    run(scenario)


def test_a_task_that_is_not_plain_data_is_named_and_the_next_one_comes() -> None:
    async def scenario() -> None:
        async with plain_server("[fractions.Fraction(1, 2), 'next']") as (address, _):
            queues = await open_queues(address)
            with pytest.raises(Malformed, match=r"fractions\.Fraction"):
                await queues.get(1)
            assert await queues.get(1) == "next"

    run(scenario)


def test_a_wrong_key_is_told() -> None:
    async def scenario() -> None:
        async with plain_server() as (address, _):
            with pytest.raises(WrongKey, match=str(address)):
                await open_queues(address, b"another")

    run(scenario)


def test_a_server_without_such_queues_says_so() -> None:
    async def scenario() -> None:
        async with plain_server(results="get_something") as (address, _):
            with pytest.raises(Refused, match="KeyError: 'get_result_queue'"):
                await open_queues(address)

    run(scenario)


def test_nobody_there_is_unavailable() -> None:
    async def scenario() -> None:
        async with plain_server() as (address, _):
            pass
        with pytest.raises(Unavailable, match="refused"):
            await open_queues(address)

    run(scenario)


def test_the_death_of_the_server_ends_a_waiting_get() -> None:
    async def scenario() -> None:
        async with plain_server() as (address, process):
            queues = await open_queues(address)
            waiting = asyncio.create_task(queues.get(60))
            await queues.put_result(1)
            process.kill()
            with pytest.raises(Unavailable, match=str(address)):
                await waiting
            with pytest.raises(Unavailable):
                await queues.put_result(2)

    run(scenario)


def test_a_server_that_does_not_answer_is_unavailable_at_the_deadline() -> None:
    async def scenario() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(Unavailable, match="no answer within"):
            await StockQueues.open(AsyncioNetwork(), address, KEY.secret, 0.2)
        server.close()

    run(scenario)


def test_a_get_that_was_given_up_ends_its_connection() -> None:
    async def scenario() -> None:
        async with plain_server() as (address, _):
            queues = await open_queues(address)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(queues.get(60), 0.1)
            with pytest.raises(Unavailable, match="given up"):
                await queues.get(1)

    run(scenario)


@every_version
def test_a_link_to_a_plain_server_says_what_it_found(version: str) -> None:
    python = interpreter(version)

    async def scenario() -> None:
        async with plain_server(python=python) as (address, _):
            with pytest.raises((Unavailable, WrongKey), match=r"plain BaseManager server|MD5 only"):
                await Link.open(AsyncioNetwork(), address, KEY.secret)

    run(scenario)
