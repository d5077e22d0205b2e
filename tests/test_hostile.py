"""What somebody would try who wants tasks lost, stuck, doubled, or the master slow."""

import math

import msgspec
import pytest

from qdistd.broker import Seat
from qdistd.broker.flow import QueueLimits
from qdistd.broker.kin import AT_ONCE
from qdistd.broker.late import Live
from qdistd.client.outbox import Entry, Outbox
from qdistd.master.lobby import Lobby, Parked
from qdistd.model import Grant, Outcome, Progress, Said, Settlement, State, Task
from qdistd.protocol import MOST_LINKS, Hello, Lease
from qdistd.store import MOST_LANES, WorkerRow, open_store
from tests.household import Clocks, House

EVERYTHING = 1000


@pytest.fixture
def house() -> House:
    return House(open_store("sqlite://:memory:"), Clocks())


def again(house: House, **settings: object) -> House:
    """The same store under a new master."""
    return House(house.store, house.clocks, **settings)


def run(house: House, seat: Seat, outcome: Outcome = Outcome.SUCCEEDED) -> list[bytes]:
    """Lease and settle all there is, once; which tasks that were."""
    grants = house.lease(seat, EVERYTHING)
    with house.change() as broker:
        broker.report(seat, [Settlement(grant.id, grant.attempt, outcome, b"v") for grant in grants])
    return [grant.id for grant in grants]


def retry(house: House, *ids: bytes) -> None:
    with house.change() as broker:
        broker.retry(ids)


def cancel(house: House, *ids: bytes) -> None:
    with house.change() as broker:
        broker.cancel(ids)


def submit(house: House, *tasks: Task) -> list[tuple[bytes, bytes]]:
    """Which of them are others."""
    with house.change() as broker:
        assert broker.submit(tasks) == []
        return [(merged.id, merged.into) for merged in broker.merged]


# -- tasks that a person retries


def test_a_dependent_that_is_retried_waits_for_nothing_that_has_succeeded_while_it_was_cancelled(house: House) -> None:
    (first,) = house.submit(1)
    (last,) = house.submit(1, after=(first,))
    cancel(house, last)
    seat = house.hello("a")
    assert run(house, seat) == [first]
    retry(house, last)
    assert run(house, seat) == [last]


def test_a_dependent_whose_predecessor_was_purged_runs_when_it_is_retried(house: House) -> None:
    (first,) = house.submit(1)
    (last,) = house.submit(1, after=(first,))
    seat = house.hello("a")
    run(house, seat, Outcome.FAILED)
    retry(house, first)
    run(house, seat)
    with house.change():
        house.store._db.execute("DELETE FROM task WHERE id = ?", (first,))  # type: ignore[attr-defined]
        house.store._recount()  # type: ignore[attr-defined]
    retry(house, last)
    assert run(house, seat) == [last]


def test_a_dependent_that_a_person_has_retried_is_not_cancelled_by_a_restart(house: House) -> None:
    (first,) = house.submit(1)
    (last,) = house.submit(1, after=(first,))
    run(house, house.hello("a"), Outcome.FAILED)
    retry(house, last)
    assert house.state(last) == State.BLOCKED
    house = again(house)
    house.tick()
    assert house.state(last) == State.BLOCKED
    retry(house, first)
    seat = house.hello("a")
    assert [run(house, seat) for _ in range(2)] == [[first], [last]]


def test_why_it_waits_can_be_asked_while_its_turn_has_yet_to_come(house: House) -> None:
    (first,) = house.submit(1)
    dependents = house.submit(AT_ONCE + 1, after=(first,))
    run(house, house.hello("a"))
    view = house.store.view(dependents[-1])
    assert view is not None
    assert (view.state, house.broker.why(view)) == (
        State.BLOCKED,
        "what it comes after has ended: it is about to go on",
    )


# -- submits that are said again


def test_a_unique_task_that_is_said_again_stays_itself_whatever_has_come_since(house: House) -> None:
    first, second = (Task(bytes([number]) * 16, "square", b"p", unique="queued", coalesce=True) for number in (1, 2))
    submit(house, first)
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    submit(house, second)
    assert submit(house, first) == []
    house.settle(seat, grant)
    assert submit(house, first) == []


def test_a_task_that_is_said_again_is_taken_though_what_it_came_after_is_purged(house: House) -> None:
    (first,) = house.submit(1)
    task = Task(b"t" * 16, "square", b"p", after=(first,))
    submit(house, task)
    seat = house.hello("a")
    run(house, seat), run(house, seat)
    with house.change():
        house.store._db.execute("DELETE FROM task WHERE id = ?", (first,))  # type: ignore[attr-defined]
        house.store._recount()  # type: ignore[attr-defined]
    assert submit(house, task) == []


