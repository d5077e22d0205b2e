"""The client as a program uses it: real threads, a real master, results and every way to get none."""

import contextlib
import gc
import itertools
import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from office import PATIENCE, Office

import qdistd
from qdistd import State
from qdistd.broker import Settings
from qdistd.client.background import MOST_BYTES, MOST_UNACKNOWLEDGED
from qdistd.protocol import LARGEST_BATCH

NOWHERE = "127.0.0.1:1"
"""Nobody listens on port 1."""

KEY = b"s" * 32


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with Office(tmp_path) as office:
        yield office


@pytest.fixture
def q(office: Office) -> Iterator[qdistd.Client]:
    with office.client() as client:
        yield client


@pytest.fixture
def nowhere() -> Iterator[qdistd.Client]:
    """A client whose master never answers, and who does not wait long for it."""
    client = qdistd.Client(NOWHERE, KEY, timeout=0.2)
    yield client
    with contextlib.suppress(qdistd.Unavailable):
        client.close()


# -- one task


def test_a_submitted_task_gives_its_result(q: qdistd.Client) -> None:
    task = q.submit("square", 7)
    assert task.result(timeout=PATIENCE) == "7 * 7 = 49"
    assert (task.done(), task.attempt, task.state(), task.exception()) == (True, 1, State.SUCCEEDED, None)
    assert repr(task) == f"<qdistd.Handle {task.id} succeeded>"
    assert q.result(task.id) == "7 * 7 = 49"


def test_arguments_and_results_are_plain_data_of_any_shape(q: qdistd.Client) -> None:
    value = [1, 2.5, "ä", b"\x00", None, True, (1, {2}), {"k": [3]}, 1j, 10**30, frozenset({4})]
    assert q.submit("echo", value, queue=1, timeout="x").result() == [(value,), {"queue": 1, "timeout": "x"}]


def test_every_reading_of_a_result_gives_a_fresh_one(q: qdistd.Client) -> None:
    task = q.submit("echo", [])
    task.result()[0][0].append("changed")
    assert task.result() == [([],), {}]


def test_a_function_goes_by_its_name(q: qdistd.Client) -> None:
    assert q.submit(math.factorial, 20).result() == math.factorial(20)


def test_what_is_not_plain_data_is_refused_at_once(q: qdistd.Client) -> None:
    with pytest.raises(qdistd.Refused, match=r"pathlib.PosixPath is not plain data: send str\(path\)"):
        q.submit("square", Path("/tmp"))
    with pytest.raises(qdistd.Refused, match="lambda"):
        q.submit(lambda: 1)
    for name in ("", "x" * 201, "line\nfeed", "\udc80"):
        with pytest.raises(qdistd.Refused, match="no name of a task"):
            q.submit(name)


def test_a_failed_task_raises_with_the_traceback_of_the_child(q: qdistd.Client) -> None:
    task = q.submit("fail")
    with pytest.raises(qdistd.TaskFailed) as caught:
        task.result()
    assert str(caught.value) == f"ZeroDivisionError: integer division or modulo by zero (task {task.id})"
    assert "1 // 0" in str(caught.value.__cause__)
    assert caught.value.failure.type == "ZeroDivisionError"  # type: ignore[attr-defined] # any object, says errors
    assert isinstance(task.exception(), qdistd.TaskFailed)
    assert task.state() == State.FAILED


def test_a_task_that_kills_its_process_is_quarantined(q: qdistd.Client) -> None:
    with pytest.raises(qdistd.TaskQuarantined, match="signal: killed by signal 9"):
        q.submit("kill").result()


def test_a_waiting_task_can_be_cancelled(q: qdistd.Client) -> None:
    task = q.options(queue="idle").submit("square", 7)
    assert task.state() == State.READY
    assert task.cancel()
    with pytest.raises(qdistd.TaskCancelled):
        task.result(PATIENCE)
    assert task.cancel()
    assert not done(q.submit("square", 7)).cancel()


def done(task: qdistd.Handle[object]) -> qdistd.Handle[object]:
    task.wait(PATIENCE)
    return task


def test_a_result_that_does_not_come_in_time_is_a_timeout_and_comes_later(q: qdistd.Client) -> None:
    task = q.options(delay=0.3).submit("square", 7)
    with pytest.raises(TimeoutError, match=f"the result of {task.id} has not come in time"):
        task.result(timeout=0.01)
    assert task.state() == State.SCHEDULED
    assert task.result(timeout=PATIENCE) == "7 * 7 = 49"


# -- options


def test_options_reach_the_master(q: qdistd.Client) -> None:
    view = q.options(queue="mail", priority=-5, retries=3).options(timeout=30, backoff=2)
    task = view.submit("square", 7)
    q.flush()
    shown = q.show(task)
    assert (shown.name, shown.queue, shown.priority, shown.retries, shown.timeout) == ("square", "mail", -5, 3, 30.0)


