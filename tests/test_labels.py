"""Labels of real workers: a task that requires some waits for a worker that has them all, whatever is killed."""

from pathlib import Path

from cluster import Cluster
from conftest import NewCluster
from gate import Gate
from patience import until
from shell import Shell

from qdistd import Client, Handle, State

PATIENCE = 30.0


def relabel(cluster: Cluster, *labels: str) -> None:
    """Give the worker these labels, and no others, by a reload."""
    cluster.configure_worker("w1", worker={"labels": list(labels)})
    assert "reload refused" not in cluster.workers[0].reload()


def waiting(q: Client, *requires: str) -> Handle[str]:
    """A task that nobody can take; returns when the master says so."""
    task: Handle[str] = q.options(requires=requires).submit("square", 7)
    q.flush()
    until(lambda: list(requires) in [stuck.requires for stuck in q.status().stuck], "the word of it")
    return task


def test_a_label_that_a_reload_brings_lets_what_waits_for_it_run_and_one_that_it_takes_away_does_not(
    new_cluster: NewCluster,
) -> None:
    cluster = new_cluster(workers=1)
    with cluster.client() as q:
        task = waiting(q, "gpu", "site=berlin")
        relabel(cluster, "gpu")
        assert q.options(requires=["gpu"]).submit("square", 8).result(PATIENCE) == "8 * 8 = 64"
        assert task.state() is State.READY
        relabel(cluster, "site=berlin", "gpu", "more")
        assert task.result(PATIENCE) == "7 * 7 = 49"
        relabel(cluster, "site=berlin")
        assert waiting(q, "gpu").state() is State.READY


def test_labels_outlive_whatever_is_killed(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=1)
    with cluster.client() as q:
        task = waiting(q, "gpu")
        cluster.master.kill()
        cluster.workers[0].kill()
        cluster.configure_worker("w1", worker={"labels": ["gpu"]})
        cluster.workers[0].start()
        cluster.master.start()
        assert task.result(PATIENCE) == "7 * 7 = 49"


def test_a_share_that_a_reload_takes_away_fails_no_task_that_waits_in_the_worker(
    new_cluster: NewCluster, tmp_path: Path
) -> None:
    (tmp_path / "x.log").write_text("a line\n")
    share = {"name": "data", "path": str(tmp_path)}
    cluster = new_cluster(workers=1, worker={"share": [share]})
    gate = Gate(tmp_path / "gate")
    with cluster.client() as q:
        for _ in range(50):  # so short that the worker takes many at a time
            q.submit("count_lines", "share://data/x.log")
        assert q.submit("count_lines", "share://data/x.log").result(PATIENCE) == 1
        held = q.submit("count_lines", gate.path)
        gate.reached()
        tasks = [q.submit("count_lines", "share://data/x.log") for _ in range(5)]
        until(lambda: all(task.state() is State.LEASED for task in tasks), "tasks that wait in the worker")
        cluster.configure_worker("w1", share=[])
        cluster.workers[0].reload()
        until(lambda: all(task.state() is State.READY for task in tasks), "their return")
        cluster.configure_worker("w1")
        cluster.workers[0].reload()
        gate.let_go(3)
        assert [task.result(PATIENCE) for task in (held, *tasks)] == [3, 1, 1, 1, 1, 1]


def test_people_see_the_labels_of_a_worker_and_what_is_wrong_with_its_shares(new_cluster: NewCluster) -> None:
    share = {"name": "data", "path": "/nowhere/data"}
    cluster = new_cluster(workers=1, worker={"worker": {"labels": ["gpu", "site=berlin"]}, "share": [share]})
    qdist = Shell(cluster)
    trouble = "share data: /nowhere/data: No such file or directory"
    until(lambda: trouble in qdist("workers").out, "the word of the loss")
    for command in ("workers", "status"):
        shown = qdist(command).out
        assert "gpu, site=berlin" in shown
        assert f": {trouble}\n" in shown
    told = qdist("workers", "--json").thing
    assert (told["labels"], told["troubles"]) == (["gpu", "site=berlin"], [trouble])
