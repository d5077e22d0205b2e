"""The worker when the network, the master or the worker itself fails: nothing is lost, and nobody has to help."""

import logging

import msgspec
import pytest
from scripted import WORK
from stage import Stage, grant, on_stage

from qdistd.model import Held, Outcome, Settlement
from qdistd.protocol import Role
from qdistd.wire.keyring import Key
from qdistd.worker.connector import HEALTHY

# -- faults of the network


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@on_stage(Stage)
async def test_a_broken_link_takes_nothing_and_the_next_hello_names_all(stage: Stage, reset: bool) -> None:
    await stage.running(1, 2)
    stage.master.silent = {"report"}
    stage.pool.finish(grant(1))
    await stage.until(lambda: stage.master.unanswered)
    stage.master.silent = set()
    stage.master.cut(reset=reset)
    await stage.until(lambda: len(stage.master.hellos) == 2 and stage.master.settled)
    first, second = stage.master.hellos
    assert first.token == second.token
    assert second.held == [Held(grant(2).id, 1), Held(grant(1).id, 1)]
    assert stage.ends() == [(1, Outcome.SUCCEEDED)]
    stage.pool.finish(grant(2))
    await stage.until(lambda: stage.ends() == [(1, Outcome.SUCCEEDED), (2, Outcome.SUCCEEDED)])


@on_stage(Stage)
async def test_a_worker_finds_its_master_again_when_it_is_back(stage: Stage) -> None:
    await stage.running(1)
    address = stage.address
    for _ in range(3):
        stage.master.stop(reset=True)
        await stage.until(lambda: "lost the master" in stage.lines()[-1])
        await stage.master.start(address)
        await stage.until(lambda: stage.master.parked)
    stage.pool.finish(grant(1))
    await stage.until(lambda: stage.ends() == [(1, Outcome.SUCCEEDED)])


@on_stage(Stage)
async def test_a_master_that_is_away_for_many_tries_costs_one_line(stage: Stage) -> None:
    await stage.connected()
    address = stage.address
    stage.master.stop()
    await stage.until(lambda: stage.network.tries == 15)
    await stage.master.start(address)
    await stage.until(lambda: stage.master.parked)
    assert [line.split(" (")[0] for line in stage.lines()] == [
        f"connected to the master {address}",
        f"lost the master {address}",
        f"connected to the master {address}",
    ]


@on_stage(Stage)
async def test_a_worker_that_starts_before_its_master_says_so_once_and_waits(stage: Stage) -> None:
    address = await stage.master.start()
    stage.master.stop()
    await stage.begin(address)
    await stage.until(lambda: stage.lines())
    assert stage.worker.status().startswith("0 running, 0 queued, no master (")
    await stage.master.start(address)
    await stage.until(lambda: stage.master.parked)
    first, second = stage.lines()
    assert first.startswith(f"no master answers ({address}: ")
    assert second == f"connected to the master {address}"
    assert stage.worker.status() == f"0 running, 0 queued, master {address} ok, 0 unsent"


@on_stage(Stage)
async def test_the_second_master_is_taken_when_the_first_does_not_answer(stage: Stage) -> None:
    dead = await stage.master.start()
    stage.master.stop()
    alive = await stage.master.start()
    await stage.begin(dead, alive)
    await stage.until(lambda: stage.master.parked)
    assert f"master {alive} ok" in stage.worker.status()


@on_stage(Stage)
async def test_a_wrong_key_is_one_error_and_a_reload_with_the_right_one_connects_at_once(stage: Stage) -> None:
    address = await stage.master.start()
    stage.rng.share = 1000.0  # nobody waits for the next try
    await stage.begin(address, key=Key(b"x" * 32, frozenset({Role.WORK})))
    await stage.until(lambda: stage.lines(logging.ERROR))
    (line,) = stage.lines()
    assert "no master takes this worker" in line
    assert str(address) in line
    stage.worker.reload(msgspec.structs.replace(stage.settings, key=WORK))
    await stage.until(lambda: stage.master.parked)


@on_stage(Stage)
async def test_a_master_that_refuses_a_report_gets_it_again_on_a_fresh_link(stage: Stage) -> None:
    await stage.running(1)
    stage.master.refusing = {"report": ("overloaded", "no space left")}
    stage.pool.finish(grant(1))
    await stage.until(lambda: stage.master.ends)
    assert stage.master.ends == [False]
    stage.master.refusing = {}
    await stage.until(lambda: stage.ends() == [(1, Outcome.SUCCEEDED)])
    assert any("no space left" in line for line in stage.lines(logging.WARNING))