def test_a_task_can_be_put_off(q: qdistd.Client) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for view in (q.options(delay=86400), q.options(run_at=tomorrow), q.options(run_at=tomorrow.timestamp())):
        assert view.submit("square", 7).state() == State.SCHEDULED


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"prio": 1}, "there is no option 'prio'; did you mean 'priority'"),
        ({"priority": 5000}, "priority: 5000 will not do; expected int <= 1000"),
        ({"timeout": "x"}, "timeout: 'x' will not do; expected float, got str"),
        ({"delay": -1}, "delay: -1 will not do; expected float >= 0"),
        ({"run_at": datetime(2030, 1, 1)}, "run_at: 2030-01-01 00:00:00 has no time zone"),
        ({"run_at": 4e12}, "run_at: 4000000000000.0 will not do"),
        ({"queue": "a\nb"}, "queue 'a\\nb' has characters that cannot be printed"),
    ],
)
def test_a_wrong_option_is_refused_by_name(choices: dict[str, object], complaint: str) -> None:
    client = qdistd.Client(NOWHERE, KEY)
    with pytest.raises(qdistd.Refused) as caught:
        client.options(**choices)
    assert complaint in str(caught.value)
    client.close()


def test_one_key_is_one_task(q: qdistd.Client) -> None:
    mail = q.options(key="mail 4711")
    first, second = mail.submit("echo", 1), mail.submit("echo", 2)
    assert first.id == second.id
    assert first.result() == second.result() == [(1,), {}]
    assert mail.submit("echo", 3).result() == [(1,), {}]
    with pytest.raises(qdistd.Refused, match="stands for one task"):
        mail.submit_many("echo", [(1,), (2,)])


def test_an_unwatched_task_gives_its_result_to_who_asks(q: qdistd.Client) -> None:
    task = q.options(watch=False).submit("square", 7)
    assert task.result(PATIENCE) == "7 * 7 = 49"


# -- many tasks


def test_map_gives_results_in_order_and_takes_endless_input(q: qdistd.Client) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    results = list(itertools.islice(q.map("square", numbers(), window=10), 500))
    assert results == [f"{n} * {n} = {n * n}" for n in range(500)]
    assert len(taken) <= 500 + 10


def test_map_raises_the_first_error_in_its_place(q: qdistd.Client) -> None:
    results = q.starmap("math.sqrt", [(4,), (9,), (-1,), (16,)])
    assert [next(results), next(results)] == [2.0, 3.0]
    with pytest.raises(qdistd.TaskFailed, match="ValueError"):
        next(results)
    assert list(results) == []


def test_map_refuses_what_it_cannot_do(q: qdistd.Client) -> None:
    with pytest.raises(qdistd.Refused, match="expected 1 or more"):
        q.map("square", [1], window=0)
    with pytest.raises(qdistd.Refused, match=r"expected a tuple of arguments for each task, not 7: write \(7,\)"):
        q.submit_many("square", [7])  # type: ignore[list-item] # that is the point


def test_submit_many_gives_a_handle_for_each(q: qdistd.Client) -> None:
    tasks = q.submit_many("echo", ((n, n + 1) for n in range(3000)))
    assert [task.result() for task in tasks] == [[(n, n + 1), {}] for n in range(3000)]
    assert len({task.id for task in tasks}) == 3000


def test_as_completed_gives_each_when_it_has_ended(q: qdistd.Client) -> None:
    slow = q.options(delay=0.2).submit("square", 1)
    quick = [q.submit("square", n) for n in range(20)]
    never = q.options(queue="idle").submit("square", 2)
    completed = qdistd.as_completed([slow, *quick, never, slow], timeout=1.0)
    assert set(itertools.islice(completed, 20)) == set(quick)
    assert next(completed) is slow
    with pytest.raises(TimeoutError):
        next(completed)
    assert list(qdistd.as_completed([])) == []


def test_wait_tells_the_ended_from_the_others(q: qdistd.Client) -> None:
    task, never = q.submit("fail"), q.options(queue="idle").submit("square", 2)
    done(task)
    assert qdistd.wait([task, never], timeout=0.01) == ({task}, {never})
    assert qdistd.wait([task]) == ({task}, set())


def test_waiting_in_many_short_turns_leaves_nothing_behind(q: qdistd.Client) -> None:
    task = q.options(queue="idle").submit("square", 7)
    q.flush()
    for _ in range(10):
        assert qdistd.wait([task], timeout=0.0).not_done == {task}
    gc.collect()
    assert not [watcher for watcher in gc.get_referents(task) if isinstance(watcher, list)]


def test_many_threads_share_one_client(q: qdistd.Client) -> None:
    results: list[list[str]] = []

    def work() -> None:
        results.append([task.result() for task in [q.submit("square", n) for n in range(200)]])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == [[f"{n} * {n} = {n * n}" for n in range(200)]] * 8


# -- stored, refused, closed


