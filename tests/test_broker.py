"""The broker on a store in memory, with a clock that the test moves."""

import msgspec
import pytest

from qdistd.lifecycle import Policy
from qdistd.model import Held, Outcome, State, Task
from qdistd.protocol import LARGEST_FRAME, Granted
from qdistd.store import LARGEST_LEASE, WorkerRow, open_store
from tests.household import LARGEST, LEASE, Clocks, House


@pytest.fixture
def house() -> House:
    return House(open_store("sqlite://:memory:"), Clocks())


def test_a_task_goes_from_submit_to_result(house: House) -> None:
    (task,) = house.submit()
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    assert house.settle(seat, grant) == []
    (result,) = house.broker.take_finished()
    assert (result.id, result.state, result.attempt, result.value) == (task, State.SUCCEEDED, 1, b"v")


def test_what_is_granted_at_once_fits_into_a_frame_however_large_the_payloads_are() -> None:
    house = House(open_store("sqlite://:memory:"), Clocks(), payload=LARGEST)
    seat = house.hello("a")
    for size in (LARGEST, 1, LARGEST_LEASE - 1):
        for queue in ("one", "two"):
            with house.change() as broker:
                broker.submit([Task(house.rng.randbytes(16), "square", bytes(size), queue) for _ in range(3)])
    granted = []
    while len(granted) < 18:
        with house.change() as broker:
            grants = broker.lease(seat, ["one", "two"], 100)
        assert len(msgspec.msgpack.encode(Granted(grants))) < LARGEST_FRAME - 1024
        granted += grants


def test_a_lease_that_runs_out_goes_to_another_worker_and_fences_the_first(house: House) -> None:
    (task,) = house.submit()
    slow, fast = house.hello("a", "slow"), house.hello("b", "fast")
    (first,) = house.lease(slow)
    house.tick(LEASE - 1)
    assert house.state(task) == State.LEASED
    house.lease(fast)
    house.tick(1)
    (second,) = house.lease(fast)
    assert (second.id, second.attempt) == (task, 2)
    assert house.settle(slow, first) == [task]
    assert house.settle(fast, second) == []


def test_a_worker_that_reports_keeps_its_leases_for_ever(house: House) -> None:
    (task,) = house.submit()
    seat = house.hello("a")
    house.lease(seat)
    for _ in range(10):
        house.tick(LEASE - 1)
        with house.change() as broker:
            broker.report(seat, [])
    assert house.state(task) == State.LEASED


def test_jumps_of_the_wall_clock_end_no_lease(house: House) -> None:
    (task,) = house.submit()
    house.lease(house.hello("a"))
    for jump in (86400.0, -86400.0):
        house.clocks.jump = jump
        house.tick()
    assert house.state(task) == State.LEASED


def test_settling_twice_is_accepted_once(house: House) -> None:
    (task,) = house.submit()
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    assert house.settle(seat, grant) == []
    assert house.settle(seat, grant) == [task]
    assert house.store.results([task])[0][0].attempt == 1


def test_nobody_can_settle_what_another_holds(house: House) -> None:
    (task,) = house.submit()
    holder, thief = house.hello("a", "holder"), house.hello("b", "thief")
    (grant,) = house.lease(holder)
    assert house.settle(thief, grant) == [task]
    assert house.state(task) == State.LEASED


def test_a_reconnect_keeps_what_the_worker_holds_and_returns_what_never_arrived(house: House) -> None:
    house.submit(2)
    seat = house.hello("a")
    arrived, missed = house.lease(seat, 2)
    house.broker.gone(seat, ended=False)
    again = house.hello("a", held=(Held(arrived.id, arrived.attempt),))
    assert again is seat
    assert house.state(arrived.id) == State.LEASED
    assert house.state(missed.id) == State.READY
    assert house.settle(seat, arrived) == []


def test_a_restarted_worker_neither_keeps_nor_steals_what_its_dead_past_held(house: House) -> None:
    house.submit(2)
    dead = house.hello("a", "w")
    unsent, orphan = house.lease(dead, 2)
    house.broker.gone(dead, ended=False)
    reborn = house.hello("b", "w", held=(Held(unsent.id, unsent.attempt),))
    assert house.state(orphan.id) == State.READY
    assert house.state(unsent.id) == State.LEASED
    assert house.settle(reborn, unsent) == [unsent.id]
    assert house.settle(reborn, unsent, token=dead.row.token) == []


