"""What ties tasks together: what they come after, what they are the same as, and what is no longer worth running."""

import random
from itertools import pairwise

import pytest

from qdistd.broker import QueueLimits, Seat
from qdistd.call import decode_failure
from qdistd.lifecycle import MOVES, Policy
from qdistd.model import Grant, Outcome, Result, Settlement, State, Task, id_text
from qdistd.store import LARGEST_LEASE, open_store
from tests.household import Clocks, House


@pytest.fixture
def house() -> House:
    return House(open_store("sqlite://:memory:"), Clocks())


def again(house: House) -> House:
    """The same store under a new master."""
    return House(house.store, house.clocks)


def run(house: House, seat: Seat, outcome: Outcome = Outcome.SUCCEEDED, value: bytes = b"v") -> list[bytes]:
    """Lease and settle all there is, once; which tasks that were."""
    grants = house.lease(seat, 1000)
    with house.change() as broker:
        broker.report(seat, [Settlement(grant.id, grant.attempt, outcome, value) for grant in grants])
    return [grant.id for grant in grants]


def finished(house: House) -> dict[bytes, Result]:
    return {result.id: result for result in house.broker.take_finished()}


# -- after


def test_a_task_runs_when_all_that_it_comes_after_have_succeeded(house: House) -> None:
    first, second = house.submit(2)
    (last,) = house.submit(1, after=(first, second))
    seat = house.hello("a")
    assert house.state(last) == State.BLOCKED
    (one,) = house.lease(seat, 1)
    house.settle(seat, one)
    assert house.state(last) == State.BLOCKED
    assert run(house, seat) == [second]
    assert "default" in house.broker.ready
    assert run(house, seat) == [last]


def test_what_has_succeeded_before_needs_no_waiting(house: House) -> None:
    (first,) = house.submit(1)
    seat = house.hello("a")
    run(house, seat)
    (last,) = house.submit(1, after=(first,))
    assert run(house, seat) == [last]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REJECTED])
def test_a_failure_cancels_all_that_comes_after_it_down_to_the_last(house: House, outcome: Outcome) -> None:
    chain = house.submit(1)
    for _ in range(5):
        chain += house.submit(1, after=(chain[-1],))
    seat = house.hello("a")
    run(house, seat, outcome)
    assert [house.state(task) for task in chain] == [State.FAILED] + [State.CANCELLED] * 5
    told = finished(house)
    assert told.keys() == set(chain)
    for earlier, later in pairwise(chain):
        assert id_text(earlier) in decode_failure(told[later].value).message


def test_a_task_after_one_that_has_failed_already_is_cancelled_at_once(house: House) -> None:
    (first,) = house.submit(1)
    run(house, house.hello("a"), Outcome.FAILED)
    (last,) = house.submit(1, after=(first,))
    assert house.state(last) == State.CANCELLED
    assert last in finished(house)


def test_with_run_it_runs_however_the_others_ended(house: House) -> None:
    first, second = house.submit(2)
    (last,) = house.submit(1, after=(first, second), if_failed="run")
    seat = house.hello("a")
    with house.change() as broker:
        broker.cancel([first])
    run(house, seat, Outcome.FAILED)
    assert run(house, seat) == [last]


def test_with_wait_it_waits_for_a_retry_also_over_a_restart(house: House) -> None:
    (first,) = house.submit(1)
    (last,) = house.submit(1, after=(first,), if_failed="wait")
    seat = house.hello("a")
    run(house, seat, Outcome.FAILED)
    assert house.state(last) == State.BLOCKED
    house = again(house)
    house.tick()
    with house.change() as broker:
        broker.retry([first])
    seat = house.hello("a")
    assert run(house, seat) == [first]
    assert run(house, seat) == [last]


def test_a_cancelled_dependent_that_is_retried_waits_again(house: House) -> None:
    (first,) = house.submit(1)
    (last,) = house.submit(1, after=(first,))
    seat = house.hello("a")
    run(house, seat, Outcome.FAILED)
    with house.change() as broker:
        assert broker.retry([last, first]) == {last: State.BLOCKED, first: State.READY}
    assert [run(house, seat) for _ in range(3)] == [[first], [last], []]


def test_a_task_after_one_that_nobody_knows_is_refused_and_says_which(house: House) -> None:
    stranger = b"s" * 16
    with house.change() as broker:
        (refusal,) = broker.submit([Task(b"t" * 16, "square", b"p", after=(stranger,))])
    assert (refusal.code, id_text(stranger) in refusal.message) == ("not-found", True)


def test_a_chain_may_arrive_in_one_request(house: House) -> None:
    ids = [bytes([number]) * 16 for number in range(1, 5)]
    chain = [Task(ids[0], "square", b"p")]
    chain += [Task(later, "square", b"p", after=(earlier,)) for earlier, later in pairwise(ids)]
    with house.change() as broker:
        assert broker.submit(chain, atomic=True) == []
        assert broker.submit(chain, atomic=True) == []  # said twice
    seat = house.hello("a")
    assert [run(house, seat) for _ in range(5)] == [[task] for task in ids] + [[]]


