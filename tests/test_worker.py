"""The worker against a master and a pool that do what the test says, over real sockets."""

import re

import msgspec
import pytest
from scripted import POOL
from stage import Stage, grant, on_stage

from qdistd import protocol as say
from qdistd.call import decode_failure, encode_value
from qdistd.model import Outcome, Progress, Said, Settlement
from qdistd.wire.keyring import Key
from qdistd.worker import Settings
from qdistd.worker.master_source import LIVE_OUTPUT, LIVE_PARTIALS, MOST_TALKERS, _fitting

# -- hello, lease, report


@on_stage(Stage)
async def test_hello_says_who_it_is_and_what_it_can(stage: Stage) -> None:
    await stage.connected()
    (hello,) = stage.master.hellos
    assert (hello.kind, hello.name, hello.host, hello.queues) == ("worker", "1@host", "host", ["default"])
    assert (hello.processes, hello.held, len(hello.token)) == (2, [], 16)


@on_stage(Stage)
async def test_a_lease_is_parked_for_as_many_tasks_as_the_pool_has_room_for(stage: Stage) -> None:
    await stage.connected()
    assert stage.master.leases == [say.Lease(["default"], 4, 60.0, 2)]
    stage.master.give(grant(1))
    await stage.until(lambda: stage.master.parked)
    assert [lease.count for lease in stage.master.leases] == [4, 3]


@on_stage(Stage)
async def test_what_running_tasks_print_is_reported_while_they_run(stage: Stage) -> None:
    await stage.running(1)
    stage.pool.news = [Said(grant(1).id, 1, b"halfway\n")]
    await stage.until(lambda: any(report.said for report in stage.master.reports))
    (report,) = [report for report in stage.master.reports if report.said]
    assert (report.said, report.settled) == ([Said(grant(1).id, 1, b"halfway\n")], [])


@on_stage(Stage)
async def test_the_last_words_of_a_task_go_with_its_end_and_not_after_it(stage: Stage) -> None:
    await stage.running(1)
    last = Said(grant(1).id, 1, b"", Progress(7, 7, "all"), (encode_value("the last piece"),))
    stage.pool.last_words = [last]
    stage.pool.finish(grant(1))
    await stage.until(lambda: stage.master.settled)
    (report,) = [report for report in stage.master.reports if report.settled]
    assert report.said == [last]


def test_partial_results_of_many_fit_into_one_report() -> None:
    said = [Said(grant(number).id, 1, b"x" * 60_000, None, (b"x" * 200_000,)) for number in range(200)]
    fitting = _fitting(said)
    assert len(fitting) == MOST_TALKERS
    assert {len(each.output) for each in fitting} == {LIVE_OUTPUT}
    assert sum(len(value) for each in fitting for value in each.partials) <= LIVE_PARTIALS


@on_stage(Stage)
async def test_a_full_pool_parks_a_lease_for_orders_alone_and_asks_again_when_a_task_ends(stage: Stage) -> None:
    await stage.running(1, 2, 3, 4)
    await stage.until(lambda: stage.master.parked)
    assert stage.master.parked == say.Lease(["default"], 0, 60.0, 0)
    stage.pool.finish(grant(1))
    await stage.until(lambda: len(stage.master.leases) == 3)
    assert stage.master.leases[-1].count == 1


@on_stage(Stage)
async def test_ended_tasks_are_reported_and_the_next_ones_asked_for_in_the_same_turn(stage: Stage) -> None:
    await stage.running(1, 2, 3, 4)
    await stage.until(lambda: stage.master.parked)
    stage.pool.finish(grant(2), b"two")
    stage.pool.finish(grant(3), b"why", Outcome.FAILED)
    await stage.until(lambda: len(stage.master.settled) == 2)
    assert stage.master.settled == [
        Settlement(grant(2).id, 1, Outcome.SUCCEEDED, b"two"),
        Settlement(grant(3).id, 1, Outcome.FAILED, b"why"),
    ]
    assert stage.master.turns[-1] == ["report", "lease"]
    assert stage.master.leases[-1].count == 2


@on_stage(Stage)
async def test_results_that_gather_while_a_report_is_under_way_leave_in_one(stage: Stage) -> None:
    await stage.running(1, 2, 3, 4)
    stage.master.silent = {"report"}
    stage.pool.finish(grant(1))
    await stage.until(lambda: stage.master.unanswered)
    for number in (2, 3, 4):
        stage.pool.finish(grant(number))
    stage.master.speak()
    await stage.until(lambda: len(stage.master.settled) == 4)
    assert [len(report.settled) for report in stage.master.reports] == [1, 3]