def test_a_worker_that_returns_too_late_is_told_to_drop_what_was_given_away(house: House) -> None:
    (task,) = house.submit()
    seat = house.hello("a", "slow")
    (stale,) = house.lease(seat)
    house.tick(LEASE)
    (current,) = house.lease(house.hello("b", "fast"))
    back = house.hello("a", "slow", held=(Held(stale.id, stale.attempt),))
    assert back.cancel == [task]
    assert house.settle(back, stale, Outcome.CANCELLED) == [task]
    assert current.attempt == 2 and house.state(task) == State.LEASED


def test_a_worker_that_speaks_again_on_its_old_connection_can_lose_its_lease_again(house: House) -> None:
    first, second = house.submit(2)
    seat = house.hello("a")
    house.lease(seat)
    house.tick(LEASE)
    assert house.state(first) == State.READY
    house.lease(seat, 2)
    assert [worker.state for worker in house.broker.workers()] == ["connected"]
    house.tick(LEASE)
    assert (house.state(first), house.state(second)) == (State.READY, State.READY)


def test_a_plain_client_keeps_its_task_for_as_long_as_its_connection(house: House) -> None:
    (task,) = house.submit()
    with house.change() as broker:
        seat = broker.sit(WorkerRow(b"s" * 16, "stock", stock=True))
    house.lease(seat)
    house.tick(100 * LEASE)
    assert house.state(task) == State.LEASED
    with house.change() as broker:
        broker.gone(seat, ended=True)
    assert house.state(task) == State.READY


def test_a_second_worker_of_the_same_name_leaves_the_leases_of_a_connected_one_alone(house: House) -> None:
    (task,) = house.submit()
    house.lease(house.hello("a", "w"))
    house.hello("b", "w")
    assert house.state(task) == State.LEASED


def test_a_process_that_ended_gives_its_tasks_back_at_once_and_a_cut_network_does_not(house: House) -> None:
    first, second = house.submit(2)
    dead, cut = house.hello("a", "dead"), house.hello("b", "cut")
    house.lease(dead)
    house.lease(cut)
    with house.change() as broker:
        broker.gone(dead, ended=True)
        broker.gone(cut, ended=False)
    assert (house.state(first), house.state(second)) == (State.READY, State.LEASED)


def test_a_worker_that_says_bye_costs_its_tasks_nothing(house: House) -> None:
    (task,) = house.submit()
    seat = house.hello("a")
    house.lease(seat)
    with house.change() as broker:
        broker.bye(seat)
    (grant,) = house.lease(house.hello("b"))
    assert (grant.id, grant.attempt) == (task, 2)
    view = house.store.view(task)
    assert view is not None and view.attempts[0].outcome == "released"


def test_a_task_that_kills_its_process_three_times_is_quarantined(house: House) -> None:
    (task,) = house.submit()
    seat = house.hello("a")
    for _ in range(3):
        house.tick(60)
        (grant,) = house.lease(seat)
        house.settle(seat, grant, Outcome.CRASHED)
    house.tick(60)
    assert (house.state(task), house.lease(seat)) == (State.QUARANTINED, [])


def test_a_task_that_takes_its_workers_with_it_is_quarantined_in_the_end() -> None:
    house = House(open_store("sqlite://:memory:"), Clocks(), policy=Policy(losses=4))
    (task,) = house.submit()
    for number in range(4):
        seat = house.hello(chr(65 + number), f"w{number}")
        assert house.lease(seat)
        with house.change() as broker:
            broker.gone(seat, ended=True)
    assert house.state(task) == State.QUARANTINED


def test_a_restart_gives_every_lease_its_whole_time_again(house: House) -> None:
    (task,) = house.submit()
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    restarted = House(house.store, house.clocks)
    restarted.tick(LEASE - 1)
    assert restarted.state(task) == State.LEASED
    again = restarted.hello("a", held=(Held(task, grant.attempt),))
    assert restarted.settle(again, grant) == []


def test_after_a_restart_a_worker_that_stays_away_loses_its_lease(house: House) -> None:
    (task,) = house.submit()
    house.lease(house.hello("a"))
    restarted = House(house.store, house.clocks)
    restarted.tick()
    restarted.tick(LEASE)
    assert restarted.state(task) == State.READY


def test_a_rollback_leaves_memory_as_the_store_is(house: House) -> None:
    (task,) = house.submit()
    seat = house.hello("a")
    house.store.begin()
    house.broker.lease(seat, ["default"], 1)
    house.store.rollback()
    house.broker.recover()
    assert seat.claims == {}
    (grant,) = house.lease(seat)
    assert (grant.id, grant.attempt) == (task, 1)