def test_a_delay_counts_from_the_arrival_also_for_what_comes_after_something(house: House) -> None:
    (first,) = house.submit(1)
    (last,) = house.submit(1, after=(first,), delay=60.0)
    run(house, house.hello("a"))
    assert house.state(last) == State.SCHEDULED
    house.tick(60.0)
    assert house.state(last) == State.READY


def test_results_go_along_in_the_order_that_was_asked_for_and_nothing_for_those_without(house: House) -> None:
    first, second, third = house.submit(3)
    (last,) = house.submit(1, after=(third, first, second), if_failed="run", take="list")
    seat = house.hello("a")
    values = {first: b"one", second: b"two", third: b"three"}
    for grant in house.lease(seat, 3):
        outcome = Outcome.FAILED if grant.id == second else Outcome.SUCCEEDED
        with house.change() as broker:
            broker.report(seat, [Settlement(grant.id, grant.attempt, outcome, values[grant.id])])
    (grant,) = house.lease(seat)
    assert (grant.id, grant.inputs, grant.take) == (last, (b"three", b"one", b""), "list")


def test_results_too_large_to_go_along_end_the_task_with_a_word_about_it(house: House) -> None:
    parts = house.submit(4)
    (last,) = house.submit(1, after=tuple(parts), take="list")
    seat = house.hello("a")
    run(house, seat, value=bytes(LARGEST_LEASE // 3))
    assert house.lease(seat) == []
    assert house.state(last) == State.FAILED
    assert decode_failure(finished(house)[last].value).kind == "too-large"


def test_a_thousand_and_more_dependents_are_freed_step_by_step_also_over_a_restart(house: House) -> None:
    (first,) = house.submit(1)
    dependents = house.submit(2500, after=(first,))
    run(house, house.hello("a"))
    house = again(house)
    for _ in range(3):
        house.tick()
    assert house.store.ready("default") == len(dependents)


def test_why_a_blocked_task_waits_can_be_asked(house: House) -> None:
    (first,) = house.submit(1)
    (last,) = house.submit(1, after=(first,))
    view = house.store.view(last)
    assert view is not None
    assert (view.after, view.blocked_by) == ([first], 1)
    assert id_text(first) in house.broker.why(view)


def test_random_webs_of_tasks_end_all_and_as_their_rules_say() -> None:
    for seed in range(30):
        _spin(random.Random(seed))


def _spin(rng: random.Random) -> None:
    house = House(open_store("sqlite://:memory:"), Clocks())
    watch_moves(house)
    after: dict[bytes, tuple[bytes, ...]] = {}
    rules: dict[bytes, str] = {}
    for _ in range(40):
        needs = tuple(rng.sample(list(after), min(len(after), rng.randint(0, 3))))
        rule = rng.choice(["cancel", "run"])
        (task,) = house.submit(1, after=needs, if_failed=rule)
        after[task], rules[task] = needs, rule
        if rng.random() < 0.3:
            _step(house, rng)
    for _ in range(60):
        if rng.random() < 0.1:
            house = again(house)
        _step(house, rng)
    for task, needs in after.items():
        state = house.state(task)
        broken = any(house.state(other) != State.SUCCEEDED for other in needs)
        assert state.final
        assert (state == State.CANCELLED) == (broken and rules[task] == "cancel")
    assert moves(house) <= {(old, new) for old, states in MOVES.items() for new in states}


def watch_moves(house: House) -> None:
    """Have SQLite write down every change of a state, whoever makes it."""
    house.store._db.executescript(  # type: ignore[attr-defined]
        "CREATE TEMP TABLE moves(old, new); CREATE TEMP TRIGGER watch AFTER UPDATE OF state ON main.task"
        " WHEN old.state <> new.state BEGIN INSERT INTO moves VALUES(old.state, new.state); END"
    )


def moves(house: House) -> set[tuple[State, State]]:
    rows = house.store._db.execute("SELECT DISTINCT old, new FROM moves")  # type: ignore[attr-defined]
    return {(State(old), State(new)) for old, new in rows}


def test_every_move_of_every_task_is_one_of_the_table() -> None:
    rng = random.Random(11)
    limits = {"default": QueueLimits(per_key=1, concurrency=5)}
    house = House(open_store("sqlite://:memory:"), Clocks(), queues=limits, policy=Policy(crashes=1))
    watch_moves(house)
    tasks: list[bytes] = []
    for _ in range(1500):
        act = rng.random()
        if act < 0.3:
            options: dict[str, object] = {"retries": rng.randint(0, 2), "backoff": rng.uniform(0, 3)}
            options |= rng.choice([{}, {"concurrency_key": rng.choice("ab")}, {"expires": 9.0}, {"delay": 3.0}])
            options |= {"after": tuple(rng.sample(tasks, min(len(tasks), rng.randint(0, 2))))} if act < 0.1 else {}
            tasks += house.submit(1, if_failed=rng.choice(["cancel", "run", "wait"]), **options)
        elif act < 0.8:
            seat = house.hello("a")
            for grant in house.lease(seat, rng.randint(1, 4)):
                house.settle(seat, grant, rng.choice([*Outcome, *[Outcome.SUCCEEDED] * 4]))
        elif act < 0.9:
            with house.change() as broker:
                (broker.cancel if act < 0.85 else broker.retry)(rng.sample(tasks, min(len(tasks), 3)))
        else:
            house.tick(rng.uniform(0, 4))
    seen, allowed = moves(house), {(old, new) for old, states in MOVES.items() for new in states}
    assert seen <= allowed
    assert {new for _, new in seen} == set(State)


def _step(house: House, rng: random.Random) -> None:
    seat = house.hello("a")
    for grant in house.lease(seat, rng.randint(1, 5)):
        house.settle(seat, grant, rng.choice([Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.FAILED]))
    house.tick(rng.uniform(0, 2))


# -- expires


def test_what_has_not_begun_in_time_is_cancelled_and_says_so(house: House) -> None:
    (task,) = house.submit(1, expires=20.0)
    (begun,) = house.submit(1, expires=20.0, priority=-1)
    (later,) = house.submit(1, expires=20.0, delay=100.0)
    (dependent,) = house.submit(1, after=(task,))
    seat = house.hello("a")
    (grant,) = house.lease(seat)
    assert grant.id == begun
    assert house.tick(19.0) <= 20.0
    assert house.state(task) == State.READY
    house.tick(1.0)
    assert [house.state(each) for each in (task, later, dependent)] == [State.CANCELLED] * 3
    assert decode_failure(finished(house)[task].value).kind == "expired"
    assert house.settle(seat, grant) == []
    assert house.state(begun) == State.SUCCEEDED


def test_what_is_over_is_not_handed_out_even_when_the_tick_is_late(house: House) -> None:
    (task,) = house.submit(1, expires=5.0)
    seat = house.hello("a")
    house.clocks.now += 6.0
    assert house.lease(seat) == []
    assert house.state(task) == State.CANCELLED


def test_an_expiry_outlives_a_restart_and_a_step_of_the_wall_clock(house: House) -> None:
    (task,) = house.submit(1, expires=60.0)
    house.clocks.jump = 86400.0
    house.tick(30.0)
    assert house.state(task) == State.READY
    house.clocks.jump = 0.0
    house = again(house)
    house.tick(31.0)
    assert house.state(task) == State.CANCELLED


# -- unique


def submit(house: House, *tasks: Task) -> list[tuple[bytes, bytes]]:
    with house.change() as broker:
        assert broker.submit(tasks) == []
        return [(merged.id, merged.into) for merged in broker.merged]


def alike(number: int, unique: str = "queued", **options: object) -> Task:
    return Task(bytes([number]) * 16, "square", options.pop("payload", b"p"), unique=unique, **options)  # type: ignore[arg-type]


def test_while_one_like_it_is_queued_a_unique_task_is_that_one(house: House) -> None:
    assert submit(house, alike(1), alike(2), alike(3, payload=b"other")) == [(b"\2" * 16, b"\1" * 16)]
    seat = house.hello("a")
    assert run(house, seat) == [b"\1" * 16, b"\3" * 16]
    assert submit(house, alike(4)) == []


def test_unique_while_queued_may_wait_beside_one_that_runs_and_unique_while_running_may_not(house: House) -> None:
    submit(house, alike(1), alike(2, "running", payload=b"r"))
    seat = house.hello("a")
    grants: list[Grant] = house.lease(seat, 9)
    assert submit(house, alike(3)) == []
    assert submit(house, alike(4, "running", payload=b"r")) == [(b"\4" * 16, b"\2" * 16)]
    for grant in grants:
        house.settle(seat, grant)
    assert submit(house, alike(5, "running", payload=b"r")) == []


def test_a_merged_submit_that_is_said_again_is_still_that_task_even_when_it_has_ended(house: House) -> None:
    submit(house, alike(1), alike(2))
    run(house, house.hello("a"))
    house = again(house)
    assert submit(house, alike(2)) == [(b"\2" * 16, b"\1" * 16)]
    assert house.store.counts()["default"] == {State.SUCCEEDED: 1}
    view = house.store.view(b"\2" * 16)
    assert view is not None
    assert view.id == b"\1" * 16


def test_a_unique_key_stands_for_the_arguments_and_the_last_ones_win_where_they_coalesce(house: House) -> None:
    submit(house, alike(1, unique_key="page 7", payload=b"old"))
    submit(house, alike(2, unique_key="page 7", payload=b"new", coalesce=True))
    submit(house, alike(3, unique_key="page 7", payload=b"newer"))
    seat = house.hello("a")
    (grant,) = house.lease(seat, 9)
    assert (grant.id, grant.payload) == (b"\1" * 16, b"new")


def test_what_comes_after_a_merged_task_comes_after_the_one_that_it_is(house: House) -> None:
    submit(house, alike(1), alike(2), Task(b"d" * 16, "square", b"p", after=(b"\2" * 16,)))
    seat = house.hello("a")
    assert [run(house, seat) for _ in range(2)] == [[b"\1" * 16], [b"d" * 16]]
