"""Transactions: many tasks or none, whatever happens between their first line and the acknowledgement."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from office import PATIENCE, Office
from patience import until

import qdistd
from qdistd.broker import Settings
from qdistd.protocol import LARGEST_BATCH


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with Office(tmp_path, broker=Settings(payload=1024)) as office:
        yield office


@pytest.fixture
def q(office: Office) -> Iterator[qdistd.Client]:
    with office.client() as client:
        yield client


def stored(q: qdistd.Client) -> int:
    """How many tasks the master has, wherever they stand."""
    return sum(number for queue in q.queues() for number in queue.counts.values())


def test_a_batch_is_stored_when_its_block_ends_and_not_before(q: qdistd.Client) -> None:
    with q.batch() as batch:
        tasks = [batch.submit("square", 7), *batch.options(priority=-3).submit_many("echo", [(1,), (2,)])]
        assert (len(batch), stored(q)) == (3, 0)
    assert stored(q) == 3
    assert [task.result(PATIENCE) for task in tasks] == ["7 * 7 = 49", [(1,), {}], [(2,), {}]]
    assert q.show(tasks[1]).priority == -3


def test_a_thousand_tasks_are_one_batch_and_one_more_is_refused(q: qdistd.Client) -> None:
    with q.batch() as batch:
        tasks = batch.options(queue="idle").submit_many("square", [(n,) for n in range(LARGEST_BATCH)])
        with pytest.raises(qdistd.Refused, match="a batch has 1000 tasks at most"):
            batch.submit("square", 1)
    assert (len(tasks), stored(q)) == (1000, 1000)


def test_an_exception_in_the_block_is_raised_and_nothing_is_submitted(q: qdistd.Client) -> None:
    with pytest.raises(KeyError), q.batch() as batch:
        task = batch.submit("square", 7)
        raise KeyError("mine")
    assert stored(q) == 0
    with pytest.raises(qdistd.Refused, match="never submitted"):
        task.result()
    with pytest.raises(qdistd.Refused, match="this batch is over"):
        batch.submit("square", 7)


def test_when_one_task_is_refused_none_is_stored_and_the_block_names_it(q: qdistd.Client) -> None:
    complaint = r"send its path.*\(task 2 of 3, 'echo'; none of them is stored\)"
    with pytest.raises(qdistd.TooLarge, match=complaint), q.batch() as batch:
        tasks = [batch.submit("square", 7), batch.submit("echo", bytes(2000)), batch.submit("square", 8)]
    assert stored(q) == 0
    for task in tasks:
        assert isinstance(task.exception(PATIENCE), qdistd.TooLarge)
    q.flush()


def test_nobody_waits_for_a_task_whose_batch_is_not_submitted(q: qdistd.Client) -> None:
    with q.batch() as batch:
        task = batch.submit("square", 7)
        for wait in (task.result, task.state, task.cancel, task.progress, lambda: next(task.partials())):
            with pytest.raises(qdistd.Refused, match="at the end of its block"):
                wait()
        with pytest.raises(qdistd.Refused, match="map waits for results"):
            batch.map("square", [1])
    assert task.result(PATIENCE) == "7 * 7 = 49"


def test_an_empty_batch_says_nothing(q: qdistd.Client) -> None:
    with q.batch() as batch:
        assert len(batch) == 0
    batch.flush()
    assert stored(q) == 0


def test_many_at_once_may_be_all_or_none(q: qdistd.Client) -> None:
    assert [task.result(PATIENCE) for task in q.submit_many("square", [(2,), (3,)], atomic=True)] == [
        "2 * 2 = 4",
        "3 * 3 = 9",
    ]
    with pytest.raises(qdistd.TooLarge, match="task 2 of 2"):
        q.submit_many("echo", [(1,), (bytes(2000),)], atomic=True)
    assert stored(q) == 2


def test_there_is_no_batch_within_a_batch(q: qdistd.Client) -> None:
    with q.batch() as batch:
        (task,) = batch.submit_many("square", [(7,)], atomic=True)
        assert len(batch) == 1
        with pytest.raises(qdistd.Refused, match="a batch is one transaction and has none within it"):
            batch.batch()
    assert task.result(PATIENCE) == "7 * 7 = 49"


def test_a_batch_without_a_master_says_so_and_is_stored_once_when_there_is_one(office: Office) -> None:
    office.stop()
    with office.client(timeout=0.2) as q:
        with pytest.raises(qdistd.Unavailable), q.batch() as batch:
            tasks = batch.submit_many("square", [(n,) for n in range(10)])
        office.start()
        until(lambda: is_stored(batch), "the acknowledgement of the batch")
        assert [task.result(PATIENCE) for task in tasks][3] == "3 * 3 = 9"
        assert stored(q) == 10


def is_stored(batch: qdistd.Batch) -> bool:
    try:
        batch.flush()
    except qdistd.Unavailable:
        return False
    return True


def test_a_batch_of_keys_that_is_repeated_is_the_same_tasks(q: qdistd.Client) -> None:
    def submit() -> list[str]:
        with q.batch() as batch:
            return [batch.options(key=f"row {n}", queue="idle").submit("square", n).id for n in range(5)]

    assert submit() == submit()
    assert stored(q) == 5