@on_stage(Stage)
async def test_a_batch_of_results_never_outgrows_a_frame(stage: Stage) -> None:
    address = await stage.master.start()
    await stage.begin(address, pool=msgspec.structs.replace(POOL, processes=20))
    stage.master.give(*map(grant, range(1, 41)))
    await stage.until(lambda: len(stage.pool.tasks) == 40)
    for number in range(1, 41):
        stage.pool.finish(grant(number), bytes(1 << 20))
    await stage.until(lambda: len(stage.master.settled) == 40)
    assert max(len(report.settled) for report in stage.master.reports) <= 3
    assert len(stage.master.hellos) == 1


@on_stage(Stage)
async def test_a_result_that_the_master_would_not_take_fails_its_task(stage: Stage) -> None:
    stage.master.welcome.result = 100
    await stage.running(1)
    stage.pool.finish(grant(1), bytes(101))
    await stage.until(lambda: stage.master.settled)
    (settlement,) = stage.master.settled
    assert settlement.outcome is Outcome.FAILED
    assert decode_failure(settlement.value).kind == "too-large"


@on_stage(Stage)
async def test_a_heartbeat_is_sent_while_nothing_else_is_said(stage: Stage) -> None:
    stage.master.welcome.heartbeat = 0.02
    await stage.connected()
    await stage.until(lambda: len(stage.master.reports) >= 3)
    assert not any(report.settled for report in stage.master.reports)
    assert len(stage.master.leases) == 1


@on_stage(Stage)
async def test_a_task_that_waits_too_long_for_a_child_goes_to_another_worker(stage: Stage) -> None:
    stage.master.welcome.heartbeat = 0.02
    await stage.running(1, 2, 3, 4)
    stage.pool.stuck = {grant(4).id}
    stage.worker._hands._tidy_at = 0.0  # the next look at the waiting tasks is seconds away
    await stage.until(lambda: stage.ends() == [(4, Outcome.RELEASED)])
    assert set(stage.pool.tasks) == {grant(1).id, grant(2).id, grant(3).id}


# -- orders


@on_stage(Stage)
async def test_an_order_to_cancel_reaches_the_pool_by_lease_and_by_report(stage: Stage) -> None:
    await stage.running(1, 2)
    await stage.until(lambda: stage.master.parked)
    stage.master.order(say.Orders(cancel=[grant(1).id]))
    await stage.until(lambda: stage.pool.cancelled == [grant(1).id])
    stage.master.orders = say.Orders(cancel=[grant(9).id])
    stage.pool.finish(grant(2))
    await stage.until(lambda: stage.pool.cancelled == [grant(1).id, grant(9).id])


@on_stage(Stage)
async def test_a_drained_worker_hands_back_what_it_has_not_begun_and_hears_when_it_may_go_on(stage: Stage) -> None:
    await stage.running(1, 2, 3)
    await stage.until(lambda: stage.master.parked)
    stage.master.order(say.Orders(drain=True))
    await stage.until(lambda: stage.ends() == [(3, Outcome.RELEASED)] and stage.master.parked)
    assert set(stage.pool.tasks) == {grant(1).id, grant(2).id}
    assert stage.master.parked is not None and stage.master.parked.count == 0
    assert stage.worker.status().startswith("draining: 2 running, 0 queued")
    stage.master.order(say.Orders())
    await stage.until(lambda: stage.master.parked and stage.master.parked.count == 2)


# -- the end


@on_stage(Stage)
async def test_a_stop_hands_back_what_was_not_begun_waits_for_what_runs_and_says_bye(stage: Stage) -> None:
    await stage.running(1, 2, 3)
    stage.worker.stop(60.0)
    await stage.until(lambda: stage.ends() == [(3, Outcome.RELEASED)])
    stage.pool.finish(grant(1), b"one")
    stage.pool.finish(grant(2), b"two")
    await stage.ended()
    assert stage.ends() == [(3, Outcome.RELEASED), (1, Outcome.SUCCEEDED), (2, Outcome.SUCCEEDED)]
    assert (stage.master.byes, stage.pool.closed) == (1, True)
    await stage.until(lambda: stage.master.ends == [True])


@on_stage(Stage)
async def test_a_task_that_outlasts_the_drain_is_handed_back(stage: Stage) -> None:
    await stage.running(1)
    await stage.end(drain=0.01)
    assert stage.ends() == [(1, Outcome.RELEASED)]
    assert stage.master.byes == 1


