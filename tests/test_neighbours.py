"""Master, worker and client of this version and of the one before talk to each other, in every combination.

The older side is its frozen words, `old_protocol`, on real sockets.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import old_protocol as old
import old_settings
import pytest
from cluster import make_key
from old_protocol import OldLink
from serving import ALL, Served, new_id, run, serving, settled, task
from small_master import SmallMaster
from stage import Stage, grant, on_stage
from test_session import Listening, entry, submit, with_master

from qdistd import protocol as say
from qdistd.broker import Settings
from qdistd.call import decode_call, decode_failure, encode_value
from qdistd.client.outbox import Parcel
from qdistd.client.session import Session
from qdistd.config import load_client, load_master, load_worker
from qdistd.errors import Refused
from qdistd.model import Outcome, Progress, Said, Settlement, State, Task
from qdistd.wire.keyring import Key
from qdistd.wire.network import AsyncioNetwork

SOON = 20.0


async def old_link(served: Served, kind: str = "client", held: list[old.Held] | None = None, key: Key = ALL) -> OldLink:
    """A client or a worker of before that has said hello."""
    link = await OldLink.open(AsyncioNetwork(), served.address, key.secret)
    words = {"token": b"o" * 16, "queues": ["default"], "processes": 1} if kind == "worker" else {}
    welcome = await link.call(old.Hello(kind, "before", held=held or [], **words))
    assert (type(welcome), welcome.lease) == (old.Welcome, Settings().lease)
    return link


async def lease(link: OldLink, count: int = 1) -> list[old.Grant]:
    granted: old.Granted = await link.call(old.Lease(["default"], count, SOON))
    return granted.grants


# -- a worker of before, a master of today


def test_an_old_worker_runs_tasks_of_a_new_master(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await old_link(served, "worker")
            new = task(7, priority=3, soft_timeout=5.0, timeout=9.0)
            await client.call(say.Submit([new], watch=False))
            (granted,) = await lease(worker)
            assert (granted.id, granted.name, granted.payload, granted.timeout) == (new.id, "square", new.payload, 9.0)
            said = old.Said(new.id, 1, b"a line\n")
            assert (await worker.call(old.Report([], [said]))).stale == []
            view = await client.call(say.Show(new.id))
            assert view.attempts[0].output == b"a line\n"
            end = old.Settlement(new.id, 1, old.Outcome.SUCCEEDED, b"v", output=b"a line\nand one\n")
            assert (await worker.call(old.Report([end]))).stale == []
            (result,) = (await client.call(say.Wait([new.id], SOON))).results
            assert (result.state, result.value) == (State.SUCCEEDED, b"v")
            assert type(await worker.call(old.Bye())) is old.Reported

    run(scenario)


def test_an_old_worker_gets_no_task_that_requires_a_label_and_obeys_a_drain(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await old_link(served, "worker")
            await client.call(say.Submit([task(1, requires=("gpu",)), plain := task(2)]))
            assert [granted.id for granted in await lease(worker, 5)] == [plain.id]
            waiting = worker.call(old.Lease(["default"], 5, SOON))
            await client.call(say.Drain(["before"]))
            granted = await waiting
            assert (granted.grants, granted.orders.drain) == ([], True)

    run(scenario)


@pytest.mark.parametrize(("take", "args"), [("args", (49, None, 1)), ("list", ([49, None], 1)), ("", (1,))])
def test_an_old_worker_gets_the_inputs_of_a_task_among_its_arguments(
    tmp_path: Path, take: str, args: tuple[Any, ...]
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await old_link(served, "worker")
            first, second = task(7), task(8)
            last = task(1, after=(first.id, second.id), take=take, if_failed="run")
            await client.call(say.Submit([first, second, last]))
            one, two = await lease(worker, 5)
            ends = [
                old.Settlement(one.id, 1, old.Outcome.SUCCEEDED, encode_value(49)),
                old.Settlement(two.id, 1, old.Outcome.FAILED, msgspec.msgpack.encode(old.Failure("exception", "no"))),
            ]
            await worker.call(old.Report(ends))
            (granted,) = await lease(worker)
            assert (granted.id, decode_call(granted.payload)) == (last.id, (args, {}))

    run(scenario)


def test_inputs_that_cannot_be_given_to_an_old_worker_fail_their_task_with_the_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await old_link(served, "worker")
            first = task(7)
            last = Task(new_id(), "square", b"no call", after=(first.id,), take="args")
            await client.call(say.Submit([first, last], watch=False))
            (one,) = await lease(worker)
            await worker.call(old.Report([old.Settlement(one.id, 1, old.Outcome.SUCCEEDED, encode_value(49))]))
            assert await lease(worker) == []
            (result,) = (await client.call(say.Wait([last.id], SOON))).results
            assert result.state is State.FAILED
            assert "its worker is of an older version" in decode_failure(result.value).message

    run(scenario)


def test_an_old_worker_keeps_what_it_holds_over_the_upgrade_of_its_master(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await old_link(served, "worker")
            await client.call(say.Submit([new := task(7)]))
            await lease(worker)
        async with serving(tmp_path) as served:
            worker = await old_link(served, "worker", [old.Held(new.id, 1)])
            reported = await worker.call(old.Report([old.Settlement(new.id, 1, old.Outcome.SUCCEEDED, b"v")]))
            assert (reported.stale, reported.orders.cancel) == ([], [])

    run(scenario)


# -- a client of before, a master of today


def test_an_old_client_submits_waits_and_cancels_at_a_new_master(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await old_link(served), await served.worker()
            new = old.Task(new_id(), "square", task(7).payload, retries=2, key="k")
            other = old.Task(new_id(), "square", b"", delay=600.0)
            large = old.Task(new_id(), "square", bytes(100_000))
            accepted = await client.call(old.Submit([new, other, large]))
            assert [(refusal.id, refusal.code) for refusal in accepted.refused] == [(large.id, "too-large")]
            (granted,) = (await worker.call(say.Lease(["default"], 1, SOON))).grants
            await worker.call(say.Report([settled(granted)]))
            (result,) = (await client.call(old.Wait([], SOON))).results
            assert (result.id, result.state, result.value) == (new.id, old.State.SUCCEEDED, b"v")
            cancelled = await client.call(old.Cancel([other.id, large.id]))
            assert (cancelled.states, cancelled.unknown) == ({other.id: old.State.CANCELLED}, [large.id])

    run(scenario)


def test_an_old_client_sees_tasks_that_wait_for_others_as_scheduled(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            today, before = await served.link(), await old_link(served)
            first = task(7)
            blocked = task(8, after=(first.id,), requires=("gpu",), soft_timeout=1.0)
            await today.call(say.Submit([first, blocked]))
            view = await before.call(old.Show(blocked.id))
            assert (view.state, (await today.call(say.Show(blocked.id))).state) == (old.State.SCHEDULED, State.BLOCKED)
            listed = await before.call(old.List())
            assert [(view.id, view.state) for view in listed.tasks] == [
                (blocked.id, old.State.SCHEDULED),
                (first.id, old.State.READY),
            ]
            await before.call(old.Cancel([blocked.id]))
            assert (await before.call(old.Retry([blocked.id]))).states == {blocked.id: old.State.SCHEDULED}
            for question in (old.Queues(), old.Workers(), old.Status()):
                await before.call(question)

    run(scenario)


def test_an_old_client_hears_of_a_rejected_task_that_it_has_failed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await old_link(served), await served.worker()
            new = old.Task(new_id(), "square", b"", retries=5)
            await client.call(old.Submit([new]))
            (granted,) = (await worker.call(say.Lease(["default"], 1, SOON))).grants
            why = msgspec.msgpack.encode(old.Failure("rejected", "never"))
            await worker.call(say.Report([settled(granted, Outcome.REJECTED, why)]))
            (result,) = (await client.call(old.Wait([], SOON))).results
            assert result.state is old.State.FAILED
            assert (await client.call(old.Show(new.id))).attempts[0].failure == old.Failure("rejected", "never")

    run(scenario)


# -- a worker of today, a master of before


@asynccontextmanager
async def at_an_old_master(stage: Stage) -> AsyncIterator[None]:
    """A connected worker. Whatever it has said in the end, a master of before understands."""
    stage.master.welcome = say.Welcome(old.VERSION, 30.0, 5.0, 1 << 16, 1 << 20, 0.0)
    stage.master.refusing = {"labels": ("refused", "this master knows no verb 'labels'; its version is 1")}
    await stage.connected()
    yield
    asked = [*stage.master.hellos, *stage.master.leases, *stage.master.reports]
    for question in asked:
        old.understood(question, old.VERBS[say.BY_QUESTION[type(question)].word][0])


@on_stage(Stage)
async def test_a_new_worker_reports_to_an_old_master_what_that_understands(stage: Stage) -> None:
    async with at_an_old_master(stage):
        stage.master.give(*map(grant, (1, 2, 3)))
        await stage.until(lambda: len(stage.pool.tasks) == 3)
        stage.pool.news = [Said(grant(1).id, 1, b"halfway\n", Progress(1, 2), (b"partial",))]
        stage.pool.finish(grant(1))
        stage.pool.finish(grant(2), b"why", Outcome.REJECTED)
        stage.pool.finish(grant(3), b"why", Outcome.FAILED)
        await stage.until(lambda: len(stage.master.settled) == 3)
        assert stage.ends() == [(1, Outcome.SUCCEEDED), (2, Outcome.FAILED), (3, Outcome.FAILED)]


@on_stage(Stage)
async def test_labels_that_change_are_no_reason_to_leave_an_old_master(stage: Stage) -> None:
    async with at_an_old_master(stage):
        stage.worker.reload(msgspec.structs.replace(stage.settings, labels=("gpu",)))
        stage.master.give(grant(1))
        await stage.until(lambda: len(stage.pool.tasks) == 1)
        stage.pool.finish(grant(1))
        await stage.until(lambda: stage.ends() == [(1, Outcome.SUCCEEDED)])
        assert (len(stage.master.hellos), stage.master.ends) == (1, [])


def test_an_answer_of_an_old_master_is_understood_by_a_new_worker() -> None:
    granted = old.understood(old.Granted([old.Grant(b"t" * 16, 1, "square", b"p")]), say.Granted)
    assert (granted.grants[0].take, granted.grants[0].inputs, granted.orders.drain) == ("", (), False)
    welcome = old.understood(old.Welcome(old.VERSION, 30.0, 5.0, 1, 1, 0.0), say.Welcome)
    assert (welcome.version, welcome.epoch) == (old.VERSION, b"")
    assert old.understood(old.Settlement(b"t" * 16, 1, old.Outcome.LOST), Settlement).wait < 0


# -- a client of today, a master of before


@with_master(version=old.VERSION, quick=True)
async def test_a_new_client_gives_an_old_master_what_that_can_do(master: SmallMaster, session: Session) -> None:
    tasks = [entry() for _ in range(3)]
    submit(session, *tasks)
    assert {(await task.end).state for task in tasks} == {State.SUCCEEDED}
    for question in [*master.questions(say.Submit), *master.questions(say.Wait)]:
        old.understood(question, old.VERBS[say.BY_QUESTION[type(question)].word][0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"after": (bytes(16),), "take": "args"}, "after, take"),
        ({"requires": ("gpu",)}, "requires"),
        ({"unique": "queued"}, "unique"),
        ({"soft_timeout": 1.0}, "soft_timeout"),
        ({"expires": 60.0}, "expires"),
        ({"concurrency_key": "k"}, "concurrency_key"),
        ({"backoff_cap": 60.0}, "backoff_cap"),
    ],
)
def test_an_old_master_never_sees_a_task_with_an_option_that_it_would_drop(options: dict[str, Any], words: str) -> None:
    @with_master(version=old.VERSION, quick=True)
    async def scenario(master: SmallMaster, session: Session) -> None:
        plain, special = entry(), Listening(Task(new_id(), "square", b"", **options))
        submit(session, special, plain)
        with pytest.raises(Refused, match=f"square: the master is of an older version and knows no {words}: upgrade"):
            await session.flush()
        with pytest.raises(Refused):
            await special.end
        assert (await plain.end).state is State.SUCCEEDED
        assert list(master.tasks) == [plain.task_id]

    scenario()


@with_master(version=old.VERSION)
async def test_an_old_master_is_not_asked_for_all_or_none(master: SmallMaster, session: Session) -> None:
    first, second = entry(), entry()
    submit(session, Parcel([first, second]))
    with pytest.raises(Refused, match="older version and stores no tasks all together or not at all: upgrade it first"):
        await session.flush()
    assert master.tasks == {}


# -- stock clients, which are always of before


def test_a_stock_worker_gets_the_inputs_of_a_task_among_its_arguments(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client = await served.link()
            first = task(7)
            await client.call(say.Submit([first, task(after=(first.id,), take="args")]))

            def work() -> list[Any]:
                manager: Any = served.manager()
                tasks, results = manager.get_task_queue(), manager.get_result_queue()
                got = []
                for _ in range(2):
                    got.append(tasks.get(timeout=SOON))
                    results.put(49)
                return got

            assert await asyncio.to_thread(work) == [7, 49]

    run(scenario)


# -- the files of a worker are replaced while it runs


def test_a_child_of_another_version_than_its_worker_says_what_to_do() -> None:
    text = msgspec.json.encode({"tasks": 3, "tickets": 4, "results": 5, "life": 6, "modules": []}).decode()
    command = [sys.executable, "-c", f"from qdistd.child.main import main; main({text!r})"]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 1
    assert child.stderr.startswith("the qdist on the disk is not the version of this worker: restart the worker (")
    assert child.stderr.count("\n") == 1


def test_the_settings_of_before_are_valid(tmp_path: Path) -> None:
    key = str(make_key(tmp_path / "some.key"))
    for name in ("master", "worker", "client"):
        (tmp_path / name).write_text(getattr(old_settings, name.upper()).replace("KEY", key))
    master, worker, client = (
        load_master(tmp_path / "master"),
        load_worker(tmp_path / "worker"),
        load_client(tmp_path / "client"),
    )
    assert (master.retention.finished, master.limits.lease, master.tasks.losses) == (60 * 86400.0, 30.0, 10)
    assert (worker.queues, worker.drain) == (("default", "other"), 30.0)
    assert (client.timeout, [str(address) for address in client.masters]) == (30.0, ["127.0.0.1:5000"])
