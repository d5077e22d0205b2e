"""Shares of real workers: one name for files in two places, and a mount whose server is gone as the kernel has it.

Whoever touches that mount is in state D, where SIGKILL does not reach: see `mute_mount`.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from conftest import NewCluster
from daemons import Daemon
from gate import Gate
from mute_mount import Mount
from patience import until

from qdistd import Client, State

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")

FILE = "share://data/x.log"
PATIENCE = 30.0

TIMEOUT = "3s"
"""In which a process has started and looked, on a machine with much else to do."""

MOUNTED, PLAIN = 1, 2
"""The lines of that file, here and there: they tell which worker has counted them."""


class Shore:
    """Two workers: the mount of `w1` can fall silent, `w2` has its own copy of the share in a plain folder."""

    def __init__(self, cluster: Cluster, mount: Mount) -> None:
        self.cluster = cluster
        self.mount = mount
        plain = cluster.folder / "plain"
        plain.mkdir()
        for name, lines in ((".probe", 0), ("x.log", PLAIN)):
            (plain / name).write_text("a line\n" * lines)
        self.w1 = self.worker("w1", mount.path)
        self.w2 = self.worker("w2", plain)

    def worker(self, name: str, path: Path) -> Daemon:
        return self.cluster.add_worker(name, **tables(name, path))

    def looks(self) -> list[str]:
        """The states of the processes of `w1` that look at its share, as ps(1) has them."""
        return [state for pid in self.w1.children() if (state := state_of(pid))]


def tables(name: str, path: Path) -> dict[str, Any]:
    """What `worker.toml` says beside what all workers of the cluster have."""
    share = {"name": "data", "path": str(path), "probe": ".probe", "timeout": TIMEOUT, "interval": "200 ms"}
    return {"worker": {"labels": [f"site={name}"]}, "share": [share | {"mount": name == "w1"}]}


def state_of(pid: int) -> str:
    """The state of a process that looks at a share; empty where it is another one, or gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        line = Path(f"/proc/{pid}/stat").read_text()
        dead = ") Z " in line
        if dead or b"look.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return line.rpartition(")")[2].split()[0]
    return ""


@pytest.fixture
def shore(new_cluster: NewCluster, tmp_path: Path) -> Iterator[Shore]:
    with Mount(tmp_path / "mount", {".probe": b"", "x.log": b"a line\n" * MOUNTED}) as mount:
        shore = Shore(new_cluster(workers=0), mount)
        for worker in (shore.w1, shore.w2):
            worker.start()
        with shore.cluster.client() as q:
            until(lambda: sum("share=data" in worker.labels for worker in q.workers()) == 2, "both shares")
        yield shore
        mount.speak()
        for worker in (shore.w1, shore.w2):
            worker.close()


@pytest.fixture
def q(shore: Shore) -> Iterator[Client]:
    with shore.cluster.client() as q:
        yield q


def labels(q: Client, name: str) -> list[str]:
    """Of the worker that is connected under this name; none where there is none."""
    workers = [worker for worker in q.workers() if worker.state == "connected"]
    return next((worker.labels for worker in workers if worker.name.startswith(name)), [])


def troubles(q: Client, name: str) -> list[str]:
    return next(worker.troubles for worker in q.status().workers if worker.name.startswith(name))


def stale(shore: Shore, q: Client) -> None:
    """Have the server of the mount fall silent; return when the master knows."""
    shore.mount.fall_silent()
    until(lambda: troubles(q, "w1"), "the word of the loss")


def hangs(shore: Shore) -> bool:
    return shore.looks() == ["D"]


def says(worker: Daemon, words: str) -> str:
    """The next status line with these words."""
    while words not in (notice := worker.wait_for("STATUS=")):
        pass
    return notice


def test_the_same_argument_is_another_path_on_each_worker(shore: Shore, q: Client) -> None:
    for name, lines in (("w1", MOUNTED), ("w2", PLAIN)):
        there = q.options(requires=[f"site={name}"])
        assert there.submit("count_lines", FILE).result(PATIENCE) == lines
        assert there.submit("count_lines", path="share://data/./x.log").result(PATIENCE) == lines


