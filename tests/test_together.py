"""Groups, chains and tasks that come after others, on a real master: each result goes where it is wanted, once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from office import PATIENCE, TASKS, Office

import qdistd
from qdistd import State, bind, task

TASKS["total"] = sum
TASKS["count"] = lambda results, *more: [len(results), *more]


@task
def double(n: int) -> int:
    return n * 2


TASKS[f"{__name__}.double"] = double


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with Office(tmp_path) as office:
        yield office


@pytest.fixture
def q(office: Office) -> Iterator[qdistd.Client]:
    with office.client() as client:
        yield client


# -- after


def test_a_task_runs_after_others_and_takes_their_results(q: qdistd.Client) -> None:
    first, second = q.options(delay=0.2).submit("square", 7), q.submit("math.sqrt", 9)
    plain = q.options(after=[first, second]).submit("square", 1)
    spread = q.options(after=[first, second], take="args").submit("echo", "own", key="word")
    listed = q.options(after=[second.id, first.id], take="list").submit("echo", "own")
    assert plain.state() == State.BLOCKED
    assert spread.result(PATIENCE) == [("7 * 7 = 49", 3.0, "own"), {"key": "word"}]
    assert listed.result(PATIENCE) == [([3.0, "7 * 7 = 49"], "own"), {}]
    assert plain.result(PATIENCE) == "1 * 1 = 1"


def test_a_task_may_come_after_one_that_has_long_ended(q: qdistd.Client) -> None:
    first = q.submit("math.sqrt", 9)
    assert first.result(PATIENCE) == 3.0
    assert q.options(after=first, take="args").submit(double).result(PATIENCE) == 6.0


@pytest.mark.parametrize("fails_first", [True, False])
def test_what_happens_when_one_fails_is_chosen(q: qdistd.Client, fails_first: bool) -> None:
    bad = q.options(delay=0.2).submit("fail")
    if fails_first:
        bad.exception(PATIENCE)
    after = q.options(after=[bad])
    cancelled = after.submit("square", 1)
    ran = after.options(if_failed="run", take="list").submit("echo")
    waits = after.options(if_failed="wait").submit("square", 2)
    assert isinstance(cancelled.exception(PATIENCE), qdistd.TaskCancelled)
    assert ran.result(PATIENCE) == [([None],), {}]
    bad.exception(PATIENCE)
    assert waits.state() == State.BLOCKED
    assert waits.why()


def test_what_waits_for_a_failed_task_runs_after_its_retry(q: qdistd.Client) -> None:
    answers = iter([ZeroDivisionError("not yet"), 7])
    TASKS["second try"] = lambda: _raised(next(answers))
    first = q.submit("second try")
    later = q.options(after=first, if_failed="wait", take="args").submit(double)
    assert isinstance(first.exception(PATIENCE), qdistd.TaskFailed)
    q.retry([first])
    assert later.result(PATIENCE) == 14


def _raised(answer: object) -> object:
    if isinstance(answer, Exception):
        raise answer
    return answer


def test_a_task_after_one_that_is_not_there_is_refused(q: qdistd.Client) -> None:
    with pytest.raises(qdistd.Refused, match="0192f0c1-2b3c-7d4e-8f90-a1b2c3d4e5f6"):
        q.options(after=["0192f0c1-2b3c-7d4e-8f90-a1b2c3d4e5f6"]).submit("square", 1).result(PATIENCE)


# -- groups


def test_a_group_gives_its_results_in_order_and_all_of_them_to_one_more_task(q: qdistd.Client) -> None:
    group = q.group([bind("math.sqrt", n * n) for n in range(100)], then=bind("total"))
    assert group.result(PATIENCE) == [float(n) for n in range(100)]
    assert group.then is not None
    assert group.then.result(PATIENCE) == sum(range(100))
    assert group.then.parents == group.handles == tuple(group)
    assert (group.done(), group.wait(), group.progress(), len(group)) == (True, True, (100, 100, 0), 100)
    assert repr(group) == "<qdistd.Group 100 of 100 done>"


def test_the_options_of_a_call_stand_above_those_of_its_group(q: qdistd.Client) -> None:
    view = q.options(queue="idle", retries=3)
    first, second = view.group([bind("square", 1), double.options(timeout=5).bind(2).options(retries=7)])
    shown = [q.show(handle) for handle in (first, second)]
    assert [(view.queue, view.retries, view.timeout) for view in shown] == [("idle", 3, 0.0), ("idle", 7, 5.0)]


def test_a_group_with_a_failure_says_so_at_once(q: qdistd.Client) -> None:
    group = q.group([bind("square", 1).options(queue="idle"), bind("fail")], then=bind("count"))
    with pytest.raises(qdistd.TaskFailed, match="ZeroDivisionError"):
        group.result(PATIENCE)
    assert (group.progress(), group.done(), group.wait(0.01)) == ((2, 1, 1), False, False)
    assert group.then is not None
    assert isinstance(group.then.exception(PATIENCE), qdistd.TaskCancelled)
    assert repr(group) == "<qdistd.Group 1 of 2 done, 1 without a result>"


def test_the_last_task_of_a_group_can_do_without_a_result(q: qdistd.Client) -> None:
    group = q.group([bind("math.sqrt", 4), bind("fail")], then=bind("echo").options(if_failed="run"))
    assert group.then is not None
    assert group.then.result(PATIENCE) == [([2.0, None],), {}]


def test_a_cancelled_group_is_cancelled_with_its_last_task(q: qdistd.Client) -> None:
    group = q.group([bind("square", n).options(queue="idle") for n in range(10)], then=bind("count"))
    assert group.cancel() == 11
    assert all(isinstance(handle.exception(PATIENCE), qdistd.TaskCancelled) for handle in group)
    assert group.then is not None
    assert isinstance(group.then.exception(PATIENCE), qdistd.TaskCancelled)
    assert group.cancel() == 0


def test_a_group_of_nothing_has_no_results(q: qdistd.Client) -> None:
    group = q.group([], then=bind("count", "own"))
    assert (group.result(), group.done(), len(group)) == ([], True, 0)
    assert group.then is not None
    assert group.then.result(PATIENCE) == [0, "own"]
    assert q.group([]).cancel() == 0


def test_a_group_that_is_too_large_is_refused_whole(q: qdistd.Client) -> None:
    with pytest.raises(qdistd.Refused, match="a batch has 1000 tasks at most"):
        q.group([bind("square", n) for n in range(1000)], then=bind("count"))
    assert q.queues() == []
    assert len(q.group([bind("math.sqrt", n) for n in range(999)], then=bind("count"))) == 999


def test_what_is_no_call_is_refused(q: qdistd.Client) -> None:
    with pytest.raises(qdistd.Refused, match=r"'square' is no call: write qdistd.bind\('square', …\)"):
        q.group(["square"])  # type: ignore[list-item] # that is the point
    with pytest.raises(qdistd.Refused, match="'count' is no call"):
        q.group([bind("square", 1)], then="count")  # type: ignore[arg-type] # that is the point
    with pytest.raises(qdistd.Refused, match="a chain of nothing"):
        q.chain()
    with pytest.raises(qdistd.Refused, match="key: 'x' stands for one task"):
        q.options(key="x").group([bind("square", 1)])
    with pytest.raises(qdistd.Refused, match="after: what a call of a group or a chain comes after"):
        q.chain(bind("square", 1), bind("count").options(after=[]))
    with pytest.raises(qdistd.Refused, match="there is no option 'retry'"):
        bind("square").options(retry=1)  # type: ignore[call-arg] # that is the point


# -- chains


def test_a_chain_passes_each_result_on(q: qdistd.Client) -> None:
    last = q.chain(bind("math.sqrt", 81), double.bind(), bind("math.pow", 2))
    assert last.result(PATIENCE) == 18.0**2
    (middle,) = last.parents
    (first,) = middle.parents
    assert (first.result(), middle.result(), first.parents) == (9.0, 18.0, ())


def test_a_chain_ends_where_one_fails(q: qdistd.Client) -> None:
    last = q.chain(bind("math.sqrt", -1), double.bind(), double.bind())
    assert isinstance(last.exception(PATIENCE), qdistd.TaskCancelled)
    going_on = q.chain(bind("math.sqrt", -1), bind("echo").options(if_failed="run"))
    assert going_on.result(PATIENCE) == [(None,), {}]


def test_chains_and_groups_of_one_batch_are_stored_with_it(q: qdistd.Client) -> None:
    with q.batch() as batch:
        group = batch.group([bind("math.sqrt", n * n) for n in range(3)], then=bind("total"))
        last = batch.chain(bind("math.sqrt", 16), double.bind())
        assert group.then is not None
        both = batch.options(after=[group.then, last], take="args").submit("math.pow")
        assert len(batch) == 7
    assert both.result(PATIENCE) == 3.0**8.0


# -- the same task again


def test_a_unique_task_is_the_one_that_waits(q: qdistd.Client) -> None:
    view = q.options(queue="idle", unique="queued")
    first, second, other = view.submit("square", 7), view.submit("square", 7), view.submit("square", 8)
    q.flush()
    assert (second.id, first.merged, second.merged, other.merged) == (first.id, False, True, False)
    assert first.cancel()
    for handle in (first, second):
        assert isinstance(handle.exception(PATIENCE), qdistd.TaskCancelled)


def test_a_coalesced_task_runs_with_the_latest_arguments(q: qdistd.Client) -> None:
    view = q.options(delay=0.3, unique="queued", unique_key="report", coalesce=True)
    first, second = view.submit("math.sqrt", 4), view.submit("math.sqrt", 9)
    assert (first.result(PATIENCE), second.result(PATIENCE), first.id) == (3.0, 3.0, second.id)


def test_a_task_comes_after_what_a_unique_one_has_become(q: qdistd.Client) -> None:
    view = q.options(delay=0.2, unique="running")
    first, second = view.submit("math.sqrt", 9), view.submit("math.sqrt", 9)
    assert q.options(after=[second], take="args").submit(double).result(PATIENCE) == 6.0
    with q.batch() as batch:
        again = batch.options(delay=0.2, unique="running", unique_key="x").submit("math.sqrt", 16)
        twin = batch.options(delay=0.2, unique="running", unique_key="x").submit("math.sqrt", 16)
        after = batch.options(after=[twin], take="args").submit(double)
    assert after.result(PATIENCE) == 8.0
    assert (again.id, first.id) == (twin.id, second.id)
