"""How queues flow: pauses, limits, rates, shares, labels, drains, and a house that is full."""

from collections import Counter

import pytest

from qdistd.broker import QueueLimits, Seat
from qdistd.model import Grant, Outcome, State, Task
from qdistd.protocol import Hello
from qdistd.store import WorkerRow, open_store
from tests.household import Clocks, House


def make(**settings: object) -> House:
    return House(open_store("sqlite://:memory:"), Clocks(), **settings)


def again(house: House, **settings: object) -> House:
    """The same store under a new master."""
    return House(house.store, house.clocks, **settings)


def worker(house: House, name: str = "w", labels: tuple[str, ...] = (), queues: tuple[str, ...] = ("default",)) -> Seat:
    words = Hello("worker", name, queues=list(queues), processes=9, labels=labels)
    with house.change() as broker:
        return broker.hello(WorkerRow(name.encode().ljust(16), name, f"host-{name}"), words)


def lease(
    house: House, seat: Seat, *queues: str, count: int = 1000, idle: int = 1000, fair: bool = False
) -> list[Grant]:
    with house.change() as broker:
        return broker.lease(seat, queues or ("default",), count, idle, fair=fair)


# -- pause and drain


def test_a_paused_queue_gives_nothing_out_also_after_a_restart_until_it_is_resumed() -> None:
    house = make()
    house.submit(2)
    seat = worker(house)
    with house.change() as broker:
        assert broker.pause(["default"], on=True) == ["default"]
        assert broker.pause(["default"], on=True) == []  # said twice
    assert lease(house, seat) == []
    house = again(house)
    seat = worker(house)
    assert lease(house, seat) == []
    with house.change() as broker:
        assert broker.pause(["default"], on=False) == ["default"]
    assert len(lease(house, seat)) == 2


@pytest.mark.parametrize("name", ["w", "host-w"])
def test_a_drained_worker_or_host_gets_nothing_also_when_it_comes_back_under_a_new_master(name: str) -> None:
    house = make()
    house.submit(3)
    seat, other = worker(house), worker(house, "other")
    with house.change() as broker:
        changed, ordered = broker.drain([name], on=True)
    assert (changed, ordered, seat.drained, other.drained) == ([name], [seat], True, False)
    assert lease(house, seat) == []
    assert len(lease(house, other, count=1)) == 1
    house = again(house)
    seat = worker(house)
    assert lease(house, seat) == []
    with house.change() as broker:
        broker.drain([name], on=False)
    assert len(lease(house, seat)) == 2


# -- concurrency


def test_no_more_tasks_of_a_queue_are_leased_than_its_concurrency_however_many_workers_ask() -> None:
    house = make(queues={"default": QueueLimits(concurrency=3)})
    house.submit(10)
    seats = [worker(house, f"w{number}") for number in range(4)]
    held = [(seat, grant) for seat in seats for grant in lease(house, seat, count=2)]
    assert len(held) == 3
    house.settle(*held[0])
    assert "default" in house.broker.ready  # somebody who waits can have the free place
    assert [len(lease(house, seat)) for seat in seats] == [1, 0, 0, 0]


def test_of_a_queue_with_limits_a_worker_gets_no_more_than_it_has_idle_children() -> None:
    house = make(queues={"default": QueueLimits(concurrency=100), "free": QueueLimits(weight=2)})
    house.submit(10)
    house.submit(10, queue="free")
    seat = worker(house)
    assert len(lease(house, seat, idle=2)) == 2
    assert len(lease(house, seat, "free", idle=2)) == 10


def test_the_concurrency_counts_over_a_restart() -> None:
    house = make(queues={"default": QueueLimits(concurrency=2)})
    house.submit(5)
    assert len(lease(house, worker(house))) == 2
    house = again(house, queues={"default": QueueLimits(concurrency=2)})
    assert lease(house, worker(house, "other")) == []


# -- concurrency keys


def test_as_many_tasks_run_at_once_for_each_key_as_its_queue_allows_and_keyless_ones_are_free() -> None:
    house = make(queues={"default": QueueLimits(per_key=2)})
    for key in ("ann", "bob"):
        house.submit(5, concurrency_key=key)
    house.submit(3)
    seat = worker(house)
    held = lease(house, seat)
    assert len(held) == 2 + 2 + 3
    house.settle(seat, held[0])
    assert len(lease(house, seat)) == 1