def test_a_delayed_task_wakes_the_tick_when_it_is_due(house: House) -> None:
    house.tick()
    (task,) = house.submit(delay=5.0)
    assert house.broker.alarm == pytest.approx(5.0)
    house.tick(4.9)
    assert house.state(task) == State.SCHEDULED
    house.tick(0.1)
    assert house.state(task) == State.READY
    assert "default" in house.broker.ready


def test_a_step_of_the_wall_clock_moves_no_delay(house: House) -> None:
    (task,) = house.submit(delay=100.0)
    for jump in (86400.0, -86400.0):
        house.clocks.jump = jump
        house.tick(40)
        assert house.state(task) == State.SCHEDULED
    house.tick(20)
    assert house.state(task) == State.READY


def test_a_task_for_a_time_of_day_follows_the_wall_clock(house: House) -> None:
    (task,) = house.submit(run_at=house.clocks.wall() + 3600)
    assert house.tick() <= house.clocks.now + 10
    house.clocks.jump = -86400.0
    house.tick(3600)
    assert house.state(task) == State.SCHEDULED
    house.clocks.jump = 0.0
    house.tick(1)
    assert house.state(task) == State.READY


def test_time_does_not_go_back_over_a_restart(house: House) -> None:
    (task,) = house.submit(delay=10.0)
    house.clocks.jump = -86400.0
    restarted = House(house.store, house.clocks)
    restarted.tick(10)
    assert restarted.state(task) == State.READY


def test_a_failed_attempt_comes_back_after_its_backoff(house: House) -> None:
    (task,) = house.submit(retries=1, backoff=4.0)
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    house.settle(seat, grant, Outcome.FAILED)
    assert house.state(task) == State.SCHEDULED
    house.tick(4)
    (grant,) = house.lease(seat)
    house.settle(seat, grant, Outcome.FAILED)
    assert house.state(task) == State.FAILED


def test_cancelling_reaches_what_waits_at_once_and_what_runs_by_order(house: House) -> None:
    running, waiting = house.submit(2)
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    with house.change() as broker:
        states, ordered = broker.cancel([running, waiting])
    assert states == {running: State.LEASED, waiting: State.CANCELLED}
    assert (ordered, seat.cancel) == ([seat], [running])
    assert [result.id for result in house.broker.take_finished()] == [waiting]
    house.settle(seat, grant, Outcome.CANCELLED)
    assert house.state(running) == State.CANCELLED


def test_a_payload_over_the_limit_is_refused_with_the_way_out() -> None:
    house = House(open_store("sqlite://:memory:"), Clocks(), payload=10)
    small, large = Task(b"s" * 16, "square", bytes(10)), Task(b"l" * 16, "square", bytes(11))
    with house.change() as broker:
        (refusal,) = broker.submit([small, large])
    assert (refusal.id, refusal.code) == (large.id, "too-large")
    assert "send its path" in refusal.message
    assert house.store.ready("default") == 1


def test_a_damaged_payload_is_set_aside_and_never_runs(house: House) -> None:
    damaged, whole = house.submit(2)
    house.store._db.execute("UPDATE task SET payload = x'00' WHERE id = ?", (damaged,))  # type: ignore[attr-defined]
    assert [grant.id for grant in house.lease(house.hello("a"), 2)] == [whole]
    assert house.state(damaged) == State.QUARANTINED


def test_the_purge_walks_on_until_it_is_through(house: House) -> None:
    ids = house.submit(5)
    seat = house.hello("a")
    for grant in house.lease(seat, 5):
        house.settle(seat, grant)
    house.tick(8 * 86400)
    assert house.store.results(ids) == ([], ids)


def test_a_gone_worker_is_shown_for_a_while_and_then_forgotten(house: House) -> None:
    seat = house.hello("a")
    with house.change() as broker:
        broker.bye(seat)
    assert [worker.state for worker in house.broker.workers()] == ["gone"]
    house.tick(3601)
    assert house.broker.workers() == []


def test_a_cancel_order_that_was_lost_with_its_connection_is_given_again(house: House) -> None:
    (task,) = house.submit()
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    with house.change() as broker:
        broker.cancel([task])
    seat.cancel.clear()  # said on a connection that broke at that moment
    house.broker.gone(seat, ended=False)
    assert house.hello("a", held=(Held(grant.id, grant.attempt),)).cancel == [task]
