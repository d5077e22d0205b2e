"""The session: everything submitted arrives once, everything finished is heard, whatever happens to the link."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from cluster import reserve_port
from serving import ALL, run, serving
from serving import task as make_task
from small_master import KEY, SmallMaster, small_master

from qdistd import protocol as say
from qdistd.address import Address
from qdistd.client.outbox import Entry
from qdistd.client.session import MOST_REQUESTS, Session
from qdistd.errors import NotFound, Overloaded, QdistError, Refused, TooLarge, WrongKey
from qdistd.model import IdMaker, Outcome, Result, Settlement, State, Task
from qdistd.wire.link import Link
from qdistd.wire.network import AsyncioNetwork

NOWHERE = Address("127.0.0.1", 1)
"""Nobody listens on port 1."""

new_id = IdMaker(time.time, random.Random(7).randbytes)


class Listening(Entry):
    """An entry whose end a test can await."""

    __slots__ = ("end", "times")

    def __init__(self, task: Task | None, watch: bool = True, task_id: bytes = b"", patient: bool = False) -> None:
        super().__init__(task.id if task else task_id, task, watch, patient)
        self.end: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.times = 0

    def ended(self, result: Result) -> None:
        self.times += 1
        if not self.end.done():
            self.end.set_result(result)

    def failed(self, error: QdistError) -> None:
        if not self.end.done():
            self.end.set_exception(error)
            self.end.exception()  # not every test wants to know


def entry(name: str = "square", payload: bytes = b"", task_id: bytes = b"", **options: Any) -> Listening:
    return Listening(Task(task_id or new_id(), name, payload), **options)


def submit(session: Session, *entries: Entry) -> None:
    session.outbox.waiting.extend(entries)
    session.pump()


def make(*addresses: Address, key: bytes = KEY) -> Session:
    hello = say.Hello("client", "test")
    return Session(AsyncioNetwork(), addresses, key, hello=hello, wall=time.time, rng=random.Random(3))


@asynccontextmanager
async def running(*addresses: Address, key: bytes = KEY) -> AsyncIterator[Session]:
    session = make(*addresses, key=key)
    task = asyncio.create_task(session.run())
    try:
        yield session
    finally:
        session.close()
        await asyncio.wait([task])


def with_master(**options: Any) -> Callable[[Callable[[SmallMaster, Session], Awaitable[None]]], Callable[[], None]]:
    """Run the test with a small master and a session to it."""

    def decorate(test: Callable[[SmallMaster, Session], Awaitable[None]]) -> Callable[[], None]:
        async def scenario() -> None:
            async with small_master(**options) as master, running(master.address) as session:
                await test(master, session)

        def bounded() -> None:
            run(scenario)

        bounded.__name__ = test.__name__
        return bounded

    return decorate


# -- tasks out


@with_master(quick=True)
async def test_a_task_is_stored_and_its_end_is_heard(master: SmallMaster, session: Session) -> None:
    task = entry()
    submit(session, task)
    assert (await task.end).state == State.SUCCEEDED
    assert task.task is None
    assert task.task_id in master.tasks


@with_master()
async def test_a_lone_task_is_not_kept_waiting_and_a_stream_travels_in_batches(
    master: SmallMaster, session: Session
) -> None:
    await session.greeted()
    for _ in range(5000):
        session.outbox.waiting.append(entry())
        if session.hungry:
            session.pump()
    await session.flush()
    sizes = [len(said.tasks) for said in master.questions(say.Submit)]
    assert sizes[0] == 1
    assert sum(sizes) == 5000 == len(master.tasks)
    assert max(sizes) == say.LARGEST_BATCH
    assert len(sizes) < 15


@with_master()
async def test_one_request_carries_a_mebibyte_at_most(master: SmallMaster, session: Session) -> None:
    submit(session, *(entry(payload=bytes(60_000)) for _ in range(100)))
    await session.flush()
    sizes = [sum(len(task.payload) for task in said.tasks) for said in master.questions(say.Submit)]
    assert sum(sizes) == 6_000_000
    assert max(sizes) <= 1024 * 1024


@with_master()
async def test_only_some_requests_are_under_way_at_a_time(master: SmallMaster, session: Session) -> None:
    master.hold = True
    submit(session, *(entry() for _ in range(20_000)))
    await master.until(lambda: len(master.unanswered) == MOST_REQUESTS)
    flushed = asyncio.ensure_future(session.flush())
    master.hold = False
    master.release()
    await flushed
    assert master.most_unanswered == MOST_REQUESTS
    assert len(master.tasks) == 20_000
    assert (len(session.outbox), session.outbox.bytes) == (0, 0)


@with_master()
async def test_flush_waits_for_what_was_handed_over_before_it(master: SmallMaster, session: Session) -> None:
    master.hold = True
    submit(session, entry())
    flushed = asyncio.ensure_future(session.flush())
    await master.until(lambda: master.unanswered)
    assert not flushed.done()
    master.release()
    await flushed
    assert len(master.tasks) == 1


@with_master()
async def test_what_was_not_acknowledged_is_sent_again_after_the_link_broke(
    master: SmallMaster, session: Session
) -> None:
    master.hold = True
    tasks = [entry() for _ in range(2500)]
    submit(session, *tasks)
    await master.until(lambda: len(master.unanswered) == 3)
    sent = master.questions(say.Submit)
    master.hold = False
    master.cut()
    await session.flush()
    assert master.questions(say.Submit) == sent * 2
    assert set(master.tasks) == {task.task_id for task in tasks}
    assert master.connections == 2


@with_master()
async def test_a_refused_task_tells_its_entry_and_flush_once(master: SmallMaster, session: Session) -> None:
    master.refuse["huge"] = "too-large"
    good, bad, other = entry(), entry("huge"), entry("huge")
    submit(session, good, bad, other)
    with pytest.raises(TooLarge, match=r"no \(and 1 more tasks were not stored\)"):
        await session.flush()
    with pytest.raises(TooLarge):
        await bad.end
    with pytest.raises(TooLarge):
        await other.end
    await session.flush()
    master.finish(good.task_id)
    assert (await good.end).state == State.SUCCEEDED


@with_master()
async def test_a_refusal_that_somebody_has_seen_is_not_told_again(master: SmallMaster, session: Session) -> None:
    master.refuse["full"] = "overloaded"
    bad = entry("full")
    submit(session, bad)
    with pytest.raises(Overloaded):
        await bad.end
    bad.seen = True
    await session.flush()


# -- results back


@with_master()
async def test_one_wait_is_parked_while_anything_is_watched_and_none_afterwards(
    master: SmallMaster, session: Session
) -> None:
    tasks = [entry() for _ in range(10)]
    submit(session, *tasks)
    await session.flush()
    for task in tasks:
        master.finish(task.task_id)
        await task.end
    await session.ask(say.Queues())  # whatever the session had to say after the last result came before this
    assert len(master.questions(say.Wait)) == 10
    assert all(wait.ids == [] for wait in master.questions(say.Wait))


@with_master()
async def test_results_that_were_missed_are_asked_for_again(master: SmallMaster, session: Session) -> None:
    tasks = [entry() for _ in range(2500)]
    submit(session, *tasks)
    await session.flush()
    master.cut()
    master.finish(*(task.task_id for task in tasks))
    await asyncio.gather(*(task.end for task in tasks))
    named = [wait.ids for wait in master.questions(say.Wait) if wait.ids]
    assert sorted(task_id for ids in named for task_id in ids) == sorted(task.task_id for task in tasks)
    assert max(map(len, named)) == say.LARGEST_BATCH
    assert {task.times for task in tasks} == {1}


@with_master()
async def test_an_unwatched_task_is_heard_of_only_when_somebody_asks(master: SmallMaster, session: Session) -> None:
    quiet = entry(watch=False)
    submit(session, quiet)
    await session.flush()
    master.finish(quiet.task_id)
    await session.ask(say.Queues())
    assert not master.questions(say.Wait)
    session.watch(quiet)
    session.watch(quiet)
    await quiet.end
    assert quiet.times == 1


@with_master()
async def test_a_task_that_is_watched_on_its_way_is_heard_of(master: SmallMaster, session: Session) -> None:
    master.hold = True
    quiet = entry(watch=False)
    submit(session, quiet)
    await master.until(lambda: master.unanswered)
    session.watch(quiet)
    master.release()
    await master.until(lambda: any(quiet.task_id in wait.ids for wait in master.questions(say.Wait)))
    master.finish(quiet.task_id)
    await quiet.end


@with_master()
async def test_a_task_the_master_does_not_know_is_not_found(master: SmallMaster, session: Session) -> None:
    stranger = Listening(None, watch=False, task_id=new_id())
    session.watch(stranger)
    with pytest.raises(NotFound, match="there is no task"):
        await stranger.end


@with_master()
async def test_both_entries_of_one_task_hear_its_end(master: SmallMaster, session: Session) -> None:
    first = entry()
    second = entry(task_id=first.task_id)
    submit(session, first, second)
    await session.flush()
    master.finish(first.task_id)
    await asyncio.gather(first.end, second.end)


@with_master()
async def test_an_entry_outlives_its_refused_twin(master: SmallMaster, session: Session) -> None:
    master.refuse["huge"] = "too-large"
    first = entry()
    second = entry("huge", task_id=first.task_id)
    submit(session, first)
    await session.flush()
    submit(session, second)
    with pytest.raises(TooLarge):
        await second.end
    master.finish(first.task_id)
    await first.end


@with_master(quick=True)
async def test_a_result_that_comes_twice_counts_once(master: SmallMaster, session: Session) -> None:
    for _ in range(3):
        again = entry(task_id=b"sixteen bytes id")
        submit(session, again)
        await again.end
        assert again.times == 1


def test_a_restarted_master_gives_what_its_predecessor_promised(tmp_path: Path) -> None:
    async def scenario() -> None:
        with closing(reserve_port()) as port:
            address = Address(*port.getsockname())
            async with running(address, key=ALL.secret) as session:
                tasks = [Listening(make_task(number)) for number in range(300)]
                async with serving(tmp_path, listen=(address,)):
                    submit(session, *tasks)
                    await session.flush()
                async with serving(tmp_path, listen=(address,)) as again:
                    await settle_all(await again.worker(), b"v")
                    results = await asyncio.gather(*(task.end for task in tasks))
        assert [result.value for result in results] == [b"v"] * 300

    run(scenario)


async def settle_all(worker: Link, value: bytes) -> None:
    granted = await worker.call(say.Lease(["default"], 1000, 5.0))
    await worker.call(say.Report([Settlement(grant.id, 1, Outcome.SUCCEEDED, value) for grant in granted.grants]))


# -- questions


@with_master()
async def test_a_question_is_asked_again_on_the_next_link(master: SmallMaster, session: Session) -> None:
    master.deaf = True
    asked = asyncio.ensure_future(session.ask(say.Status()))
    await master.until(lambda: len(master.questions(say.Status)) == 3)
    master.deaf = False
    with pytest.raises(Refused, match="does not know status"):
        await asked


# -- the end, and no beginning


def test_a_wrong_key_ends_the_session_for_everybody() -> None:
    async def scenario() -> None:
        async with small_master() as master, running(master.address, key=b"x" * 32) as session:
            early = entry()
            submit(session, early)
            with pytest.raises(WrongKey):
                await early.end
            late = entry()
            submit(session, late)
            with pytest.raises(WrongKey):
                await late.end
            with pytest.raises(WrongKey):
                await session.ask(say.Queues())
            with pytest.raises(WrongKey):
                await session.flush()

    run(scenario)


@with_master()
async def test_closing_fails_what_is_pending(master: SmallMaster, session: Session) -> None:
    stored, unsent = entry(), entry()
    submit(session, stored)
    await session.flush()
    master.hold = True
    submit(session, unsent)
    asked = asyncio.ensure_future(session.flush())
    await master.until(lambda: master.unanswered)
    session.close()
    for pending in (stored.end, unsent.end, asked):
        with pytest.raises(Refused, match="this client is closed"):
            await pending


def test_the_next_master_is_used_when_the_first_is_away() -> None:
    async def scenario() -> None:
        async with small_master(quick=True) as master, running(NOWHERE, master.address) as session:
            task = entry()
            submit(session, task)
            await task.end

    run(scenario)