def test_every_keyed_task_comes_to_its_turn_whatever_becomes_of_the_others() -> None:
    house = make(queues={"default": QueueLimits(per_key=1)})
    tasks = house.submit(12, concurrency_key="ann", retries=1, backoff=0.0)
    seat = worker(house)
    outcomes = [Outcome.SUCCEEDED, Outcome.FAILED, Outcome.RELEASED, Outcome.CRASHED, Outcome.REJECTED]
    for turn in range(100):
        if turn % 7 == 3:
            with house.change() as broker:
                broker.cancel([tasks[turn % len(tasks)]])
        for grant in lease(house, seat):
            house.settle(seat, grant, outcomes[turn % len(outcomes)])
        house.tick(5.0)
    assert all(house.state(task).final for task in tasks)


def test_keys_hold_over_a_restart_and_are_freed_when_the_limit_goes() -> None:
    house = make(queues={"default": QueueLimits(per_key=1)})
    tasks = house.submit(4, concurrency_key="ann")
    assert len(lease(house, worker(house))) == 1
    house = again(house, queues={"default": QueueLimits(per_key=1)})
    assert lease(house, worker(house, "other")) == []
    assert Counter(house.state(task) for task in tasks) == {State.LEASED: 1, State.BLOCKED: 3}
    with house.change() as broker:
        broker.reload(make().broker.settings)
    assert len(lease(house, worker(house, "other"))) == 3


# -- rates


def begun(house: House, seats: list[Seat], seconds: float, step: float) -> list[float]:
    """When tasks were handed out."""
    times: list[float] = []
    while house.clocks.now < seconds:
        house.tick(step)
        for seat in seats:
            for grant in lease(house, seat, count=3):
                times.append(house.clocks.now)
                house.settle(seat, grant)
    return times


@pytest.mark.parametrize("rate", [(5, 1.0), (1, 0.5), (40, 10.0), (7, 3.0)])
def test_in_no_stretch_of_time_do_more_tasks_begin_than_the_rate_allows(rate: tuple[int, float]) -> None:
    tasks, seconds = rate
    house = make(queues={"default": QueueLimits(rate=rate)})
    house.submit(200)
    times = begun(house, [worker(house, name) for name in "abc"], 20.0, 0.03)
    assert len(times) >= 0.9 * 20.0 * tasks / seconds  # and it is used up
    for first, last in zip(times, times[tasks:], strict=False):
        assert last - first >= seconds - 1e-6


def test_a_rate_holds_over_restarts_of_the_master() -> None:
    limits = {"default": QueueLimits(rate=(4, 10.0))}
    house = make(queues=limits)
    house.submit(50)
    times: list[float] = []
    for _ in range(12):
        house = again(house, queues=limits)
        times += begun(house, [worker(house)], house.clocks.now + 2.5, 0.5)
    assert len(times) >= 8
    for first, last in zip(times, times[4:], strict=False):
        assert last - first >= 10.0 - 1e-6


def test_the_tick_comes_when_the_rate_lets_the_next_one_begin() -> None:
    house = make(queues={"default": QueueLimits(rate=(1, 7.0))})
    house.submit(2)
    seat = worker(house)
    assert len(lease(house, seat)) == 1
    assert house.tick() == pytest.approx(7.0)
    house.broker.ready.clear()
    house.tick(7.0)
    assert "default" in house.broker.ready
    assert len(lease(house, seat)) == 1


# -- shares


def served(house: House, seat: Seat, queues: tuple[str, ...], turns: int, count: int = 5) -> Counter[str]:
    shares: Counter[str] = Counter()
    for _ in range(turns):
        for grant in lease(house, seat, *queues, count=count, fair=True):
            shares[grant.queue] += 1
            house.settle(seat, grant)
    return shares


def test_queues_share_a_worker_by_their_weights() -> None:
    house = make(queues={"a": QueueLimits(weight=3), "b": QueueLimits(weight=2)})
    for queue in ("a", "b", "c"):
        house.submit(1000, queue=queue)
    assert served(house, worker(house), ("a", "b", "c"), 120) == {"a": 300, "b": 200, "c": 100}