def test_flush_returns_when_everything_is_stored(q: qdistd.Client, office: Office) -> None:
    tasks = [q.options(queue="idle").submit("square", n) for n in range(2000)]
    q.flush(PATIENCE)
    with office.client() as other:
        assert {queue.name: queue.counts for queue in other.queues()}["idle"] == {"ready": 2000}
        assert other.show(tasks[-1].id).state == State.READY


def test_the_end_of_the_block_stores_everything(office: Office) -> None:
    with office.client() as q:
        tasks = [q.submit("square", n) for n in range(500)]
    with pytest.raises(qdistd.Refused, match="closed"):
        q.submit("square", 1)
    q.close()
    with office.client() as other:
        assert [other.result(task.id, PATIENCE) for task in tasks] == [f"{n} * {n} = {n * n}" for n in range(500)]


def test_a_closed_client_keeps_the_results_it_has(office: Office) -> None:
    with office.client() as q:
        task, never = done(q.submit("square", 7)), q.options(queue="idle").submit("square", 7)
    assert task.result() == "7 * 7 = 49"
    with pytest.raises(qdistd.Refused, match="closed"):
        never.result()


def test_a_task_the_master_refuses_raises_on_its_handle_and_at_flush(tmp_path: Path) -> None:
    with Office(tmp_path, broker=Settings(payload=1024)) as office, office.client() as q:
        with pytest.raises(qdistd.TooLarge, match="send its path"):
            q.submit("echo", bytes(2000)).result()
        q.flush()
        q.submit("echo", bytes(2000))
        with pytest.raises(qdistd.TooLarge, match="send its path"):
            q.flush()


def test_a_huge_payload_is_refused_before_it_is_sent(q: qdistd.Client) -> None:
    with pytest.raises(
        qdistd.TooLarge, match=r"have 10,000,0.. bytes, this master takes 65,536: put the data in a file"
    ):
        q.submit("echo", bytes(10_000_000))


def test_the_first_error_of_a_block_is_the_one_that_is_raised(nowhere: qdistd.Client) -> None:
    with pytest.raises(KeyError) as caught, nowhere:
        nowhere.submit("square", 7)
        raise KeyError("mine")
    assert "not all stored: no master answers" in caught.value.__notes__[0]


# -- no master


def test_without_a_master_everything_that_waits_ends_as_unavailable(nowhere: qdistd.Client) -> None:
    task = nowhere.submit("square", 7)
    for wait in (task.result, task.state, task.cancel, nowhere.flush, nowhere.status, lambda: task.result(0.05)):
        with pytest.raises(qdistd.Unavailable, match=r"no master answers: 127.0.0.1:1 \(Connect"):
            wait()
    with pytest.raises(qdistd.Unavailable):
        next(qdistd.as_completed([task]))


def test_submit_blocks_while_too_much_is_under_way(nowhere: qdistd.Client) -> None:
    submitted = 0
    with pytest.raises(qdistd.Unavailable):
        for submitted in range(2 * MOST_UNACKNOWLEDGED):
            nowhere.submit("square", submitted)
    assert MOST_UNACKNOWLEDGED <= submitted <= MOST_UNACKNOWLEDGED + LARGEST_BATCH


def test_large_payloads_that_nobody_takes_block_before_they_fill_the_memory(tmp_path: Path) -> None:
    size = 4 * 1024 * 1024
    with Office(tmp_path, broker=Settings(payload=2 * size)) as office:
        q = office.client(timeout=0.2)
        q.submit("square", 7).result(PATIENCE)
        office.stop()
        submitted = 0
        with pytest.raises(qdistd.Unavailable):
            while submitted < 3 * MOST_BYTES:
                q.submit("echo", bytes(size))
                submitted += size
        assert submitted < 2 * MOST_BYTES
        with pytest.raises(qdistd.Unavailable):
            q.close()


def test_a_blocked_submit_goes_on_when_the_master_is_there(office: Office) -> None:
    office.stop()
    with office.client() as q:
        view = q.options(queue="idle", watch=False)
        starting = threading.Timer(0.3, office.start)
        starting.start()
        for n in range(MOST_UNACKNOWLEDGED + 100):
            view.submit("square", n)
        starting.join(PATIENCE)
        q.flush(PATIENCE)
        assert q.queues()[0].counts == {"ready": MOST_UNACKNOWLEDGED + 100}


def test_a_client_outlives_the_restart_of_its_master(q: qdistd.Client, office: Office) -> None:
    before = q.options(delay=0.2).submit("square", 3)
    q.flush()
    office.stop()
    meanwhile = q.submit("square", 4)
    office.start()
    assert [before.result(PATIENCE), meanwhile.result(PATIENCE)] == ["3 * 3 = 9", "4 * 4 = 16"]


def test_a_wrong_key_is_told_to_everybody(office: Office) -> None:
    q = qdistd.Client(str(office.address), b"x" * 32)
    with pytest.raises(qdistd.WrongKey):
        q.submit("square", 7).result(PATIENCE)
    with pytest.raises(qdistd.WrongKey):
        q.submit("square", 7)
    assert q.closed
    q.close()
