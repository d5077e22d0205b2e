"""What the master does when a store refuses, a transaction is undone, or a peer says odd things at odd moments."""

import asyncio
import multiprocessing.connection
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qdistd import protocol as say
from qdistd.config import load_master
from qdistd.errors import Malformed, NotFound, Overloaded, Refused
from qdistd.master.commits import Commit, Done
from qdistd.master.writer import Job
from qdistd.model import Held, State, Task
from qdistd.programs.master import settings_of
from qdistd.store import StoreFull
from qdistd.wire.link import Link
from tests.serving import ALL, WORK, Served, new_id, run, serving, settled, task

SOON = 20.0
MEGABYTE = 1024 * 1024


async def lease(link: Link, count: int = 1, seconds: float = SOON) -> list:
    return (await link.call(say.Lease(["default"], count, seconds))).grants


class SlowDisk:
    """Holds every commit until `release`; then commits are immediate again."""

    def __init__(self, served: Served) -> None:
        self._writer: Any = served.master._writer
        self._commits = self._writer._commits
        self._writer._commits = self._hold
        self._held: list[tuple[Commit, Done]] = []
        self.began = asyncio.Event()

    def _hold(self, commit: Commit, done: Done) -> None:
        self._held.append((commit, done))
        self.began.set()

    def release(self) -> None:
        self._writer._commits = self._commits
        for commit, done in self._held:
            self._commits(commit, done)


def fill(served: Served, method: str) -> Callable[[], None]:
    """The store finds no space whenever `method` is called, until the returned function is called."""
    store: Any = served.master._store

    def full(*_: object) -> None:
        raise StoreFull("no space left for the store")

    setattr(store, method, full)
    return lambda: delattr(store, method)


def plain_connection(served: Served) -> multiprocessing.connection.Connection:
    """What a proxy of a plain manager speaks on."""
    address = (served.address.host, served.address.port)
    connection: Any = multiprocessing.connection.Client(address, authkey=ALL.secret)
    connection.send((None, "accept_connection", ("here",), {}))
    assert connection.recv() == ("#RETURN", None)
    return connection


def task_queue(served: Served) -> Any:
    """The proxy that a plain client puts tasks through and gets them from."""
    return served.manager().get_task_queue()  # type: ignore[attr-defined] # registered by name


# -- a store without space


@pytest.mark.parametrize("method", ["insert", "seal", "commit"])
def test_a_full_disk_refuses_what_is_new_and_nothing_else(tmp_path: Path, method: str) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, new = await served.link(), task(1)
            space = fill(served, method)
            with pytest.raises(Overloaded, match="no space left"):
                await client.call(say.Submit([new]))
            space()
            with pytest.raises(NotFound):
                await client.call(say.Show(new.id))
            await client.call(say.Submit([new]))
            assert (await client.call(say.Show(new.id))).state == State.READY
            assert served.broken == []

    run(scenario)


