"""Only the network fails, both processes live on: a task is not run twice unless its lease runs out, and then once.

client ── master ══ Proxy ══ w1        the task runs on w1, and the wire between them fails
               └──────────── w2        idle, and glad to take it
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from audit import causes_of_repeats, changes_of_state, spooled
from cluster import Cluster, Tables
from conftest import CLUSTERS, NewCluster
from daemons import Daemon
from gate import Gate
from island import Island
from patience import until
from proxy import Proxy

from qdistd import Client, Handle

PATIENCE = 60.0
"""Seconds that a result may take."""

LONG_LEASE = {"limits": {"lease": "1m", "heartbeat": "1s"}}
"""A lease that no fault of these tests outlives."""

SHORT_LEASE = {"limits": {"lease": "2s", "heartbeat": "500 ms"}}
"""One that runs out while the test waits for it."""


class Scene(NamedTuple):
    """A task that runs on `cut_off`, which reaches its master through `wire`."""

    cluster: Cluster
    q: Client
    wire: Proxy
    cut_off: Daemon
    task: Handle[int]
    gate: Gate

    def keeps_result_of(self, task: Handle[int]) -> bool:
        """Whether the disk of the cut-off worker has the result of the first attempt."""
        return (task.id, 1) in spooled(self.cluster, self.cut_off)


MakeScene = Callable[..., Scene]


@pytest.fixture
def make_scene(new_cluster: NewCluster, tmp_path: Path) -> Iterator[MakeScene]:
    """Makes the scene; the argument: tables for the configuration of its master."""
    with contextlib.ExitStack() as end:

        def make(master: Tables) -> Scene:
            cluster = new_cluster(workers=0, master=master)
            wire = end.enter_context(Proxy(cluster.address))
            cut_off = cluster.add_worker("w1", worker={"masters": [wire.address]}).start()
            q = end.enter_context(cluster.client("admin"))
            gate = Gate(tmp_path / "gate")
            task = q.submit("count_lines", gate.path)
            gate.reached()
            cluster.add_worker("w2").start()
            until(lambda: len(q.workers()) == 2, "the other worker is there")
            return Scene(cluster, q, wire, cut_off, task, gate)

        yield make


# -- shorter than the lease


def test_a_task_whose_worker_is_not_heard_for_a_while_runs_once(make_scene: MakeScene) -> None:
    scene = make_scene(LONG_LEASE)
    scene.wire.silence()
    until(lambda: silence_of("w1", scene.q) > 3.0, "the master misses some heartbeats")
    scene.gate.let_go(lines=3)
    until(lambda: scene.keeps_result_of(scene.task), "the result is on the disk of the worker")
    scene.wire.speak()
    assert scene.task.result(PATIENCE) == 3
    assert causes_of_repeats(scene.q, tasks=1) == {}
    assert changes_of_state(scene.cut_off) == ["connected"]


def test_a_task_whose_worker_is_reset_runs_once(make_scene: MakeScene) -> None:
    scene = make_scene(LONG_LEASE)
    scene.wire.reset()
    until(lambda: changes_of_state(scene.cut_off).count("connected") == 2, "the worker is back")
    scene.gate.let_go(lines=3)
    assert scene.task.result(PATIENCE) == 3
    assert causes_of_repeats(scene.q, tasks=1) == {}
    assert changes_of_state(scene.cut_off) == ["connected", "lost", "connected"]


def test_a_task_whose_worker_is_refused_for_a_while_runs_once(make_scene: MakeScene) -> None:
    scene = make_scene(LONG_LEASE)
    scene.wire.refuse()
    scene.gate.let_go(lines=3)
    until(lambda: scene.keeps_result_of(scene.task), "the result is on the disk of the worker")
    until(lambda: "lost" in changes_of_state(scene.cut_off), "the worker knows that it is alone")
    scene.wire.accept()
    assert scene.task.result(PATIENCE) == 3
    assert causes_of_repeats(scene.q, tasks=1) == {}
    assert changes_of_state(scene.cut_off) == ["connected", "lost", "connected"]


# -- longer than the lease


def test_a_task_is_given_to_another_when_its_lease_runs_out_and_the_late_result_is_refused(
    make_scene: MakeScene,
) -> None:
    scene = make_scene(SHORT_LEASE)
    scene.wire.silence()
    expect_another_run(scene, scene.task, scene.gate)
    lost, succeeded = scene.q.show(scene.task).attempts
    assert (lost.outcome, lost.worker.partition("@")[0]) == ("lost", "w1")
    assert lost.failure and "its lease ran out" in lost.failure.message
    assert (succeeded.outcome, succeeded.worker.partition("@")[0]) == ("succeeded", "w2")
    scene.wire.speak()
    refused = f"task {scene.task.id}: the master does not want the end of attempt 1 (succeeded)"
    until(lambda: refused in scene.cut_off.log, "the late result is refused")
    assert scene.q.result(scene.task.id) == 2
    until(lambda: not scene.keeps_result_of(scene.task), "the late result is dropped")


def test_a_worker_that_is_heard_again_on_the_same_connection_gets_tasks_and_can_lose_them_again(
    make_scene: MakeScene, tmp_path: Path
) -> None:
    scene = make_scene(SHORT_LEASE)
    other = scene.cluster.workers[1]
    scene.wire.silence()
    expect_another_run(scene, scene.task, scene.gate)
    other.stop()
    scene.wire.speak()
    gate = Gate(tmp_path / "second gate")
    task = scene.q.submit("count_lines", gate.path)
    gate.reached()
    assert scene.q.show(task).worker.partition("@")[0] == "w1"
    scene.wire.silence()
    other.start()
    expect_another_run(scene, task, gate)
    assert causes_of_repeats(scene.q, tasks=2) == {"lost": 2}


def expect_another_run(scene: Scene, task: Handle[int], gate: Gate) -> None:
    """The run that is cut off finds one line in the end, and the one elsewhere that follows it finds two."""
    gate.let_go(lines=1)
    until(lambda: scene.keeps_result_of(task), "the first result is on the disk of its worker")
    gate.reached()
    gate.let_go(lines=2)
    assert (task.result(PATIENCE), task.attempt) == (2, 2)


def silence_of(name: str, q: Client) -> float:
    """Seconds since the master has heard of a worker."""
    status = q.status()
    return min(status.now - worker.seen for worker in status.workers if worker.name.startswith(f"{name}@"))


# -- a real network, in which the kernel of both sides finds out


def test_a_task_whose_packets_vanish_until_both_sides_give_the_connection_up_runs_once(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir(mode=0o700)
    cluster = Cluster(folder, workers=0, master=LONG_LEASE)
    request.node.stash[CLUSTERS] = [cluster]
    with Island() as island, contextlib.closing(cluster):
        far, cluster.address = cluster.address, f"unix:{folder}/s"
        cluster.configure_master(master={"listen": [far, cluster.address]})
        cluster.master.command = island.command(cluster.master.command)
        cluster.master.spawn()
        worker = cluster.add_worker("w1", worker={"masters": [far]})
        worker.command = island.command(worker.command)
        worker.spawn()
        with cluster.client("admin") as q:
            gate = Gate(tmp_path / "gate")
            task = q.submit("count_lines", gate.path)
            gate.reached()
            cluster.add_worker("w2").start()
            island.cut(port=int(far.rpartition(":")[2]))
            until(lambda: "lost" in changes_of_state(worker), "the worker gives the connection up")
            until(lambda: "its lease still runs" in cluster.master.log, "the master gives the connection up")
            gate.let_go(lines=3)
            until(lambda: (task.id, 1) in spooled(cluster, worker), "the result is on the disk of the worker")
            island.heal()
            assert task.result(PATIENCE) == 3
            assert causes_of_repeats(q, tasks=1) == {}
        assert changes_of_state(worker) == ["connected", "lost", "connected"]
