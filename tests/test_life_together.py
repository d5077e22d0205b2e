"""Batches, groups, chains and progress on real daemons, over kill -9 of the master and of workers at bad moments."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from conftest import NewCluster
from patience import until

import qdistd
from qdistd import State, bind
from qdistd.model import id_text

PATIENCE = 60.0

TASKS = {"tasks": ["qdistd.tasks", "math", "task_samples", "life_tasks"], "path": [str(Path(__file__).parent)]}


@pytest.fixture
def cluster(new_cluster: NewCluster) -> Cluster:
    return new_cluster(worker={"worker": TASKS})


@pytest.fixture
def q(cluster: Cluster) -> Iterator[qdistd.Client]:
    with cluster.client() as client:
        yield client


def everything(q: qdistd.Client) -> Counter[tuple[str, State]]:
    """How many tasks of each name stand where."""
    found: Counter[tuple[str, State]] = Counter()
    before = 0
    while True:
        page = q.list(before=before, limit=1000)
        found.update((task.name, task.state) for task in page.tasks)
        before = page.before
        if not before:
            return found


def test_a_group_and_what_comes_after_it_outlive_the_death_of_everybody(cluster: Cluster, q: qdistd.Client) -> None:
    group = q.group([bind("task_samples.nap", 0.02 + n / 1e6) for n in range(200)], then=bind("math.fsum"))
    for daemon, ended in ((cluster.workers[0], 20), (cluster.master, 60), (cluster.workers[1], 100)):
        until(lambda ended=ended: group.progress().done >= ended, f"{ended} results")
        daemon.kill()
        daemon.start()
    assert group.result(PATIENCE) == [0.02 + n / 1e6 for n in range(200)]
    assert group.then is not None
    assert round(group.then.result(PATIENCE), 6) == round(sum(0.02 + n / 1e6 for n in range(200)), 6)
    assert everything(q) == {("task_samples.nap", State.SUCCEEDED): 200, ("math.fsum", State.SUCCEEDED): 1}


def test_a_chain_goes_on_where_it_was_after_the_death_of_everybody(cluster: Cluster, q: qdistd.Client) -> None:
    chains = [q.chain(bind("math.sqrt", n * n), *(bind("task_samples.echo") for _ in range(9))) for n in range(30)]
    until(lambda: sum(chain.parents[0].done() for chain in chains) > 2, "chains on their way")
    cluster.master.kill()
    cluster.workers[0].kill()
    cluster.master.start()
    cluster.workers[0].start()
    assert [chain.result(PATIENCE) for chain in chains] == [float(n) for n in range(30)]


def test_the_death_of_the_master_leaves_every_batch_whole_or_out(cluster: Cluster) -> None:
    stored: list[int] = []
    unsure: list[int] = []
    over = threading.Event()

    def submit() -> None:
        number = 0
        while not over.is_set():
            number += 1
            with cluster.client(timeout=PATIENCE) as q, q.options(queue="idle").batch() as batch:
                unsure.append(number)
                batch.submit_many(f"batch {number}", [(n,) for n in range(300)])
            stored.append(number)

    thread = threading.Thread(target=submit)
    thread.start()
    for round in range(1, 4):
        until(lambda round=round: len(stored) >= 5 * round, "batches")
        cluster.master.kill()
        cluster.master.start()
    over.set()
    thread.join(PATIENCE)
    with cluster.client() as q:
        assert everything(q) == {(f"batch {number}", State.READY): 300 for number in stored}
    assert stored == unsure


def test_what_waits_for_others_waits_over_the_death_of_the_master(cluster: Cluster, q: qdistd.Client) -> None:
    first = q.options(queue="idle").submit("math.sqrt", 9)
    later = q.options(after=[first], take="args").submit("math.pow", 2)
    assert later.state() == State.BLOCKED
    cluster.master.kill()
    cluster.master.start()
    view = q.show(later)
    assert (view.state, view.blocked_by, [id_text(task) for task in view.after]) == (State.BLOCKED, 1, [first.id])
    cluster.add_worker("idle", worker={"queues": ["idle"]}).start()
    assert later.result(PATIENCE) == 9.0


def test_a_unique_task_stays_one_over_the_death_of_the_master(cluster: Cluster, q: qdistd.Client) -> None:
    view = q.options(queue="idle", unique="queued")
    first, second = view.submit("math.sqrt", 9), view.submit("math.sqrt", 9)
    q.flush()
    cluster.master.kill()
    cluster.master.start()
    third = view.submit("math.sqrt", 9)
    q.flush()
    assert (second.merged, third.merged, {first.id, second.id, third.id}) == (True, True, {first.id})
    cluster.add_worker("idle", worker={"queues": ["idle"]}).start()
    assert [task.result(PATIENCE) for task in (first, second, third)] == [3.0, 3.0, 3.0]


def test_a_task_tells_how_far_it_is_and_hands_out_what_it_has(q: qdistd.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    task = q.submit("life_tasks.hand_out", ["a", "b", "c"], str(gate))
    partials = task.partials()
    assert [next(partials) for _ in range(3)] == ["a", "b", "c"]
    assert task.progress() == qdistd.Progress(3, 3, "c")
    gate.write_bytes(b"")
    assert list(partials) == ["last"]
    assert (task.result(PATIENCE), task.progress()) == (3, qdistd.Progress(3, 3, "c"))


def test_an_attempt_after_the_death_of_a_worker_hands_out_its_own(
    cluster: Cluster, q: qdistd.Client, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    task = q.submit("life_tasks.hand_out", ["a", "b"], str(gate))
    partials = task.partials()
    assert [next(partials), next(partials)] == ["a", "b"]
    next(worker for worker in cluster.workers if f"{worker.name}@" in q.show(task).worker).kill()
    assert [next(partials), next(partials)] == ["a", "b"]
    assert q.show(task).attempt == 2
    gate.write_bytes(b"")
    assert list(partials) == ["last"]
