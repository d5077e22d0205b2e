"""A master with a full queue: who is in a hurry is told when to come back, who is patient is served in the end."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from office import PATIENCE, Office
from patience import until

import qdistd
from qdistd import bind
from qdistd.broker import QueueLimits, Settings

ROOM = 300
"""Tasks that may wait in the queue that is worked on."""


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    limits = {"idle": QueueLimits(limit=3), "default": QueueLimits(limit=ROOM)}
    with Office(tmp_path, broker=Settings(queues=limits)) as office:
        yield office


@pytest.fixture
def q(office: Office) -> Iterator[qdistd.Client]:
    with office.client() as client:
        yield client


def waiting(q: qdistd.Client) -> int:
    """How many tasks wait in the queue where nobody works."""
    return {queue.name: queue.counts for queue in q.queues()}.get("idle", {}).get("ready", 0)


def test_a_full_queue_refuses_with_a_hint_when_to_come_back(q: qdistd.Client) -> None:
    tasks = [q.options(queue="idle").submit("square", n) for n in range(5)]
    with pytest.raises(qdistd.Overloaded, match=r"the queue idle is full.*\(and 1 more tasks") as caught:
        q.flush()
    assert caught.value.after >= 1
    refused = [task for task in tasks if task.done()]
    assert [(type(task.exception()), task.exception().after) for task in refused] == [  # type: ignore[union-attr]
        (qdistd.Overloaded, caught.value.after)
    ] * 2
    assert waiting(q) == 3


def test_a_patient_client_is_served_when_there_is_room(office: Office, q: qdistd.Client) -> None:
    with office.client(patient=True) as patient:
        tasks = [patient.options(queue="idle").submit("square", n) for n in range(6)]
        until(lambda: waiting(q) == 3, "a full queue")
        with patient.batch() as batch:
            other = batch.submit("square", 7)  # which need not wait for those
        assert other.result(PATIENCE) == "7 * 7 = 49"
        cancelled = [task for task in tasks if task.task is None and task.cancel()]
        patient.flush(PATIENCE)
        assert (len(cancelled), waiting(q)) == (3, 3)
        assert {task.state() for task in tasks} == {qdistd.State.CANCELLED, qdistd.State.READY}


def test_what_comes_after_a_task_that_has_to_wait_for_room_waits_with_it(office: Office, q: qdistd.Client) -> None:
    with office.client(patient=True) as patient:
        here = patient.options(queue="idle").submit_many("square", [(n,) for n in range(3)])
        until(lambda: waiting(q) == 3, "a full queue")
        late = patient.options(queue="idle").submit("square", 4)
        dependents = [patient.options(after=[late]).submit("square", 5)]  # on the way with it
        until(lambda: patient._background.session.outbox.postponed, "that it has to wait")  # type: ignore[union-attr]
        dependents += [patient.options(after=[late]).submit("square", 6)]
        here[0].cancel()
        patient.flush(PATIENCE)
        assert {task.state() for task in dependents} == {qdistd.State.BLOCKED}


def test_a_patient_client_gives_up_after_its_timeout(office: Office) -> None:
    with office.client(patient=True, timeout=1.5) as q:
        q.options(queue="idle").submit_many("square", [(n,) for n in range(3)])
        late = q.options(queue="idle").submit("square", 4)
        with pytest.raises(qdistd.Overloaded):
            late.result(PATIENCE)


def test_map_takes_the_time_that_a_full_queue_takes(q: qdistd.Client) -> None:
    assert list(q.map("math.sqrt", [n * n for n in range(2 * ROOM)])) == [float(n) for n in range(2 * ROOM)]


def test_an_executor_does_so_too_unless_it_is_told_not_to(q: qdistd.Client) -> None:
    with qdistd.Executor(q) as executor:
        assert list(executor.map(math.sqrt, range(2 * ROOM))) == [math.sqrt(n) for n in range(2 * ROOM)]
    hasty = qdistd.Executor(q, queue="idle", patient=False)
    futures = [hasty.submit(math.sqrt, n) for n in range(4)]
    assert isinstance(futures[-1].exception(PATIENCE), qdistd.Overloaded)


def test_a_batch_that_does_not_fit_is_refused_whole_or_waits_whole(office: Office, q: qdistd.Client) -> None:
    (first,) = q.options(queue="idle").submit_many("square", [(1,)])
    with pytest.raises(qdistd.Overloaded, match=r"task 3 of 3, 'square'; none of them is stored"):
        q.options(queue="idle").group([bind("square", n) for n in range(3)])
    assert waiting(q) == 1
    making_room = threading.Timer(0.3, first.cancel)
    making_room.start()
    group = q.options(queue="idle", patient=True).group([bind("square", n) for n in range(3)])
    making_room.join()
    assert (len(group), waiting(q)) == (3, 3)
