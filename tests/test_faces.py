"""Plain `BaseManager` clients against the master: what works with a plain server works here, and survives."""

import asyncio
import queue
from multiprocessing.managers import RemoteError
from pathlib import Path
from typing import Any

import pytest

from qdistd import protocol as say
from qdistd.broker import Settings
from qdistd.call import encode_value
from qdistd.model import State
from tests.serving import SUBMIT, WORK, Served, run, serving, settled, task

PLAIN = [
    None,
    True,
    7,
    10**40,
    1.5,
    "text",
    b"bytes",
    [1, [2]],
    (1, (2,)),
    {"a": {1: 2}},
    {1, 2},
    frozenset({3}),
    2 + 3j,
]


def queues(served: Served, **key: Any) -> tuple[Any, Any]:
    manager = served.manager(**key)
    return manager.get_task_queue(), manager.get_result_queue()  # type: ignore[attr-defined]


def test_the_ten_tasks_of_the_tutorial_come_back(tmp_path: Path) -> None:
    def submit(served: Served) -> list[str]:
        tasks, results = queues(served)
        for n in range(10):
            tasks.put(n)
        return [results.get(timeout=10) for _ in range(10)]

    def work(served: Served) -> None:
        tasks, results = queues(served)
        for _ in range(10):
            n = tasks.get(timeout=10)
            results.put(f"{n} * {n} = {n * n}")

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            got, _ = await asyncio.gather(asyncio.to_thread(submit, served), asyncio.to_thread(work, served))
            assert sorted(got) == sorted(f"{n} * {n} = {n * n}" for n in range(10))

    run(scenario)


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_data_comes_out_as_it_went_in(tmp_path: Path, value: object) -> None:
    def there_and_back(served: Served) -> None:
        tasks, results = queues(served)
        tasks.put(value)
        assert tasks.get() == value
        results.put(value)
        assert results.get() == value

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            await asyncio.to_thread(there_and_back, served)

    run(scenario)


def test_empty_queues_say_so_as_a_plain_queue_does(tmp_path: Path) -> None:
    def ask(served: Served) -> None:
        for face in queues(served):
            with pytest.raises(queue.Empty):
                face.get_nowait()
            with pytest.raises(queue.Empty):
                face.get(False)
            with pytest.raises(queue.Empty):
                face.get(timeout=0.01)
            assert (face.qsize(), face.empty(), face.full()) == (0, True, False)
        queues(served)[0].put(1)
        assert queues(served)[0].qsize() == 1

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            await asyncio.to_thread(ask, served)

    run(scenario)


def test_a_blocked_get_wakes_when_a_task_comes(tmp_path: Path) -> None:
    def get(served: Served) -> object:
        return queues(served)[0].get(timeout=20)

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            waiting = asyncio.create_task(asyncio.to_thread(get, served))
            link = await served.link()
            while (await link.call(say.Status())).connections < 2:
                await asyncio.sleep(0)
            await link.call(say.Submit([task(42)]))
            assert await waiting == 42

    run(scenario)


def test_what_a_vanished_worker_held_goes_back_to_the_queue(tmp_path: Path) -> None:
    def vanish(served: Served) -> None:
        tasks, _ = queues(served)
        tasks.put("precious")
        assert tasks.get() == "precious"

    def find(served: Served) -> object:
        return queues(served)[0].get(timeout=10)

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            await asyncio.to_thread(vanish, served)  # its proxies are gone, and their connection with them
            assert await asyncio.to_thread(find, served) == "precious"

    run(scenario)


def test_a_second_get_settles_the_first_task_without_a_result(tmp_path: Path) -> None:
    def get_twice(served: Served) -> None:
        tasks, results = queues(served)
        tasks.put(1)
        tasks.put(2)
        tasks.get()
        tasks.get()
        results.put("second")
        assert results.get() == "second"
        with pytest.raises(queue.Empty):
            results.get_nowait()
        with pytest.raises(queue.Empty):
            tasks.get_nowait()

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            await asyncio.to_thread(get_twice, served)

    run(scenario)


