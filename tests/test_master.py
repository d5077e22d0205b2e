"""The master on real sockets, spoken to in its own protocol."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from qdistd import protocol as say
from qdistd.broker import Settings
from qdistd.call import encode_failure
from qdistd.errors import Malformed, NotAllowed, NotFound, Refused, Unavailable
from qdistd.model import Failure, Held, Outcome, Progress, Said, Settlement, State
from qdistd.wire.link import Link
from tests.serving import SUBMIT, WORK, new_id, run, serving, settled, task

SOON = 20.0

FAILURE = encode_failure(Failure("exception", "no"))


async def lease(link: Link, count: int = 1) -> list:
    return (await link.call(say.Lease(["default"], count, SOON))).grants


def test_a_result_goes_to_whoever_submitted_and_to_whoever_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            submitter, onlooker, worker = await served.link(), await served.link(), await served.worker()
            new = task(7)
            await submitter.call(say.Submit([new]))
            theirs = [link.call(say.Wait(ids, SOON)) for link, ids in [(submitter, []), (onlooker, [new.id])]]
            (grant,) = await lease(worker)
            assert (await worker.call(say.Report([settled(grant)]))).stale == []
            for finished in await asyncio.gather(*theirs):
                (result,) = finished.results
                assert (result.id, result.state, result.attempt, result.value) == (new.id, State.SUCCEEDED, 1, b"v")

    run(scenario)


def test_a_result_is_heard_again_by_who_says_its_submit_again_beside_one_that_is_refused_twice_over(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await served.worker()
            new, bad = task(7), task(bytes(1024 * 1024), queue="a\nb")
            await client.call(say.Submit([new]))
            await worker.call(say.Report([settled(grant) for grant in await lease(worker)]))
            again = await served.link()
            refused = (await again.call(say.Submit([bad, new]))).refused
            assert {refusal.id for refusal in refused} == {bad.id}
            assert [result.id for result in (await again.call(say.Wait([], SOON))).results] == [new.id]

    run(scenario)


def test_a_lease_waits_for_work_and_is_woken_by_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            worker, client = await served.worker(), await served.link()
            waiting = asyncio.ensure_future(lease(worker))
            await client.call(say.Status())
            assert not waiting.done()
            new = task(1)
            await client.call(say.Submit([new]))
            assert [grant.id for grant in await waiting] == [new.id]

    run(scenario)


def test_work_that_arrives_together_is_shared_among_those_who_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            workers = [await served.worker(name, name) for name in "ab"]
            waiting = [asyncio.ensure_future(lease(worker, 100)) for worker in workers]
            client = await served.link()
            await client.call(say.Status())
            await client.call(say.Submit([task(n) for n in range(10)]))
            assert [len(grants) for grants in await asyncio.gather(*waiting)] == [5, 5]

    run(scenario)


def test_a_new_lease_replaces_the_parked_one_and_no_grant_is_lost_between(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            worker, client = await served.worker(), await served.link()
            polls = [asyncio.ensure_future(lease(worker)) for _ in range(2)]
            submits = [client.call(say.Submit([task(n)])) for n in range(5)]
            polls += [asyncio.ensure_future(lease(worker)) for _ in range(8)]
            await asyncio.gather(*submits)
            got = {grant.id for grants in await asyncio.gather(*polls[:-1]) for grant in grants}
            for poll in polls[-1:]:
                poll.cancel()
            while len(got) < 5:
                got |= {grant.id for grant in await lease(worker, 5)}
            assert len(got) == 5

    run(scenario)


def test_submitting_the_same_ids_again_stores_them_once_and_still_tells_the_result(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await served.worker()
            new = task(1)
            await client.call(say.Submit([new]))
            (grant,) = await lease(worker)
            await worker.call(say.Report([settled(grant)]))
            again = await served.link()
            assert (await again.call(say.Submit([new]))).refused == []
            assert [r.id for r in (await again.call(say.Wait([], SOON))).results] == [new.id]
            assert len((await again.call(say.List())).tasks) == 1

    run(scenario)


def test_an_unknown_id_is_said_to_be_unknown_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, strange = await served.link(), new_id()
            assert (await client.call(say.Wait([strange], SOON))).unknown == [strange]
            with pytest.raises(NotFound, match="there is no task"):
                await client.call(say.Show(strange))

    run(scenario)


def test_a_worker_whose_process_dies_gives_back_its_tasks_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            dying, healthy, client = await served.worker("a", "a"), await served.worker("b", "b"), await served.link()
            new = task(1)
            await client.call(say.Submit([new]))
            await lease(dying)
            dying.close()  # FIN without a bye, as the kernel says it for a killed process
            (grant,) = await lease(healthy)
            assert (grant.id, grant.attempt) == (new.id, 2)
            (first, second) = (await client.call(say.Show(new.id))).attempts
            assert (first.outcome, second.outcome) == ("lost", "running")

    run(scenario)


def test_a_worker_whose_network_broke_keeps_its_tasks_when_it_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            worker, client = await served.worker(), await served.link()
            new = task(1)
            await client.call(say.Submit([new]))
            (grant,) = await lease(worker)
            worker.abort("the network broke")
            back = await served.worker(held=(Held(grant.id, grant.attempt),))
            assert (await back.call(say.Report([settled(grant)]))).stale == []
            assert (await client.call(say.Show(new.id))).attempt == 1

    run(scenario)


def test_a_master_that_starts_again_knows_everything_it_had_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        held, queued = task(1), task(2)
        async with serving(tmp_path) as served:
            await (await served.link()).call(say.Submit([held]))
            (grant,) = await lease(await served.worker())
            await (await served.link()).call(say.Submit([queued]))
        async with serving(tmp_path) as served:
            client = await served.link()
            worker = await served.worker(held=(Held(grant.id, grant.attempt),))
            assert (await worker.call(say.Report([settled(grant)]))).stale == []
            assert [r.id for r in (await client.call(say.Wait([held.id], SOON))).results] == [held.id]
            assert [grant.id for grant in await lease(worker)] == [queued.id]

    run(scenario)


def test_a_delayed_task_runs_when_it_is_due_without_anybody_asking(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await served.worker()
            new = task(1, delay=0.2)
            await client.call(say.Submit([new]))
            view = await client.call(say.Show(new.id))
            assert view.state == State.SCHEDULED
            assert [grant.id for grant in await lease(worker)] == [new.id]

    run(scenario)


def test_a_lease_that_runs_out_wakes_the_next_worker(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, broker=Settings(lease=0.3)) as served:
            silent, client = await served.worker("a", "a"), await served.link()
            new = task(1)
            await client.call(say.Submit([new]))
            await lease(silent)
            (grant,) = await lease(await served.worker("b", "b"))
            assert (grant.id, grant.attempt) == (new.id, 2)

    run(scenario)


def test_a_cancel_reaches_a_running_task_through_the_parked_lease(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await served.worker()
            new = task(1)
            await client.call(say.Submit([new]))
            (grant,) = await lease(worker)
            parked = worker.call(say.Lease(["default"], 0, SOON))
            assert (await client.call(say.Cancel([new.id]))).states == {new.id: State.LEASED}
            assert (await parked).orders.cancel == [new.id]
            await worker.call(say.Report([settled(grant, Outcome.CANCELLED, b"")]))
            (result,) = (await client.call(say.Wait([], SOON))).results
            assert result.state == State.CANCELLED

    run(scenario)


def test_every_verb_is_refused_to_a_key_without_its_role(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            submitter, worker = await served.link(SUBMIT), await served.link(WORK)
            with pytest.raises(NotAllowed, match=r"needs a key with the role work; the key shown \(submit\)"):
                await submitter.call(say.Lease(["default"], 1))
            with pytest.raises(NotAllowed, match="needs a key with the role submit"):
                await worker.call(say.Submit([task(1)]))
            with pytest.raises(NotAllowed):
                await submitter.call(say.Hello("worker", "w", token=b"t" * 16))

    run(scenario)


def test_a_question_of_the_wrong_shape_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            link = await served.link()
            with pytest.raises(Malformed, match="submit:"):
                await link.call(say.Submit([task(1)] * (say.LARGEST_BATCH + 1)))
            with pytest.raises(Refused, match="says hello before"):
                await link.call(say.Report())
            assert (await link.call(say.Submit([task(1)]))).refused == []

    run(scenario)


def test_a_bug_in_one_request_fails_that_request_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            link = await served.link()
            broken = new_id()
            served.master._store.view = _bug  # type: ignore[attr-defined] # a planted bug
            good = [task(1), task(2)]
            calls = [link.call(q) for q in (say.Submit(good[:1]), say.Show(broken), say.Submit(good[1:]))]
            first, failed, second = await asyncio.gather(*calls, return_exceptions=True)
            assert "qdist has a bug" in str(failed)
            assert (first.refused, second.refused) == ([], [])
            assert len((await link.call(say.List())).tasks) == 2

    run(scenario)


def _bug(_: bytes) -> None:
    raise ZeroDivisionError("planted")


def test_a_commit_that_fails_is_never_acknowledged_and_ends_the_master(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            link = await served.link()
            await link.call(say.Status())
            commit = served.master._store.commit  # type: ignore[attr-defined]

            def fail() -> None:
                commit()
                raise sqlite3.OperationalError("disk I/O error")

            served.master._store.commit = fail  # type: ignore[attr-defined, method-assign] # a dying disk
            answer = link.call(say.Submit([task(1)]), 2.0)
            with pytest.raises(Unavailable):
                await answer
            assert "disk I/O error" in str(served.broken[0])

    run(scenario)


def test_status_tells_what_is_where(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await served.worker()
            await client.call(say.Submit([task(1), task(2), task(3, queue="mail")]))
            (grant,) = await lease(worker)
            await worker.call(say.Report([settled(grant)]))
            status = await client.call(say.Status())
            assert {queue.name: queue.counts for queue in status.queues} == {
                "default": {"ready": 1, "succeeded": 1},
                "mail": {"ready": 1},
            }
            (seat,) = status.workers
            assert (seat.name, seat.state, seat.leased, seat.settled) == ("w", "connected", 0, 1)
            assert (status.submitted, status.settled, status.connections) == (3, 1, 2)
            assert status.listen == [str(served.address)]

    run(scenario)


def test_bytes_that_are_no_text_are_refused_like_any_other_nonsense(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            link = await served.link()
            task_named_in_no_language = b"\x93\xc4\x10" + bytes(16) + b"\xa2\xff\xfe\xc4\x00"
            link._send(b"\x93\x63\xa6submit\x91\x91" + task_named_in_no_language)
            assert "no answer to anything that was asked" in await link.closed, "there was an answer, to number 99"

    run(scenario)


def test_a_connection_too_many_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, connections=1) as served:
            first = await served.link()
            with pytest.raises(Unavailable):
                await served.link()
            assert (await first.call(say.Submit([task(1)]))).refused == []

    run(scenario)


def test_what_a_task_prints_is_shown_while_it_runs_and_kept_when_its_worker_is_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await served.worker()
            new = task(7)
            await client.call(say.Submit([new]))
            (grant,) = await lease(worker)
            for words in (b"one\n", b"two\n"):
                await worker.call(say.Report(said=[Said(grant.id, grant.attempt, words)]))
            await worker.call(say.Report(said=[Said(grant.id, grant.attempt + 1, b"stale\n")]))
            view = await client.call(say.Show(new.id))
            assert [(attempt.outcome, attempt.output) for attempt in view.attempts] == [("running", b"one\ntwo\n")]
            await worker.call(say.Bye())
            view = await client.call(say.Show(new.id))
            assert [(attempt.outcome, attempt.output) for attempt in view.attempts] == [("released", b"one\ntwo\n")]

    run(scenario)


def test_what_a_task_tells_with_its_end_is_there_for_who_looks_a_moment_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await served.worker()
            new = task(7, retries=1, backoff=0.0)
            await client.call(say.Submit([new]))
            (grant,) = await lease(worker)
            await worker.call(say.Report(said=[Said(grant.id, 1, b"words", Progress(1, 2), [b"a"])]))
            done = Settlement(grant.id, 1, Outcome.FAILED, FAILURE, output=b"words")
            await worker.call(say.Report([done], [Said(grant.id, 1, b"", Progress(2, 2), [b"b"])]))
            view = await client.call(say.Show(new.id))
            assert (view.progress, view.partials, view.partials_before) == (Progress(2, 2), [b"a", b"b"], 0)
            assert [attempt.output for attempt in view.attempts] == [b"words"]
            (grant,) = await lease(worker)
            view = await client.call(say.Show(new.id))
            assert (view.attempt, view.progress, view.partials) == (2, None, [])
            await worker.call(say.Report([Settlement(grant.id, 2, Outcome.SUCCEEDED, b"v")]))
            assert (await client.call(say.Show(new.id))).partials == []

    run(scenario)


def test_the_output_of_every_attempt_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await served.worker()
            new = task(7, retries=1, backoff=0.0)
            await client.call(say.Submit([new]))
            for outcome, words in ((Outcome.FAILED, b"first"), (Outcome.SUCCEEDED, b"second")):
                (grant,) = await lease(worker)
                done = Settlement(grant.id, grant.attempt, outcome, FAILURE if outcome else b"v", output=words)
                await worker.call(say.Report([done]))
            view = await client.call(say.Show(new.id))
            assert [attempt.output for attempt in view.attempts] == [b"first", b"second"]

    run(scenario)
