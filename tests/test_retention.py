"""What has ended is kept as long as the settings say, goes in small steps, and costs what is deleted and no more."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from household import Clocks, House

from qdistd.broker import Retention
from qdistd.broker.retention import PURGE_EVERY, PURGE_PAUSE, PURGE_REST
from qdistd.model import Outcome, Settlement, State, Task
from qdistd.store import Arrival, Chosen, Keep, Store, WorkerRow, open_store
from qdistd.store.purging import MOST_LOOKS, MOST_ROWS

DAY = 86400.0
ENDS = [state for state in State if state.final]
FOREVER = Keep(0.0, 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite://{tmp_path}/qdist.db")
    yield store
    store.close()


@pytest.fixture
def house(store: Store) -> House:
    return House(store, Clocks())


def run(house: House, count: int, outcome: Outcome = Outcome.SUCCEEDED, **options: object) -> list[bytes]:
    """Tasks that end at once."""
    ids = house.submit(count, **options)
    seat = house.hello("a")
    for grant in house.lease(seat, count):
        house.settle(seat, grant, outcome)
    return ids


def left(house: House, ids: list[bytes]) -> list[bytes]:
    return [task_id for task_id in ids if house.store.view(task_id)]


def purge(house: House, keep: Keep) -> int:
    """Purge until nothing more goes; how many went."""
    gone, more = 0, True
    while more:
        with house.change():
            tasks, more = house.store.ends.purge(keep)
        gone += tasks
    return gone


def weed(house: House, dry: bool = False, **wish: object) -> int:
    chosen = Chosen(**{"before": house.broker.now + 1, "states": ENDS, **wish})  # type: ignore[arg-type]
    gone, cursor = 0, 0
    while True:
        with house.change():
            tasks, cursor = house.store.ends.weed(chosen, cursor, dry=dry)
        assert tasks <= MOST_ROWS
        gone += tasks
        if not cursor:
            return gone


# -- by age


def test_a_success_is_kept_for_finished_and_a_failure_for_failed(house: House) -> None:
    succeeded, failed = run(house, 2), run(house, 2, Outcome.FAILED)
    (cancelled,) = house.submit(queue="other")
    with house.change() as broker:
        broker.cancel([cancelled])
    house.tick(6.9 * DAY)
    assert left(house, succeeded + failed) == succeeded + failed
    house.tick(0.2 * DAY)
    house.tick(1)
    assert left(house, succeeded) == [] and left(house, [*failed, cancelled]) == [*failed, cancelled]
    house.tick(23 * DAY)
    house.tick(1)
    assert left(house, [*failed, cancelled]) == []
    assert house.store.counts() == {}


def test_age_counts_from_the_end_of_a_task_and_not_from_its_arrival(house: House) -> None:
    (slow,) = house.submit()
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    house.clocks.now += 8 * DAY
    house.settle(seat, grant)
    house.tick(6 * DAY)
    assert left(house, [slow]) == [slow]


def test_a_failure_is_never_forgotten_before_a_success_of_the_same_age() -> None:
    keep = Retention(finished=90 * DAY, failed=30 * DAY).keep(1000 * DAY)
    assert keep.failed == keep.succeeded == 910 * DAY


def test_what_has_not_ended_stays_however_old_it_is(house: House) -> None:
    waiting = house.submit(2, queue="nobody")
    later = house.submit(1, delay=100 * DAY)
    running = house.submit(1)
    house.lease(house.hello("a"))
    house.clocks.now += 99 * DAY
    assert purge(house, Keep(house.broker.now, house.broker.now, 1)) == 0
    assert left(house, waiting + later + running) == waiting + later + running


# -- by number


def test_of_more_than_count_the_oldest_go_whatever_their_state(house: House) -> None:
    ids = []
    for outcome in (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.SUCCEEDED, Outcome.FAILED, Outcome.SUCCEEDED):
        house.clocks.now += 1
        ids += run(house, 1, outcome)
    waiting = house.submit(3, queue="nobody")
    assert purge(house, Keep(0.0, 0.0, 2)) == 3
    assert left(house, ids) == ids[3:] and left(house, waiting) == waiting


def test_a_master_keeps_no_more_than_count(store: Store) -> None:
    house = House(store, Clocks(), retention=Retention(count=100))
    run(house, 700)
    for _ in range(10):
        house.tick(10)
    assert sum(store.counts()["default"].values()) == 100


# -- what is still needed


def test_the_result_that_a_waiting_task_comes_after_stays_until_that_has_ended(house: House) -> None:
    first, other = run(house, 2)
    successor = comes_after(house, [first])
    run(house, 3)
    house.clocks.now += 99 * DAY
    assert purge(house, Keep(house.broker.now, house.broker.now, 1)) == 4
    assert left(house, [first, other]) == [first]
    assert weed(house) == 0
    with house.change() as broker:
        broker.cancel([successor])
    house.clocks.now += 1
    assert purge(house, Keep(house.broker.now, house.broker.now)) == 2
    assert store_is_empty(house)


def test_a_result_that_no_stock_client_has_taken_stays_and_one_that_was_taken_goes(house: House) -> None:
    ids = run(house, 2, mailbox=True)
    house.clocks.now += 99 * DAY
    with house.change():
        taken = house.store.take()
    assert taken and purge(house, Keep(house.broker.now, house.broker.now, 1)) == 1
    assert left(house, ids) == [task_id for task_id in ids if task_id != taken[0]]
    assert house.store.mailbox() == 1


def test_many_that_must_stay_hide_none_that_must_go(house: House) -> None:
    needed = run(house, MOST_ROWS + 50)
    comes_after(house, needed)
    run(house, 10)
    house.clocks.now += 99 * DAY
    assert purge(house, Keep(house.broker.now, house.broker.now)) == 10


# -- workers


def test_workers_of_long_ago_are_forgotten_but_for_those_that_hold_something_or_are_here(house: House) -> None:
    def incarnations() -> set[bytes]:
        return {token for (token,) in house.store._db.execute("SELECT token FROM worker")}  # type: ignore[attr-defined]

    run(house, 1)  # by worker a
    house.submit(1)
    holder = house.hello("h", name="holder")
    house.lease(holder)
    for number in range(250):
        with house.change() as broker:
            broker.store.worker(WorkerRow(b"%16d" % number, "passer-by"), broker.now)
    newest = house.hello("n", name="newest")
    house.submit(1)
    house.lease(newest)
    here = house.hello("a")
    house.clocks.now += 40 * DAY
    for _ in range(6):
        with house.change() as broker:
            for seat in (here, holder, newest):
                broker.renew(seat)
        house.tick(10)
    assert incarnations() == {b"a" * 16, b"h" * 16, b"n" * 16}
    assert len(house.store.claims()) == 2
    house.broker.recover()


# -- what it costs


def test_a_purge_with_nothing_to_delete_writes_nothing(house: House) -> None:
    house.submit(3)
    house.store.begin()
    assert house.store.ends.purge(FOREVER) == (0, False)
    assert house.store.seal() is False
    house.store.commit()


def test_a_queue_without_tasks_leaves_no_trace(house: House, tmp_path: Path) -> None:
    run(house, 1)
    house.clocks.now += 99 * DAY
    assert purge(house, Keep(house.broker.now, house.broker.now)) == 1
    assert store_is_empty(house)
    house.store.close()
    again = open_store(f"sqlite://{tmp_path}/qdist.db")
    assert (again.counts(), again._db.execute("SELECT count(*) FROM tally").fetchone()) == ({}, (0,))  # type: ignore[attr-defined]
    again.close()


def test_a_purge_never_looks_at_what_came_after_all_that_is_too_old(house: House) -> None:
    def cost() -> int:
        run(house, 50, queue="default")
        house.clocks.now += 1
        cut = house.broker.now
        work = Instructions(house)
        assert purge(house, Keep(cut, cut)) == 50
        return work()

    alone = cost()
    house.clocks.now += 1
    run(house, 50)
    house.clocks.now += 1
    cut = house.broker.now
    run(house, 3000)
    work = Instructions(house)
    assert purge(house, Keep(cut, cut)) == 50
    assert work() < 2 * alone


def test_a_master_that_saw_much_that_has_to_stay_rests_in_proportion(house: House) -> None:
    for _ in range(120):
        house.submit(1000, queue="nobody")
    house.clocks.now += 99 * DAY
    stretches = 1
    while house.tick(2 * PURGE_PAUSE) - house.clocks.now < 1.0:
        stretches += 1
    assert stretches >= 120_000 / MOST_LOOKS
    rest = house.broker._purge_at - house.clocks.now
    assert PURGE_EVERY < rest == pytest.approx(PURGE_REST * stretches)


def test_a_step_ends_with_the_bytes_that_fill_it(house: House) -> None:
    seat = house.hello("a")
    house.submit(10)
    for grant in house.lease(seat, 10):
        with house.change() as broker:
            broker.report(seat, [Settlement(grant.id, grant.attempt, Outcome.SUCCEEDED, bytes(1024 * 1024))])
    house.clocks.now += 1
    with house.change():
        assert house.store.ends.purge(Keep(house.broker.now, house.broker.now)) == (4, True)


def test_the_file_does_not_grow_over_generations(house: House) -> None:
    sizes = []
    for _ in range(8):
        run(house, 1000)
        house.clocks.now += 1
        purge(house, Keep(house.broker.now - 1.5, house.broker.now - 1.5))
        sizes.append(house.store.size())
    assert max(sizes[3:]) <= sizes[2] * 1.02, sizes


# -- what a person wants gone


def test_a_person_chooses_by_state_queue_name_and_age(house: House) -> None:
    old = run(house, 3, Outcome.FAILED)
    house.clocks.now += DAY
    run(house, 2)
    run(house, 4, Outcome.FAILED)
    assert weed(house, dry=True) == 9
    assert weed(house, states=[State.FAILED], before=house.broker.now - 60) == 3
    assert left(house, old) == []
    assert weed(house, states=[State.SUCCEEDED], queue="other") == 0
    assert weed(house, name="other") == 0
    assert weed(house, name="square", queue="default", states=[State.SUCCEEDED]) == 2
    assert weed(house) == 4
    assert store_is_empty(house)


def test_a_person_cannot_purge_what_has_not_ended(house: House) -> None:
    house.submit(3, queue="nobody")
    house.submit(1)
    house.lease(house.hello("a"))
    assert weed(house, states=list(State)) == 0


def test_a_step_for_a_person_looks_at_a_bounded_number_of_rows(house: House) -> None:
    house.submit(1000, queue="nobody")
    house.submit(1000, queue="nobody")
    house.submit(1000, queue="nobody")
    run(house, 5)
    house.clocks.now += 1
    chosen = Chosen(house.broker.now, ENDS)
    with house.change():
        tasks, cursor = house.store.ends.weed(chosen, 0, dry=False)
        assert (tasks, cursor) == (0, MOST_LOOKS)
        assert house.store.ends.weed(chosen, cursor, dry=False) == (5, 0)


# -- helpers


def comes_after(house: House, ids: list[bytes]) -> bytes:
    """A task that waits in a queue without workers and will want the results of these."""
    task = Task(house.rng.randbytes(16), "square", b"p", queue="nobody", take="list")
    arrival = Arrival(
        task, State.READY, house.broker.now, needs=tuple((task_id, True) for task_id in ids), special=True
    )
    with house.change():
        house.store.insert([arrival], house.broker.now)
    return task.id


def store_is_empty(house: House) -> bool:
    db = house.store._db  # type: ignore[attr-defined]
    tables = ("task", "attempt", "depend", "alias")
    return all(db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,) for table in tables)


class Instructions:
    """Counts those of SQLite's machine, in hundreds, until it is called: no other load changes them."""

    def __init__(self, house: House) -> None:
        self._db = house.store._db  # type: ignore[attr-defined]
        self._hundreds = 0
        self._db.set_progress_handler(self._tick, 100)

    def _tick(self) -> int:
        self._hundreds += 1
        return 0

    def __call__(self) -> int:
        self._db.set_progress_handler(None, 0)
        return self._hundreds
