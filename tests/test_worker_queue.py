"""The worker with protocol "queue" against the server of the original script, in a process of its own."""

import asyncio
import datetime
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any, Self, TypeVar

from scripted import PATIENCE, Pool
from stage import Stage, on_stage

from qdistd.address import Address
from qdistd.call import decode_call, encode_failure, encode_value
from qdistd.model import Failure, Grant, Outcome
from qdistd.wire.keyring import Key

T = TypeVar("T")

SCRIPT = Path(__file__).with_name("plain_server.py")
SECRET = "abc"


class Client(BaseManager):
    pass


Client.register("get_task_queue")
Client.register("get_result_queue")


class Server:
    """The original server; killed and started again it is on the same port, and has forgotten everything."""

    def __init__(self) -> None:
        self._port = socket.socket()  # bound and never listening: nobody else is given this port meanwhile
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        self.address = Address(*self._port.getsockname())
        self._process: subprocess.Popen[str] | None = None

    async def start(self) -> None:
        command = [sys.executable, str(SCRIPT), str(self.address.port), SECRET]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        assert await elsewhere(self._process.stdout.readline) == "ready\n"

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    async def put(self, *values: object) -> None:
        """As the original script's client puts tasks."""

        def work() -> None:
            tasks = self._client().get_task_queue()
            for value in values:
                tasks.put(value)

        await elsewhere(work)

    async def results(self, count: int) -> list[Any]:
        """As the original script's client waits for its results."""

        def work() -> list[Any]:
            results = self._client().get_result_queue()
            return [results.get(timeout=PATIENCE) for _ in range(count)]

        return await elsewhere(work)

    async def sizes(self) -> tuple[int, int]:
        """Tasks and results that wait in the server."""

        def work() -> tuple[int, int]:
            client = self._client()
            return client.get_task_queue().qsize(), client.get_result_queue().qsize()

        return await elsewhere(work)

    def close(self) -> None:
        self.kill()
        self._port.close()

    def _client(self) -> Any:
        client = Client(address=("127.0.0.1", self.address.port), authkey=SECRET.encode())
        client.connect()
        return client


async def elsewhere(work: Callable[[], T]) -> T:
    """In a thread of its own: a stock client caches a connection for each thread, dead ones too."""
    with ThreadPoolExecutor(1) as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, work)


class Squares(Pool):
    """Runs what it is given, at once."""

    def give(self, grants: Sequence[Grant]) -> None:
        super().give(grants)
        for grant in grants:
            asyncio.get_running_loop().call_soon(self.finish, grant, encode_value(number(grant) ** 2))


def number(grant: Grant) -> Any:
    (value,), kwargs = decode_call(grant.payload)
    assert (grant.name, kwargs) == ("square", {})
    return value


class Scene(Stage):
    """A stage with the original server on it."""

    async def __aenter__(self) -> Self:
        self.server = Server()
        await self.server.start()
        return await super().__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        self.server.close()

    async def work(self, make_pool: Any = Squares) -> None:
        """Start a worker, or its next incarnation."""
        key = Key(SECRET.encode(), frozenset())
        await self.begin(self.server.address, make_pool=make_pool, key=key, plain_task="square")

    def numbers(self) -> set[Any]:
        return {number(grant) for grant in self.pool.tasks.values()}

    def grant(self, value: object) -> Grant:
        return next(grant for grant in self.pool.tasks.values() if number(grant) == value)


@on_stage(Scene)
async def test_tasks_of_the_original_script_are_run_and_their_results_put(stage: Scene) -> None:
    await stage.work()
    await stage.server.put(*range(20))
    assert sorted(await stage.server.results(20)) == [n * n for n in range(20)]
    await stage.end()
    assert await stage.server.sizes() == (0, 0)


@on_stage(Scene)
async def test_no_more_tasks_are_taken_than_the_pool_has_room_for(stage: Scene) -> None:
    await stage.server.put(1, 2, 3, 4, 5, 6)
    await stage.work(Pool)
    await stage.until(lambda: stage.numbers() == {1, 2, 3, 4})
    assert await stage.server.sizes() == (2, 0)
    stage.pool.finish(stage.grant(1), encode_value(1))
    await stage.until(lambda: stage.numbers() == {2, 3, 4, 5})


@on_stage(Scene)
async def test_a_server_that_restarts_is_found_again_and_gets_the_results_made_meanwhile(stage: Scene) -> None:
    await stage.work(Pool)
    await stage.server.put(7, 8)
    await stage.until(lambda: stage.numbers() == {7, 8})
    stage.server.kill()
    await stage.until(lambda: stage.lines(logging.WARNING))
    stage.pool.finish(stage.grant(7), encode_value(49))
    await stage.server.start()
    assert await stage.server.results(1) == [49]
    stage.pool.finish(stage.grant(8), encode_value(64))
    assert await stage.server.results(1) == [64]
    await stage.server.put(9)
    await stage.until(lambda: stage.numbers() == {9})
    assert [line.split(" (")[0].rpartition(" ")[0] for line in stage.lines()] == [
        "connected to the master",
        "lost the master",
        "connected to the master",
    ]


