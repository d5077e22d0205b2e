"""The broker when a transaction is undone, or a worker says what cannot be."""

import math
from collections.abc import Callable

import pytest

from qdistd.broker import Settings
from qdistd.model import Held, Outcome, Settlement, State
from qdistd.protocol import Hello
from qdistd.store import WorkerRow, open_store
from tests.household import LEASE, WALL, Clocks, House


@pytest.fixture
def house() -> House:
    return House(open_store("sqlite://:memory:"), Clocks())


# -- a transaction that is undone


def undone(house: House, *steps: Callable[[], object]) -> None:
    """Do the steps in a transaction that is rolled back."""
    house.store.begin()
    for step in steps:
        step()
    house.store.rollback()
    house.broker.recover()


def test_a_lease_that_ran_out_in_a_transaction_that_was_undone_runs_out_again(house: House) -> None:
    (task,) = house.submit()
    house.lease(house.hello("a"))
    house.clocks.now += LEASE
    undone(house, house.broker.tick)
    house.tick()
    assert house.state(task) == State.READY


def test_a_plain_client_that_left_in_a_transaction_that_was_undone_has_left(house: House) -> None:
    (task,) = house.submit()
    seat = house.broker.sit(WorkerRow(b"p" * 16, "stock@here", stock=True))
    house.lease(seat)
    undone(house, lambda: house.broker.gone(seat, ended=True))
    house.tick()
    assert house.state(task) == State.READY


def test_a_hello_that_was_undone_mixes_nobody_up(house: House) -> None:
    first, second = (WorkerRow(token * 16, name, "host", 1) for token, name in ((b"a", "a"), (b"b", "b")))
    house.submit(2)
    undone(
        house, lambda: house.broker.lease(house.broker.hello(first, Hello("worker", "w", processes=1)), ["default"], 1)
    )
    (late,) = house.lease(house.hello("b", "b"))
    (grant,) = house.lease(house.hello("a", "a"))
    house.broker.recover()
    restarted = House(house.store, house.clocks)
    for again in (house, restarted):
        holders = {seat.row.token: list(seat.claims) for seat in again.broker._seats if seat.claims}
        assert holders == {first.token: [grant.id], second.token: [late.id]}


# -- what a worker must hear, and what it cannot say


def test_a_cancel_while_the_worker_is_away_is_heard_when_it_is_back_also_after_a_restart(house: House) -> None:
    (task,) = house.submit()
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    house.broker.gone(seat, ended=False)
    with house.change() as broker:
        broker.cancel([task])
    held = (Held(grant.id, grant.attempt),)
    assert house.hello("a", held=held).cancel == [task]
    assert House(house.store, house.clocks).hello("a", held=held).cancel == [task]


def test_a_shorter_lease_is_for_workers_who_have_heard_of_it(house: House) -> None:
    seat = house.hello("a")
    house.submit()
    house.lease(seat)
    house.broker.settings = Settings(lease=1.0)
    with house.change() as broker:
        broker.report(seat, [])
    house.tick(LEASE - 1)
    assert len(seat.claims) == 1
    house.hello("a", held=tuple(Held(claim.id, claim.attempt) for claim in seat.claims.values()))
    house.tick(1.0)
    assert seat.claims == {}


@pytest.mark.parametrize(
    "measured", [{"started": math.nan}, {"wall": math.inf}, {"cpu": -1.0}, {"rss": 2**64 - 1}], ids=str
)
def test_measures_that_cannot_be_are_left_out_and_the_attempt_ends(house: House, measured: dict[str, float]) -> None:
    (task,) = house.submit(retries=1)
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    with house.change() as broker:
        assert broker.report(seat, [Settlement(grant.id, grant.attempt, Outcome.FAILED, b"v", **measured)]) == []
    assert house.state(task) == State.SCHEDULED


def test_a_worker_with_a_wrong_clock_does_not_set_that_of_the_master(house: House) -> None:
    house.submit()
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    with house.change() as broker:
        broker.report(seat, [Settlement(grant.id, grant.attempt, Outcome.SUCCEEDED, b"v", started=4e9)])
    assert house.store.latest() == pytest.approx(WALL)


def test_a_step_of_the_wall_clock_moves_no_backoff(house: House) -> None:
    (task,) = house.submit(run_at=WALL - 10, retries=1, backoff=1000.0)
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    house.settle(seat, grant, Outcome.FAILED)
    house.clocks.jump = 3.0
    house.tick()
    assert house.state(task) == State.SCHEDULED
