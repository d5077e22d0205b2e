"""`qdist purge` and [retention] on a running master: what has ended goes, asked for or by itself, and nothing else."""

import os
import pty
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest
from cluster import Cluster
from conftest import NewCluster
from daemons import DEADLINE
from patience import until
from shell import Shell

from qdistd import Client, State, errors
from qdistd.upkeep import Purge

MANY = 3000


@pytest.fixture
def cluster(new_cluster: NewCluster) -> Cluster:
    return new_cluster(workers=1, worker={"worker": {"tasks": ["qdistd.tasks", "operator"]}})


@pytest.fixture
def shell(cluster: Cluster) -> Shell:
    return Shell(cluster, "admin")


def ended(q: Client, succeeded: int, failed: int = 0) -> None:
    assert sum(1 for _ in q.map("square", range(succeeded))) == succeeded
    for handle in [q.submit("operator.truediv", 1, 0) for _ in range(failed)]:
        handle.wait(DEADLINE)


def counts(q: Client) -> dict[str, int]:
    total: dict[str, int] = {}
    for queue in q.queues():
        for state, tasks in queue.counts.items():
            total[state] = total.get(state, 0) + tasks
    return total


def test_purge_deletes_what_has_ended_and_says_how_many(cluster: Cluster, shell: Shell) -> None:
    with cluster.client() as q:
        ended(q, 300, failed=2)
        waiting = q.options(queue="nobody").submit("square", 1)
        assert shell("purge", "--dry-run").out == "302 tasks would be purged\n"
        assert shell("purge", "--state", "failed", "--yes").out == "2 tasks are purged\n"
        assert shell("purge", "--older-than", "1h", "--yes").out == "0 tasks are purged\n"
        assert shell("purge", "--queue", "other", "--yes").out == "0 tasks are purged\n"
        assert shell("purge", "--name", "square", "--yes").out == "300 tasks are purged\n"
        assert counts(q) == {"ready": 1}
        assert waiting.state() is State.READY


def test_purge_asks_first(cluster: Cluster, shell: Shell) -> None:
    with cluster.client() as q:
        ended(q, 3)
        nobody = shell("purge")
        assert nobody.code == 64 and "--yes" in nobody.err and "--dry-run" in nobody.err
        assert "nothing is purged" in answered(shell, "n\n") and counts(q) == {"succeeded": 3}
        said = answered(shell, "y\n")
        assert "Delete 3 tasks and their results?" in said and "3 tasks are purged" in said
        assert counts(q) == {}


def answered(shell: Shell, answer: str) -> str:
    """What `qdist purge` prints to a person on a terminal who answers so."""
    ours, theirs = pty.openpty()
    process = shell.start("purge", stdin=theirs, stderr=subprocess.STDOUT)
    os.close(theirs)
    os.write(ours, answer.encode())
    out, _ = process.communicate(timeout=DEADLINE)
    os.close(ours)
    return out


def test_purge_needs_an_admin_and_tasks_that_have_ended(cluster: Cluster) -> None:
    refused = Shell(cluster)("purge", "--yes")
    assert refused.code == 77 and "role admin" in refused.err
    with cluster.client("admin") as q, pytest.raises(errors.Refused, match="that are ready have not ended"):
        q.ask(Purge(states=[State.READY]))


def test_python_purges_too(cluster: Cluster) -> None:
    with cluster.client("admin") as q:
        ended(q, 250, failed=1)
        steps: list[int] = []
        assert q.purge(dry_run=True) == 251
        assert q.purge(states=[State.SUCCEEDED], told=steps.append) == sum(steps) == 250
        assert len(steps) > 1, "in small steps"
        assert q.purge(3600.0) == 0
        assert counts(q) == {"failed": 1}


def test_others_work_on_while_much_is_purged(cluster: Cluster) -> None:
    with cluster.client("admin") as q, cluster.client() as other:
        ended(q, MANY)
        purged: list[int] = []
        thread = threading.Thread(target=lambda: purged.append(q.purge()))
        thread.start()
        trips = 0
        while thread.is_alive() or not trips:
            assert other.submit("square", trips).result(DEADLINE) == f"{trips} * {trips} = {trips * trips}"
            trips += 1
        thread.join()
        assert purged[0] >= MANY
        assert purged[0] + counts(other).get("succeeded", 0) == MANY + trips


def test_a_master_that_is_killed_in_a_purge_has_lost_no_count_and_goes_on(cluster: Cluster, shell: Shell) -> None:
    with cluster.client("admin", timeout=60.0) as q:
        ended(q, MANY)
        kept = [q.options(queue="nobody").submit("square", n) for n in range(10)]
        q.flush()
        killed = threading.Event()

        def kill(_tasks: int) -> None:
            if not killed.is_set():
                killed.set()
                cluster.master.kill()
                cluster.master.start()

        q.purge(told=kill)
        assert killed.is_set()
        assert counts(q) == {"ready": 10}
        assert {handle.state() for handle in kept} == {State.READY}
    cluster.master.stop()
    with closing(sqlite3.connect(cluster.folder / "qdist.db")) as db:
        tally = dict(db.execute("SELECT state, sum(tasks) FROM tally GROUP BY state"))
        assert tally == dict(db.execute("SELECT state, count(*) FROM task GROUP BY state")) == {int(State.READY): 10}


def test_the_newest_that_count_allows_stay_after_a_reload(cluster: Cluster) -> None:
    with cluster.client() as q:
        ended(q, 500)
        newest = q.submit("square", 7)
        newest.result(DEADLINE)
        cluster.configure_master(retention={"count": 5})
        cluster.master.reload()
        until(lambda: counts(q) == {"succeeded": 5}, "the oldest have gone")
        assert q.show(newest).state is State.SUCCEEDED


def test_settings_that_cannot_be_are_named(tmp_path: Path, cluster: Cluster) -> None:
    cluster.configure_master(retention={"count": -1, "failed": "soon"})
    ran = Shell(cluster)("config", "check", "master", "-f", cluster.folder / "master.toml")
    assert ran.code != 0 and "[retention] count" in ran.out + ran.err and "[retention] failed" in ran.out + ran.err