def test_a_task_that_names_a_predecessor_twice_gets_its_result_twice(house: House) -> None:
    first, second = (Task(bytes([number]) * 16, "square", b"p", unique="queued") for number in (1, 2))
    assert submit(house, first, second) == [(second.id, first.id)]
    (last,) = house.submit(1, after=(first.id, second.id, first.id), take="list")
    seat = house.hello("a")
    run(house, seat)
    (grant,) = house.lease(seat)
    assert (grant.id, grant.inputs) == (last, (b"v", b"v", b"v"))


def test_what_comes_after_a_task_that_there_is_no_room_for_is_to_come_again_with_it(house: House) -> None:
    house = again(house, queues={"full": QueueLimits(limit=1)})
    house.submit(1, queue="full")
    first = Task(b"1" * 16, "n", b"", queue="full")
    chain = [first, Task(b"2" * 16, "n", b"", after=(first.id,)), Task(b"3" * 16, "n", b"", after=(b"2" * 16,))]
    with house.change() as broker:
        refusals = broker.submit(chain)
    assert [(refusal.code, refusal.after > 0) for refusal in refusals] == [("overloaded", True)] * 3


def test_a_unique_task_that_is_there_needs_no_room(house: House) -> None:
    house = again(house, queued=1)
    first, second, other = (Task(bytes([n]) * 16, "n", b"p" * (n // 3 + 1), unique="queued") for n in (1, 2, 3))
    submit(house, first)
    assert submit(house, second) == [(second.id, first.id)]
    with house.change() as broker:
        assert [refusal.id for refusal in broker.submit([second, other])] == [other.id]


def test_no_labels_wait_for_ever_behind_many_others(house: House) -> None:
    labels = [f"{number:03}" for number in range(MOST_LANES + 10)]
    seat = house.hello("a")
    with house.change() as broker:
        broker.relabel(seat, labels, [])
    for _ in range(20):
        for label in labels:
            house.submit(1, requires=(label,))
    served = {grant.requires for _ in range(20) for grant in house.lease(seat, 20)}
    assert len(served) == len(labels)


def test_what_has_begun_in_time_and_is_to_be_repeated_does_not_expire(house: House) -> None:
    (task,) = house.submit(1, expires=5.0, retries=1, backoff=0.0)
    seat = house.hello("a")
    run(house, seat, Outcome.FAILED)
    house.tick(6.0)
    assert run(house, seat) == [task]
    assert house.state(task) == State.SUCCEEDED


def test_many_that_run_do_not_slow_down_those_that_are_like_them(house: House) -> None:
    seat = house.hello("a")
    for number in range(100):
        submit(house, Task(number.to_bytes(16, "big"), "n", b"", unique="queued"))
        assert len(house.lease(seat)) == 1
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1

    submit(house, Task(b"q" * 16, "n", b"", unique="queued"))
    house.store._db.set_progress_handler(look, 100)  # type: ignore[attr-defined]
    assert len(submit(house, *(Task(bytes([n]) * 16, "n", b"", unique="queued") for n in range(200, 210)))) == 10
    house.store._db.set_progress_handler(None, 0)  # type: ignore[attr-defined]
    assert looks < 50


# -- clocks


def test_a_time_of_day_holds_over_a_step_of_the_clock_also_for_what_waits_for_others(house: House) -> None:
    (first,) = house.submit(1)
    (last,) = house.submit(1, after=(first,), run_at=house.clocks.wall() + 100)
    house.clocks.jump = 50.0
    house.tick()
    run(house, house.hello("a"))
    house.tick(50.0)
    assert house.state(last) == State.READY


def test_a_clock_that_was_set_back_before_a_restart_does_not_stop_a_queue_with_a_rate(house: House) -> None:
    rated = {"default": QueueLimits(rate=(1, 10.0))}
    house = again(house, queues=rated)
    house.submit(1, priority=-1)
    house.submit(1500)
    house.clocks.now += 3600.0
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    house.settle(seat, grant)
    house.clocks.jump = -3600.0
    house = again(house, queues=rated)
    house.clocks.now += 10.0
    assert len(house.lease(house.hello("b"))) == 1


# -- waking


def park(house: House, lobby: Lobby, token: str, *queues: str) -> list[Grant]:
    """What a worker that waits will have been granted."""
    with house.change() as broker:
        seat = broker.hello(WorkerRow(token.encode() * 16, token, "host", 1), Hello("worker", token, queues=[*queues]))
    granted: list[Grant] = []
    lobby.park(Parked(seat, queues, 10, granted.extend, 10))
    return granted


def serve(house: House, lobby: Lobby) -> None:
    with house.change():
        answers = lobby.serve()
    for answer in answers:
        answer()


def test_work_that_comes_of_serving_one_worker_wakes_the_next(house: House) -> None:
    lobby = Lobby(house.broker)
    (doomed,) = house.submit(1, queue="b", expires=5.0)
    (heir,) = house.submit(1, queue="a", after=(doomed,), if_failed="run")
    house.submit(1, queue="b")
    house.broker.ready.clear()
    mine, other = park(house, lobby, "1", "b"), park(house, lobby, "2", "a")
    house.clocks.now += 6.0
    house.broker.ready.add("b")
    serve(house, lobby)
    assert len(mine) == 1
    assert [grant.id for grant in other] == [heir]


# -- long transactions


def test_however_many_workers_ask_a_transaction_frees_a_bounded_number_of_dependents(house: House) -> None:
    (first,) = house.submit(1)
    house.submit(AT_ONCE * 4, after=(first,))
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    with house.change() as broker:
        broker.report(seat, [Settlement(grant.id, grant.attempt, Outcome.SUCCEEDED, b"v")])
        for _ in range(20):
            broker.lease(seat, ["other"], 1)
    assert house.store.ready("default") == AT_ONCE
    for _ in range(3):
        assert house.tick() >= house.clocks.now
    assert house.store.ready("default") == AT_ONCE * 4


def test_a_limit_that_is_lifted_frees_a_bounded_number_of_tasks_of_all_keys_together(house: House) -> None:
    house = again(house, queues={"default": QueueLimits(per_key=1)})
    for key in range(30):
        house.submit(AT_ONCE // 10, concurrency_key=f"{key}")
    with house.change() as broker:
        broker.reload(broker.settings.__class__())
    assert house.store.ready("default") <= AT_ONCE + 30
    for _ in range(3):
        house.tick()
    assert house.store.ready("default") == 30 * AT_ONCE // 10


def test_a_submit_names_no_more_predecessors_than_a_transaction_can_look_at(house: House) -> None:
    known = house.submit(1000)
    tasks = [Task(bytes([number]) * 16, "n", b"", after=tuple(known)) for number in range(MOST_LINKS // 1000 + 1)]
    with house.change() as broker:
        assert {refusal.code for refusal in broker.submit([*tasks, Task(b"p" * 16, "n", b"")])} == {"refused"}
        assert broker.submit(tasks[1:]) == []
    assert house.store.count("default", State.BLOCKED) == MOST_LINKS // 1000


def test_a_client_cuts_its_batches_so_that_none_names_too_many() -> None:
    outbox, many = Outbox(), tuple(number.to_bytes(16, "big") for number in range(1000))
    outbox.waiting.extend(Entry(bytes(16), Task(bytes(16), "n", b"", after=many), True) for _ in range(12))
    assert [len(batch.tasks) for batch in outbox.cut(1)] == [MOST_LINKS // 1000, 2]


def test_labels_that_nobody_has_cost_others_nothing_and_are_forgotten_with_their_tasks(house: House) -> None:
    ids = [house.submit(1, requires=(f"only {number}", "x"))[0] for number in range(100)]
    seat = house.hello("a")
    assert house.store.lanes("default", seat.labels) == {}
    with house.change() as broker:
        broker.relabel(seat, ["x", "only 7"], [])
    assert [grant.id for grant in house.lease(seat, 9)] == [ids[7]]
    cancel(house, *ids[:7], *ids[8:])
    assert not any(house.store._tally._lanes.values())  # type: ignore[attr-defined]


def test_a_queue_with_a_rate_and_tasks_that_nobody_can_take_is_not_looked_at_with_each_transaction(
    house: House,
) -> None:
    house = again(house, queues={"default": QueueLimits(rate=(5, 1.0))})
    house.submit(1, requires=("gpu",))
    house.broker.ready.clear()
    house.submit(1, queue="other")
    assert house.broker.ready == {"other"}


# -- what an enemy says


def test_a_worker_gets_no_tasks_by_the_name_of_a_queue_with_labels(house: House) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(Lease(["default\ngpu"], 1)), type=Lease)
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(Lease(["default\n"], 1)), type=Lease)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "a\0"])
def test_names_that_would_be_taken_for_something_else_are_refused(house: House, name: str) -> None:
    for task in (Task(b"t" * 16, "n", b"", queue=name), Task(b"t" * 16, "n", b"", requires=("x", name))):
        with house.change() as broker:
            (refusal,) = broker.submit([task])
        assert refusal.code == "refused"
        assert repr(name) in refusal.message
    assert house.store.counts() == {}


def test_a_progress_that_is_no_number_is_not_shown() -> None:
    live = Live()
    live.hear(Said(b"t" * 16, 1, b"", Progress(1.0, 2.0)))
    live.hear(Said(b"t" * 16, 1, b"", Progress(math.nan, 2.0)))
    live.hear(Said(b"t" * 16, 1, b"", Progress(1.0, math.inf)))
    assert live.progress == Progress(1.0, 2.0)