@on_stage(Scene)
async def test_a_worker_that_was_killed_runs_at_its_next_start_what_it_had_taken(stage: Scene) -> None:
    await stage.server.put(2, 3)
    await stage.work(Pool)
    await stage.until(lambda: stage.numbers() == {2, 3})
    stage.pool.finish(stage.grant(2), encode_value(4))
    assert await stage.server.results(1) == [4]
    await stage.until(lambda: stage.worker.status().endswith("0 unsent"))
    await stage.crash()
    await stage.work()
    assert await stage.server.results(1) == [9]
    await stage.until(lambda: stage.worker.status().endswith("0 unsent"))
    await stage.end()
    await stage.work(Pool)
    assert stage.numbers() == set()


@on_stage(Scene)
async def test_a_result_outlives_a_worker_that_was_killed_before_it_could_put_it(stage: Scene) -> None:
    await stage.server.put(6)
    await stage.work(Pool)
    await stage.until(lambda: stage.numbers() == {6})
    stage.server.kill()
    await stage.until(lambda: stage.lines(logging.WARNING))
    stage.pool.finish(stage.grant(6), encode_value(36))
    await stage.until(lambda: stage.spool.kept)
    await stage.crash()
    await stage.server.start()
    await stage.work(Pool)
    assert await stage.server.results(1) == [36]
    assert stage.numbers() == set()


@on_stage(Scene)
async def test_a_stopped_worker_keeps_for_its_next_start_what_it_had_not_finished(stage: Scene) -> None:
    await stage.server.put(1, 2, 3)
    await stage.work(Pool)
    await stage.until(lambda: stage.numbers() == {1, 2, 3})
    await stage.end()
    await stage.work()
    assert sorted(await stage.server.results(3)) == [1, 4, 9]


@on_stage(Scene)
async def test_a_task_that_the_last_get_brings_after_the_stop_is_not_lost(stage: Scene) -> None:
    await stage.work()
    await stage.until(lambda: stage.lines())
    await stage.server.put(1)
    assert await stage.server.results(1) == [1]
    stage.worker.stop(0.0)
    await stage.server.put(5)
    await stage.ended()
    assert await stage.server.sizes() in ((0, 0), (1, 0))
    await stage.work()
    assert await stage.server.results(1) == [25]


@on_stage(Scene)
async def test_a_task_that_fails_puts_nothing_is_told_in_the_log_and_does_not_run_again(stage: Scene) -> None:
    await stage.server.put(13)
    await stage.work(Pool)
    await stage.until(lambda: stage.numbers() == {13})
    why = encode_failure(Failure("exception", "unlucky", "ValueError"))
    stage.pool.finish(stage.grant(13), why, Outcome.FAILED)
    (line,) = stage.lines(logging.ERROR)
    assert line.endswith("failed (exception: unlucky): no result is put")
    await stage.end()
    await stage.work(Pool)
    assert stage.numbers() == set()
    assert await stage.server.sizes() == (0, 0)


@on_stage(Scene)
async def test_a_task_that_is_no_plain_data_is_told_in_the_log_and_the_next_one_runs(stage: Scene) -> None:
    await stage.work()
    await stage.server.put(datetime.date(2026, 1, 1), 4)
    assert await stage.server.results(1) == [16]
    (line,) = stage.lines(logging.ERROR)
    assert "datetime" in line
    assert not stage.lines(logging.WARNING)[1:]


@on_stage(Scene)
async def test_a_wrong_key_is_one_error(stage: Scene) -> None:
    key = Key(b"not abc", frozenset())
    await stage.begin(stage.server.address, key=key, plain_task="square")
    await stage.until(lambda: stage.network.tries > 3)
    (line,) = stage.lines()
    assert "no master takes this worker" in line


@on_stage(Scene)
async def test_what_a_qdist_master_waits_for_is_not_put_into_a_plain_server(stage: Scene) -> None:
    address = await stage.master.start()
    await stage.begin(address)
    stage.master.give(Grant(bytes(16), 1, "square", b""))
    await stage.until(lambda: stage.pool.tasks)
    stage.master.stop()
    await stage.until(lambda: stage.lines(logging.WARNING))
    stage.pool.finish(Grant(bytes(16), 1, "square", b""), encode_value(1))
    await stage.until(lambda: stage.spool.kept)
    await stage.end()

    await stage.work()
    await stage.server.put(3)
    assert await stage.server.results(1) == [9]
    await stage.end()
    assert await stage.server.sizes() == (0, 0)

    await stage.master.start(address)
    await stage.begin(address)
    await stage.until(lambda: stage.master.settled)
