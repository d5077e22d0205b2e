"""Faults in the middle of real work, with real processes: nothing submitted is lost, and every repeat has a cause.

Each test hits every kind of work: squares by the thousand, files whose lines are counted, mails that are sent.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from audit import causes_of_repeats, changes_of_state, spooled
from cluster import Cluster
from conftest import NewCluster
from daemons import DEADLINE, Daemon
from patience import until
from workloads import Files, Mails, Squares, Workload

import qdistd
from qdistd import Client, Handle

DOWN = 30.0
"""Seconds that the master is down in the one test that has the time for it."""

AS_LONG_AS_IT_TAKES = 90.0
"""Seconds that a client of ours waits for a master: longer than any of these is down."""

AHEAD = 1000
"""Tasks that a loop submits before it waits for the first of them."""

each_kind_of_work = pytest.mark.parametrize("make_work", [Squares, Files, Mails])

MakeWork = Callable[[Path], Workload]


@pytest.fixture
def q(cluster: Cluster) -> Iterator[Client]:
    """A client of `cluster` that has patience with its master."""
    with cluster.client("admin", timeout=AS_LONG_AS_IT_TAKES) as client:
        yield client


# -- kill -9 of each process in turn


@each_kind_of_work
def test_a_worker_that_is_killed_in_the_middle_of_its_work_costs_no_task(
    make_work: MakeWork, cluster: Cluster, q: Client, tmp_path: Path
) -> None:
    work = make_work(tmp_path)
    work.begin(q)
    work.reach_middle()
    worker = worker_of(work.held, cluster, q)
    children = worker.children()
    worker.kill()
    bury(children)
    worker.start()
    work.let_go()
    work.finish()
    causes = causes_of_repeats(q, work.tasks)
    assert causes.keys() <= {"lost"}
    assert work.held is None or work.held.attempt == 2


@each_kind_of_work
def test_a_child_that_is_killed_in_the_middle_of_its_work_costs_no_task(
    make_work: MakeWork, cluster: Cluster, q: Client, tmp_path: Path
) -> None:
    work = make_work(tmp_path)
    work.begin(q)
    work.reach_middle()
    children = worker_of(work.held, cluster, q).children()
    for child in children:
        os.kill(child, signal.SIGKILL)
    bury(children)
    work.let_go()
    work.finish()
    causes = causes_of_repeats(q, work.tasks)
    assert causes.keys() <= {"crashed", "released"}
    assert work.held is None or work.held.attempt == 2


@each_kind_of_work
def test_a_master_that_is_killed_in_the_middle_of_the_work_interrupts_none_of_it(
    make_work: MakeWork, cluster: Cluster, q: Client, tmp_path: Path
) -> None:
    work = make_work(tmp_path)
    work.begin(q)
    work.reach_middle()
    cluster.master.kill()
    cluster.master.start()
    work.let_go()
    work.finish()
    causes = causes_of_repeats(q, work.tasks)
    assert causes.keys() <= {"released"}, "what was granted and never arrived"
    assert work.held is None or work.held.attempt == 1


# -- a master that is away


def test_a_master_that_is_down_for_thirty_seconds_finds_all_work_done_when_it_is_back(
    new_cluster: NewCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = new_cluster(worker={"worker": {"processes": 2}})
    works: list[Workload] = [Squares(tmp_path), Files(tmp_path), Mails(tmp_path)]
    with cluster.client("admin", timeout=AS_LONG_AS_IT_TAKES) as q:
        for work in works:
            work.begin(q)
        for work in works:
            work.reach_middle()
        cluster.master.kill()
        down = time.monotonic()
        for work in works:
            work.let_go()
        held = {(work.held.id, 1) for work in works if work.held}
        until(lambda: held <= on_disk(cluster), "the results are on the disks of the workers")
        kept = len(on_disk(cluster))
        time.sleep(max(0.0, down + DOWN - time.monotonic()))  # this is the fault itself
        cluster.master.start()
        for work in works:
            work.finish()
        assert [work.held.attempt for work in works if work.held] == [1, 1]
        causes = causes_of_repeats(q, sum(work.tasks for work in works))
    assert causes.keys() <= {"released"}
    until(partial(all_connected, cluster, 2), "all workers are connected again")
    for worker in cluster.workers:
        assert changes_of_state(worker) == ["connected", "lost", "connected"]
    until(lambda: not on_disk(cluster), "the disks of the workers are clear again")
    with capsys.disabled():
        tasks = ", ".join(f"{work.tasks} {type(work).__name__.lower()}" for work in works)
        print(f"\nmaster down for {DOWN:g} s: {tasks}; {kept} results waited on disk, {causes.total()} repeats")


def test_a_result_that_waits_for_the_master_outlives_its_worker(new_cluster: NewCluster, tmp_path: Path) -> None:
    cluster = new_cluster(workers=1)
    (worker,) = cluster.workers
    with cluster.client("admin", timeout=AS_LONG_AS_IT_TAKES) as q:
        work = Files(tmp_path)
        work.begin(q)
        work.reach_middle()
        cluster.master.kill()
        work.let_go()
        assert work.held
        until(lambda: (work.held.id, 1) in spooled(cluster, worker), "the result is on the disk of the worker")
        worker.kill()
        worker.start()
        cluster.master.start()
        work.finish()
        assert work.held.attempt == 1
        assert causes_of_repeats(q, work.tasks).keys() <= {"lost"}


def test_a_client_that_submits_in_a_loop_gets_each_result_once_over_three_kills_of_the_master(
    cluster: Cluster, q: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    over = threading.Event()
    handles: list[Handle[str]] = []

    def submit() -> None:
        while not over.is_set():
            handles.append(q.submit("square", len(handles)))
            if len(handles) > AHEAD:
                handles[-AHEAD].wait(AS_LONG_AS_IT_TAKES)

    with ThreadPoolExecutor(1) as executor:
        loop = executor.submit(submit)
        for kills in range(3):
            until(partial(all_connected, cluster, kills + 1), "all workers are connected")
            until(partial(more_than, handles, len(handles) + 2 * AHEAD), "the loop is in full swing")
            cluster.master.kill()
            cluster.master.start()
        until(partial(all_connected, cluster, 4), "all workers are connected")
        over.set()
        loop.result(AS_LONG_AS_IT_TAKES)
    ended = [handle.id for handle in qdistd.as_completed(handles, AS_LONG_AS_IT_TAKES)]
    assert sorted(ended) == sorted(handle.id for handle in handles)
    assert [handle.result() for handle in handles] == [f"{n} * {n} = {n * n}" for n in range(len(handles))]
    causes = causes_of_repeats(q, len(handles))
    assert causes.keys() <= {"released"}
    for worker in cluster.workers:
        assert changes_of_state(worker) == ["connected", *["lost", "connected"] * 3]
    with capsys.disabled():
        print(f"\nmaster killed 3 times under a loop of {len(handles)} submits: {causes.total()} tasks granted again")


# -- helpers


def worker_of(task: Handle[object] | None, cluster: Cluster, q: Client) -> Daemon:
    """The worker that runs this task; any, where it is not said which task."""
    name = "" if task is None else q.show(task).worker.partition("@")[0]
    return next(worker for worker in cluster.workers if worker.name == name or task is None)


def all_connected(cluster: Cluster, times: int) -> bool:
    """Whether all workers have connected so often."""
    return all(changes_of_state(worker).count("connected") == times for worker in cluster.workers)


def more_than(handles: list[Handle[str]], number: int) -> bool:
    return len(handles) > number


def bury(processes: list[int]) -> None:
    """Return when all of them are gone."""
    for pid in processes:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([pidfd], [], [], DEADLINE)[0], f"process {pid} lives on"
        os.close(pidfd)


def on_disk(cluster: Cluster) -> set[tuple[str, int]]:
    """The results that wait on the disks of all workers."""
    return {result for worker in cluster.workers for result in spooled(cluster, worker)}