def test_a_lease_that_cannot_be_served_keeps_nobody_else_from_the_store(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await served.worker()
            waiting = worker.call(say.Lease(["default"], 1, SOON))
            await worker.call(say.Report())
            space, new = fill(served, "lease"), task(1)
            assert (await client.call(say.Submit([new]))).refused == []
            assert (await waiting).grants == []
            assert (await client.call(say.Show(new.id))).state == State.READY
            space()
            assert [grant.id for grant in await lease(worker)] == [new.id]

    run(scenario)


# -- stopping


def test_draining_ends_although_requests_keep_coming(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            writer, client = served.master._writer, await served.link()
            over = asyncio.Event()

            def again() -> None:
                if not over.is_set():
                    writer.put(Job(again, lambda _: None, lambda _: None))  # the inbox is never empty

            again()
            await client.call(say.Submit([task(1)]))
            await writer.drain()
            over.set()

    run(scenario)


# -- workers at odd moments


def test_hello_said_twice_on_a_connection_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            worker, client = await served.worker(), await served.link()
            new = task(1)
            await client.call(say.Submit([new]))
            (grant,) = await lease(worker)
            parked = worker.call(say.Lease(["other"], 1, SOON))
            again = say.Hello("worker", "w", token=b"t" * 16, held=[Held(grant.id, grant.attempt)])
            await asyncio.gather(worker.call(again), worker.call(again))
            assert (await parked).grants == []
            assert (await worker.call(say.Report([settled(grant)]))).stale == []

    run(scenario)


def test_a_connection_belongs_to_one_worker(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            link = await served.worker("a")
            with pytest.raises(Refused, match="another worker speaks"):
                await link.call(say.Hello("worker", "w", token=b"b" * 16))
            await served.worker("a")  # the real one is back, and finds its former connection
            other = await served.link(WORK)
            hellos = [other.call(say.Hello("worker", "w", token=token * 16)) for token in (b"c", b"d")]
            _, refused = await asyncio.gather(*hellos, return_exceptions=True)
            assert isinstance(refused, Refused)

    run(scenario)


def test_a_lease_that_is_overtaken_by_a_bye_is_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker, other = await served.link(), await served.worker("a"), await served.worker("b")
            await client.call(say.Submit([task(1)]))
            disk = SlowDisk(served)
            submitted = client.call(say.Submit([task(2, queue="elsewhere")]))
            await disk.began.wait()
            polls = [worker.call(say.Lease(["default"], 1, SOON)) for _ in range(2)]
            taken = other.call(say.Lease(["default"], 1, SOON))
            gone = worker.call(say.Bye())
            while len(served.master._writer._inbox) < 4:
                await asyncio.sleep(0)
            disk.release()
            await asyncio.gather(submitted, *polls, gone)
            await client.call(say.Submit([task(3)]))
            assert len((await taken).grants) == 1

    run(scenario)


def test_names_of_queues_that_nobody_waits_at_are_forgotten(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            worker = await served.worker()
            for n in range(3):
                parked = worker.call(say.Lease([f"{n}-{m}" for m in range(1000)], 1, SOON))
            await worker.call(say.Lease([], 0, 0))
            assert (await parked).grants == []
            assert served.master._desk._lobby._waiting == {}

    run(scenario)


@pytest.mark.parametrize(
    "question",
    [
        say.Hello("worker", "w", token=b"t" * 16, pid=2**64 - 1),
        say.Lease(["q"] * 100_000, 1),
        say.List(states=[State.READY] * 100_000),
        say.List(before=2**64 - 1),
        say.Submit([Task(new_id(), "a", b"", run_at=float("nan"))]),
        say.Submit([Task(new_id(), "a", b"", backoff=float("nan"))]),
        say.Wait([], float("nan")),
        say.Lease(["q"], 1, float("nan")),
    ],
    ids=lambda question: type(question).__name__,
)
def test_numbers_and_lists_beyond_all_measure_are_malformed(tmp_path: Path, question: Any) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            link = await served.link()
            await link.call(say.Hello("worker", "w", token=b"t" * 16))
            with pytest.raises(Malformed):
                await link.call(question, SOON)
            await link.call(say.Status())

    run(scenario)


# -- waiting


def test_large_results_that_have_ended_before_come_a_few_at_a_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await served.worker()
            tasks = [task(n) for n in range(40)]
            await client.call(say.Submit(tasks, watch=False))
            for grant in await lease(worker, 40):
                await worker.call(say.Report([settled(grant, value=bytes(MEGABYTE))]))
            late, ids = await served.link(), {new.id for new in tasks}
            read = served.master._desk._watchers.read([*ids])
            assert 0 < sum(len(result.value) for result in read.ended) < 32 * MEGABYTE
            assert {result.id for result in read.ended} | set(read.unread) == ids
            finished = await late.call(say.Wait([*ids], SOON))
            got = [result.id for result in finished.results]
            while len(got) < len(ids):
                got += [result.id for result in (await late.call(say.Wait([], SOON))).results]
            assert sorted(got) == sorted(ids)

    run(scenario)


# -- plain clients at odd moments


def test_a_task_for_a_plain_client_that_left_before_it_was_served_goes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker, new = await served.link(), await served.worker(), task(1)
            plain = await asyncio.to_thread(plain_connection, served)
            peers = served.master._peers
            before = len(peers)
            disk = SlowDisk(served)
            submitted = client.call(say.Submit([new]))
            await disk.began.wait()
            plain.send(("get_task_queue", "get", (), {}))
            plain.close()
            while len(peers) == before:
                await asyncio.sleep(0)
            disk.release()
            await submitted
            (grant,) = await lease(worker)
            assert (grant.id, grant.attempt) == (new.id, 2)

    run(scenario)


def test_a_blocked_get_of_a_plain_client_outlives_a_transaction_that_is_undone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            tasks = await asyncio.to_thread(task_queue, served)
            getting = asyncio.create_task(asyncio.to_thread(tasks.get))
            lobby, client = served.master._faces._lobby, await served.link()
            while not lobby._waiting:
                await asyncio.sleep(0)
            commits = served.master._writer._commits

            def fail_once(_: Commit, done: Done) -> None:
                served.master._writer._commits = commits
                done(StoreFull("no space left for the store"))

            served.master._writer._commits = fail_once
            await client.call(say.Submit([task("at last")]))
            assert await getting == "at last"

    run(scenario)


def test_a_get_that_times_out_while_its_task_is_on_the_way_is_answered_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            faces, client = served.master._faces, await served.link()
            plain = await asyncio.to_thread(plain_connection, served)
            plain.send(("get_task_queue", "get", (True, SOON), {}))
            while not faces._lobby._waiting:
                await asyncio.sleep(0)
            disk = SlowDisk(served)
            submitted = client.call(say.Submit([task("on the way")]))
            await disk.began.wait()
            (visitor,) = faces._visitors.values()
            faces._time_out(visitor)
            disk.release()
            await submitted
            assert await asyncio.to_thread(plain.recv) == ("#RETURN", "on the way")
            plain.send(("get_task_queue", "qsize", (), {}))
            assert await asyncio.to_thread(plain.recv) == ("#RETURN", 0)
            plain.close()

    run(scenario)


def test_a_plain_client_hears_nothing_of_what_is_undone_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            tasks = await asyncio.to_thread(task_queue, served)
            getting = asyncio.create_task(asyncio.to_thread(tasks.get))
            client = await served.link()
            while not served.master._faces._lobby._waiting:
                await asyncio.sleep(0)
            await client.call(say.Submit([task("mine")]))
            assert await getting == "mine"
            space = fill(served, "insert")
            with pytest.raises(Overloaded):
                await client.call(say.Submit([task("refused")]))
            space()
            assert await asyncio.to_thread(tasks.qsize) == 0
            assert [view.state for view in (await client.call(say.List())).tasks] == [State.LEASED]

    run(scenario)


def test_arguments_that_a_plain_client_cannot_be_shown_are_a_failure_and_no_success(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, odd = await served.link(), Task(new_id(), "square", b"no pickle")
            await client.call(say.Submit([odd]))
            plain = await asyncio.to_thread(plain_connection, served)
            plain.send(("get_task_queue", "get", (), {}))
            kind, text = await asyncio.to_thread(plain.recv)
            assert (kind, "not plain data" in text) == ("#TRACEBACK", True)
            assert (await client.call(say.Show(odd.id))).state == State.FAILED
            plain.close()

    run(scenario)


def test_a_collector_whose_result_cannot_be_taken_hears_so_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            worker = await served.worker()
            plain, other = [await asyncio.to_thread(plain_connection, served) for _ in range(2)]
            plain.send(("get_result_queue", "get", (), {}))
            while not served.master._faces._collectors:
                await asyncio.sleep(0)
            space = fill(served, "take")
            for n in range(2):
                other.send(("get_task_queue", "put", (n,), {}))
                assert await asyncio.to_thread(other.recv) == ("#RETURN", None)
            first, second = await lease(worker, 2)
            await worker.call(say.Report([settled(first, value=b"\x80\x04K\x07.")]))
            assert "no space left" in (await asyncio.to_thread(plain.recv))[1]
            space()
            await worker.call(say.Report([settled(second, value=b"\x80\x04K\x08.")]))
            await worker.call(say.Lease([], 0, 0))
            plain.send(("get_result_queue", "qsize", (), {}))
            assert await asyncio.to_thread(plain.recv) == ("#RETURN", 2)
            plain.send(("get_result_queue", "get", (), {}))
            assert await asyncio.to_thread(plain.recv) == ("#RETURN", 7)
            plain.close()
            other.close()

    run(scenario)


def test_a_plain_client_may_see_the_largest_result_there_can_be(tmp_path: Path) -> None:
    key = tmp_path / "all.key"
    key.write_bytes(ALL.secret)
    key.chmod(0o600)
    keys = "".join(f'{role} = ["{key}"]\n' for role in ("admin", "work", "submit"))
    file = tmp_path / "master.toml"
    file.write_text(f'[master]\nstore = "sqlite:///{tmp_path}/q.db"\n[keys]\n{keys}')
    config = load_master(file)
    assert settings_of(config).compat.limits.bytes >= config.limits.result