@on_stage(Stage)
async def test_pauses_between_tries_double_up_to_two_seconds(stage: Stage) -> None:
    await stage.connected()
    stage.master.stop()
    await stage.until(lambda: stage.network.tries == 10)
    assert stage.rng.ceilings[:9] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0]


@on_stage(Stage)
async def test_a_link_that_always_breaks_at_once_is_backed_off_from_and_one_that_lived_is_not(stage: Stage) -> None:
    await stage.running(1)
    stage.master.refusing = {"report": ("internal", "a bug")}
    stage.pool.finish(grant(1))
    await stage.until(lambda: len(stage.master.hellos) == 5)
    assert stage.rng.ceilings[:4] == [0.1, 0.2, 0.4, 0.8]
    stage.master.refusing = {}
    stage.master.welcome.heartbeat = HEALTHY / 2
    stage.master.cut()
    await stage.until(lambda: stage.master.settled)
    before = len(stage.master.reports)
    await stage.until(lambda: len(stage.master.reports) == before + 3)
    hellos = len(stage.master.hellos)
    stage.master.cut()
    await stage.until(lambda: len(stage.master.hellos) > hellos)
    assert stage.rng.ceilings[-1] == 0.1


# -- results that nobody has acknowledged


@on_stage(Stage)
async def test_a_result_made_while_the_master_is_away_is_delivered_by_the_next_incarnation(
    stage: Stage,
) -> None:
    await stage.running(1, 2)
    token = stage.master.hellos[0].token
    address = stage.address
    stage.master.stop()
    await stage.until(lambda: "lost" in stage.lines()[-1])
    stage.pool.finish(grant(1), b"one")
    await stage.until(lambda: stage.spool.kept == {(1, 1)})
    await stage.crash()

    await stage.master.start(address)
    await stage.begin(address)
    await stage.until(lambda: stage.master.settled)
    assert stage.master.settled == [Settlement(grant(1).id, 1, Outcome.SUCCEEDED, b"one", token=token)]
    assert [(held.id, held.attempt) for held in stage.master.hellos[-1].held] == [(grant(1).id, 1)]
    assert stage.master.hellos[-1].token != token
    await stage.until(lambda: not stage.spool.kept)
    assert stage.worker.status().endswith("ok, 0 unsent")
    await stage.end()

    stage.master.settled.clear()
    await stage.begin(address)
    await stage.until(lambda: stage.master.parked)
    assert not stage.master.settled


@on_stage(Stage)
async def test_a_result_that_the_master_is_slow_to_acknowledge_is_on_the_disk_within_moments(stage: Stage) -> None:
    await stage.running(1)
    address = stage.address
    stage.master.silent = {"report"}
    stage.pool.finish(grant(1), b"one")
    await stage.until(lambda: stage.spool.kept == {(1, 1)})
    await stage.crash()
    stage.master.cut()
    stage.master.silent = set()
    await stage.begin(address)
    await stage.until(lambda: stage.ends() == [(1, Outcome.SUCCEEDED)])


@on_stage(Stage)
async def test_a_stale_result_is_dropped_with_a_line_and_not_sent_again(stage: Stage) -> None:
    await stage.running(1)
    stage.master.stale = {grant(1).id}
    stage.pool.finish(grant(1))
    await stage.until(lambda: any("does not want the end of attempt 1" in line for line in stage.lines()))
    assert stage.worker.status().endswith("0 unsent")
    assert len(stage.master.settled) == 1


@on_stage(Stage)
async def test_a_result_that_a_stopping_worker_cannot_deliver_keeps_its_lease_for_the_next_one(stage: Stage) -> None:
    await stage.running(1)
    address = stage.address
    stage.master.silent = {"report"}
    stage.pool.finish(grant(1))
    stage.worker.stop(0.0)
    await stage.until(lambda: stage.pool.closed)
    await stage.end()
    await stage.until(lambda: stage.master.ends)
    assert (stage.master.byes, stage.master.ends) == (0, [False])
    stage.master.silent = set()
    await stage.begin(address)
    await stage.until(lambda: stage.ends() == [(1, Outcome.SUCCEEDED)])