def test_a_flood_in_one_queue_starves_no_other_and_an_idle_queue_saves_nothing_up() -> None:
    house = make()
    house.submit(1000, queue="flood")
    seat = worker(house)
    served(house, seat, ("flood", "drip"), 40)
    house.submit(2, queue="drip")
    assert served(house, seat, ("flood", "drip"), 1, count=4) == {"flood": 2, "drip": 2}
    house.submit(100, queue="drip")
    shares = served(house, seat, ("flood", "drip"), 10, count=4)
    assert shares["flood"] == pytest.approx(shares["drip"], abs=2)


def test_listed_queues_are_served_in_their_order() -> None:
    house = make()
    for queue in ("a", "b"):
        house.submit(3, queue=queue)
    grants = lease(house, worker(house), "b", "a", count=4)
    assert [grant.queue for grant in grants] == ["b", "b", "b", "a"]


# -- labels


def test_a_task_goes_only_to_workers_that_have_all_it_requires_and_priorities_hold_across_lanes() -> None:
    house = make()
    (plain,) = house.submit(1, priority=1)
    (gpu,) = house.submit(1, requires=("gpu",), priority=0)
    (both,) = house.submit(1, requires=("site=berlin", "gpu"), priority=-1)
    assert [grant.id for grant in lease(house, worker(house), count=9)] == [plain]
    assert [grant.id for grant in lease(house, worker(house, "g", ("gpu",)))] == [gpu]
    house.submit(1, priority=5)
    grants = lease(house, worker(house, "b", ("gpu", "site=berlin", "fast")))
    assert (grants[0].id, len(grants)) == (both, 2)


def test_what_no_worker_can_take_is_told_with_the_reason() -> None:
    house = make()
    (task,) = house.submit(1, requires=("gpu",))
    assert [stuck.reason for stuck in house.broker.stuck()] == ["no worker that is here serves this queue"]
    seat = worker(house)
    (stuck,) = house.broker.stuck()
    assert (stuck.queue, stuck.requires, stuck.tasks) == ("default", ["gpu"], 1)
    assert "has gpu" in stuck.reason
    with house.change() as broker:
        broker.relabel(seat, (), ["share data: /mnt/data does not answer"])
    assert "w: share data: /mnt/data does not answer" in house.broker.stuck()[0].reason
    view = house.store.view(task)
    assert view is not None
    assert "gpu" in house.broker.why(view)
    with house.change() as broker:
        broker.relabel(seat, ("gpu",), [])
    assert "default" in house.broker.ready
    assert house.broker.stuck() == []
    assert len(lease(house, seat)) == 1


# -- a full house


def refusals(house: House, *tasks: Task, atomic: bool = False) -> list[tuple[bytes, str]]:
    with house.change() as broker:
        return [(refusal.id, refusal.code) for refusal in broker.submit(tasks, atomic=atomic)]


def test_a_full_queue_refuses_with_a_hint_and_takes_what_it_has_already() -> None:
    house = make(queues={"default": QueueLimits(limit=3)})
    tasks = [Task(bytes([number]) * 16, "square", b"p") for number in range(5)]
    assert refusals(house, *tasks) == [(task.id, "overloaded") for task in tasks[3:]]
    assert refusals(house, *tasks[:3]) == []  # said twice
    with house.change() as broker:
        (refusal,) = broker.submit([tasks[4]])
    assert 1.0 <= refusal.after <= 60.0
    assert "full" in refusal.message
    house.lease(worker(house))
    assert refusals(house, tasks[3]) == []


def test_all_queues_together_have_a_limit_too() -> None:
    house = make(queued=2)
    house.submit(1, queue="a")
    house.submit(1, queue="b")
    assert refusals(house, Task(b"c" * 16, "square", b"p", "c")) == [(b"c" * 16, "overloaded")]
    assert "queued" in house.broker.door.overload()


def test_a_batch_is_stored_whole_or_not_at_all() -> None:
    house = make(queues={"default": QueueLimits(limit=3)})
    tasks = [Task(bytes([number]) * 16, "square", b"p") for number in range(5)]
    assert [code for _, code in refusals(house, *tasks, atomic=True)] == ["overloaded"] * 5
    assert house.store.counts() == {}
    assert refusals(house, *tasks[:3], atomic=True) == []
    assert refusals(house, *tasks[:3], atomic=True) == []  # said twice