def test_a_result_stays_until_somebody_takes_it_also_over_a_restart(tmp_path: Path) -> None:
    def work(served: Served) -> None:
        tasks, results = queues(served)
        tasks.put(3)
        tasks.get()
        results.put("nine")

    def collect(served: Served) -> object:
        return queues(served)[1].get(timeout=10)

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            await asyncio.to_thread(work, served)
        async with serving(tmp_path) as served:
            assert await asyncio.to_thread(collect, served) == "nine"

    run(scenario)


def test_a_result_without_a_task_is_delivered_all_the_same(tmp_path: Path) -> None:
    def put(served: Served) -> object:
        _, results = queues(served)
        results.put("from nowhere")
        return results.get(timeout=10)

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            assert await asyncio.to_thread(put, served) == "from nowhere"

    run(scenario)


def test_a_stock_submitter_gets_what_a_native_worker_computed(tmp_path: Path) -> None:
    def submit(served: Served) -> object:
        tasks, results = queues(served, key=SUBMIT)
        tasks.put(7)
        return results.get(timeout=20)

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            got = asyncio.create_task(asyncio.to_thread(submit, served))
            worker = await served.worker()
            (grant,) = (await worker.call(say.Lease(["default"], 1, 20.0))).grants
            assert grant.name == "square"
            await worker.call(say.Report([settled(grant, value=encode_value("7 * 7 = 49"))]))
            assert await got == "7 * 7 = 49"

    run(scenario)


def test_a_key_does_what_its_role_allows_and_no_more(tmp_path: Path) -> None:
    def ask(served: Served) -> None:
        tasks, results = queues(served, key=SUBMIT)
        tasks.put(1)
        for refused in (tasks.get_nowait, lambda: results.put(1)):
            with pytest.raises(RemoteError, match="needs a key with the role work"):
                refused()
        tasks, results = queues(served, key=WORK)
        assert tasks.get() == 1
        results.put(1)
        for refused in (results.get_nowait, lambda: tasks.put(1)):
            with pytest.raises(RemoteError, match="needs a key with the role submit"):
                refused()

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            await asyncio.to_thread(ask, served)

    run(scenario)


@pytest.mark.parametrize("call", ["shutdown", "debug_info", "number_of_objects", "join"])
def test_nobody_stops_or_spies_on_the_master_from_afar(tmp_path: Path, call: str) -> None:
    def ask(served: Served) -> None:
        from multiprocessing.connection import Client
        from multiprocessing.managers import dispatch

        address = (served.address.host, served.address.port)
        with Client(address, authkey=b"k" * 32) as connection, pytest.raises(RemoteError, match="does not offer"):
            dispatch(connection, None, call)
        queues(served)[0].put(1)

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            await asyncio.to_thread(ask, served)

    run(scenario)


def test_a_payload_over_the_limit_is_refused_and_the_connection_goes_on(tmp_path: Path) -> None:
    def put(served: Served) -> None:
        tasks, _ = queues(served)
        with pytest.raises(RemoteError, match=r"(?s)limit.*path"):
            tasks.put(bytes(1500))
        tasks.put(1)
        assert tasks.get() == 1

    async def scenario() -> None:
        async with serving(tmp_path, broker=Settings(payload=1000)) as served:
            await asyncio.to_thread(put, served)

    run(scenario)


def test_an_object_of_a_class_is_refused_and_runs_no_code(tmp_path: Path) -> None:
    def put(served: Served) -> None:
        tasks, _ = queues(served)
        with pytest.raises(RemoteError):
            tasks.put(Path("/etc/passwd"))
        tasks.put("still here")

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            await asyncio.to_thread(put, served)
            (view,) = (await (await served.link()).call(say.List())).tasks
            assert view.state == State.READY

    run(scenario)