def test_a_mount_that_hangs_costs_a_worker_only_the_tasks_that_need_it(shore: Shore, q: Client) -> None:
    stale(shore, q)
    [trouble] = troubles(q, "w1")
    assert trouble.startswith(f"share data: {shore.mount.path}/.probe has not answered since 20")
    assert says(shore.w1, "share data").splitlines()[-1].endswith(f"; {trouble}")
    assert (labels(q, "w1"), labels(q, "w2")) == (["site=w1"], ["share=data", "site=w2"])
    assert list(q.map("count_lines", [FILE] * 20)) == [PLAIN] * 20
    here = q.options(requires=["site=w1"])
    assert here.submit("square", 7).result(PATIENCE) == "7 * 7 = 49"
    until(lambda: hangs(shore), "a process that no signal reaches")
    assert shore.mount.hanging == 1
    shore.mount.speak()
    until(lambda: "share=data" in labels(q, "w1"), "the return of the share")
    assert here.submit("count_lines", FILE).result(PATIENCE) == MOUNTED
    until(lambda: "Z" not in shore.looks(), "no dead process")


def test_a_task_waits_for_the_only_worker_whose_share_hangs_and_status_says_why(shore: Shore, q: Client) -> None:
    assert shore.w2.stop() == 0
    stale(shore, q)
    task = q.submit("count_lines", FILE)
    q.flush()
    until(lambda: q.status().stuck, "the word of a task that nobody can take")
    [stuck] = q.status().stuck
    assert (stuck.queue, stuck.requires, stuck.tasks) == ("default", ["share=data"], 1)
    assert "share=data" in stuck.reason
    assert task.state() is State.READY
    shore.mount.speak()
    assert task.result(PATIENCE) == MOUNTED
    assert task.attempt == 1


def test_what_waits_in_the_worker_for_a_child_runs_elsewhere_once_the_share_hangs(
    shore: Shore, q: Client, tmp_path: Path
) -> None:
    assert shore.w2.stop() == 0
    for _ in range(50):  # so short that the worker takes many at a time
        q.submit("count_lines", FILE)
    gate = Gate(tmp_path / "gate")
    q.submit("count_lines", FILE).result(PATIENCE)
    held = q.submit("count_lines", gate.path)
    gate.reached()
    tasks = [q.submit("count_lines", FILE) for _ in range(5)]
    q.flush()
    stale(shore, q)
    shore.w2.start()
    assert [task.result(PATIENCE) for task in tasks] == [PLAIN] * 5
    assert held.state() is State.LEASED
    gate.let_go(3)
    assert held.result(PATIENCE) == 3


def test_a_worker_killed_while_its_mount_hangs_comes_back_without_the_share(shore: Shore, q: Client) -> None:
    stale(shore, q)
    shore.w1.kill()
    shore.w1.start()
    until(lambda: labels(q, "w1") == ["site=w1"] and hangs(shore), "the worker and its new look")
    assert q.options(requires=["site=w1"]).submit("square", 7).result(PATIENCE) == "7 * 7 = 49"
    assert q.submit("count_lines", FILE).result(PATIENCE) == PLAIN
    shore.mount.speak()
    assert q.options(requires=["site=w1"]).submit("count_lines", FILE).result(PATIENCE) == MOUNTED


def test_a_reload_while_the_mount_hangs_keeps_the_one_process_and_what_is_known(shore: Shore, q: Client) -> None:
    stale(shore, q)
    until(lambda: hangs(shore), "a process that no signal reaches")
    known = troubles(q, "w1")
    assert "reload refused" not in shore.w1.reload()
    assert hangs(shore)
    until(lambda: labels(q, "w1") == ["site=w1"], "the hello of the fresh image")
    assert troubles(q, "w1") == known
    assert shore.mount.hanging == 1
    shore.mount.speak()
    until(lambda: "share=data" in labels(q, "w1"), "the return of the share")
    until(lambda: "Z" not in shore.looks(), "no dead process")


def test_a_worker_stops_in_time_while_its_mount_hangs(shore: Shore, q: Client) -> None:
    stale(shore, q)
    until(lambda: hangs(shore), "a process that no signal reaches")
    assert shore.w1.stop() == 0


def test_a_folder_where_nothing_is_mounted_is_no_share_until_a_reload_mends_it(shore: Shore, q: Client) -> None:
    shore.cluster.configure_worker("w1", **tables("w1", shore.cluster.folder))
    shore.w1.reload()
    until(lambda: troubles(q, "w1") == [f"share data: nothing is mounted at {shore.cluster.folder}"], "no mount")
    assert q.submit("count_lines", FILE).result(PATIENCE) == PLAIN
    shore.cluster.configure_worker("w1", **tables("w1", shore.mount.path))
    shore.w1.reload()
    until(lambda: "share=data" in labels(q, "w1"), "the return of the share")