@on_stage(Stage)
async def test_a_second_stop_hurries(stage: Stage) -> None:
    await stage.running(1)
    stage.worker.stop(3600.0)
    await stage.until(lambda: re.match(r"draining, (3600|3599) s left: 1 running", stage.worker.status()))
    await stage.end(drain=3600.0)
    assert stage.ends() == [(1, Outcome.RELEASED)]


@on_stage(Stage)
async def test_a_task_that_arrives_after_the_stop_goes_straight_back(stage: Stage) -> None:
    await stage.running(1)
    await stage.until(lambda: stage.master.parked)
    stage.master.give(grant(2))
    stage.worker.stop(60.0)
    await stage.until(lambda: stage.ends() == [(2, Outcome.RELEASED)])
    stage.pool.finish(grant(1))
    await stage.ended()
    assert grant(2).id not in stage.pool.tasks


@on_stage(Stage)
async def test_a_worker_that_stops_without_a_master_leaves_its_results_on_the_disk(stage: Stage) -> None:
    await stage.running(1)
    address = stage.address
    stage.master.stop()
    await stage.until(lambda: "lost" in stage.lines()[-1])
    stage.worker.stop(60.0)
    stage.pool.finish(grant(1), b"one")
    await stage.ended()
    await stage.master.start(address)
    await stage.begin(address)
    await stage.until(lambda: stage.ends() == [(1, Outcome.SUCCEEDED)])


@on_stage(Stage)
async def test_a_drain_goes_on_while_the_master_restarts(stage: Stage) -> None:
    await stage.running(1)
    address = stage.address
    stage.worker.stop(60.0)
    stage.master.stop(reset=True)
    await stage.master.start(address)
    await stage.until(lambda: stage.master.parked)
    stage.pool.finish(grant(1))
    await stage.ended()
    assert stage.ends() == [(1, Outcome.SUCCEEDED)]
    assert stage.master.byes == 1


# -- reload


@on_stage(Stage)
async def test_a_reload_of_processes_resizes_the_pool_and_introduces_us_anew(
    stage: Stage,
) -> None:
    await stage.running(1)
    pool = msgspec.structs.replace(POOL, processes=5)
    stage.worker.reload(msgspec.structs.replace(stage.settings, pool=pool, queues=("mail", "default")))
    await stage.until(lambda: stage.master.parked == say.Lease(["mail", "default"], 9, 60.0, 4))
    assert len(stage.master.hellos) == 2
    hello = stage.master.hellos[-1]
    assert (hello.processes, hello.queues, len(hello.held)) == (5, ["mail", "default"], 1)
    assert stage.pool.settings.processes == 5
    assert stage.master.ends == [False]


@on_stage(Stage)
async def test_a_reload_while_a_master_is_about_to_answer_hello_is_not_forgotten(stage: Stage) -> None:
    stage.master.silent = {"hello"}
    await stage.begin(await stage.master.start())
    await stage.until(lambda: stage.master.unanswered)
    stage.worker.reload(msgspec.structs.replace(stage.settings, queues=("gpu",)))
    stage.master.speak()
    await stage.until(lambda: stage.master.parked and stage.master.parked.queues == ["gpu"])
    assert [hello.queues for hello in stage.master.hellos] == [["default"], ["gpu"]]


@on_stage(Stage)
async def test_a_reload_of_limits_alone_keeps_the_link(stage: Stage) -> None:
    await stage.running(1)
    pool = msgspec.structs.replace(POOL, timeout=5.0)
    stage.worker.reload(msgspec.structs.replace(stage.settings, pool=pool))
    assert stage.pool.settings.timeout == 5.0
    stage.pool.finish(grant(1))
    await stage.until(lambda: stage.master.settled)
    assert len(stage.master.hellos) == 1


def test_the_settings_never_show_the_key() -> None:
    settings = Settings("1@host", "host", (), Key(b"a very secret key", frozenset()), (), POOL)
    assert "secret" not in repr(settings)


@on_stage(Stage)
async def test_a_bug_ends_the_worker_instead_of_leaving_it_silent(stage: Stage) -> None:
    class Broken(Exception):
        pass

    await stage.connected()

    def broken() -> int:
        raise Broken

    stage.pool.room = broken  # type: ignore[method-assign]
    stage.pool._room()
    with pytest.raises(Broken):
        await stage.ended()


@on_stage(Stage)
async def test_a_bug_on_the_way_to_a_master_ends_the_worker_too(stage: Stage) -> None:
    address = await stage.master.start()
    stage.network.bug = ZeroDivisionError()
    await stage.begin(address)
    with pytest.raises(ZeroDivisionError):
        await stage.ended()
