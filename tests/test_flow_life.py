"""How queues flow on real daemons, while these are killed: limits hold, order holds, nothing is lost."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cluster import Cluster
from patience import until

import qdistd
from qdistd import Handle, State
from qdistd.client.submitter import Submitter

PATIENCE = 90.0
MARK = "flow_samples.mark"


class Run(NamedTuple):
    """One run of a task. `end` is None where its process was killed."""

    name: str
    begin: float
    end: float | None


class Diary:
    """What the tasks of a test have written down."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "diary"
        self.file.touch()

    def runs(self) -> list[Run]:
        open_runs: dict[tuple[str, str], float] = {}
        runs = []
        for line in self.file.read_text().splitlines():
            word, name, at, pid = line.split()
            if word == "begin":
                open_runs[name, pid] = float(at)
            else:
                runs.append(Run(name, open_runs.pop((name, pid)), float(at)))
        return sorted([*runs, *(Run(name, at, None) for (name, _), at in open_runs.items())], key=lambda run: run.begin)

    def most_at_once(self) -> int:
        """Of those that came to their end: a killed one ended at a moment that nobody wrote down."""
        moments = [(run.begin, 1) for run in self.runs() if run.end] + [(run.end, -1) for run in self.runs() if run.end]
        now = most = 0
        for _, step in sorted(moments):
            now += step
            most = max(most, now)
        return most

    def names(self) -> list[str]:
        return [run.name for run in self.runs()]


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path)


def make(folder: Path, queues: list[str], workers: int = 2, **master: Any) -> Cluster:
    tasks = ["qdistd.tasks", "flow_samples"]
    worker = {"worker": {"tasks": tasks, "path": [str(Path(__file__).parent)], "queues": queues, "processes": 2}}
    return Cluster(folder, workers=workers, master=master, worker=worker)


@pytest.fixture
def closing() -> Iterator[list[Cluster]]:
    clusters: list[Cluster] = []
    yield clusters
    for cluster in clusters:
        cluster.close()


def start(closing: list[Cluster], cluster: Cluster) -> Cluster:
    closing.append(cluster)
    return cluster.start()


def marks(q: Submitter, diary: Diary, names: list[str], seconds: float) -> list[Handle[Any]]:
    handles = [q.submit(MARK, str(diary.file), name, seconds) for name in names]
    handles[-1].state()  # all are on the disk of the master
    return handles


def shake(cluster: Cluster, diary: Diary, steps: list[int]) -> None:
    """Kill the master, a worker, and the master again: each once so many tasks have begun."""
    for begun, daemon in zip(steps, (cluster.master, cluster.workers[0], cluster.master), strict=True):
        until(lambda least=begun: len(diary.runs()) >= least, f"{begun} tasks have begun")
        daemon.kill()
        daemon.start()


def test_a_limit_of_concurrency_holds_while_daemons_are_killed(
    tmp_path: Path, diary: Diary, closing: list[Cluster]
) -> None:
    cluster = start(closing, make(tmp_path, ["narrow"], workers=3, queue={"narrow": {"concurrency": 2}}))
    with cluster.client() as q:
        names = [f"t{number}" for number in range(40)]
        handles = marks(q.options(queue="narrow"), diary, names, 0.1)
        shake(cluster, diary, [5, 12, 20])
        assert [handle.result(PATIENCE) for handle in handles] == names
    assert diary.most_at_once() <= 2


def test_tasks_with_one_key_never_run_beside_each_other_while_daemons_are_killed(
    tmp_path: Path, diary: Diary, closing: list[Cluster]
) -> None:
    cluster = start(closing, make(tmp_path, ["keyed"], workers=3, queue={"keyed": {"per_key": 1}}))
    diaries = {key: Diary(tmp_path / key) for key in ("ann", "bob") if not (tmp_path / key).mkdir()}
    with cluster.client() as q:
        handles = []
        for number in range(30):
            for key, own in diaries.items():
                keyed = q.options(queue="keyed", concurrency_key=key)
                handles.append(keyed.submit(MARK, str(own.file), f"{key}{number}", 0.05))
        handles += marks(q.options(queue="keyed"), diary, [f"free{number}" for number in range(20)], 0.05)
        shake(cluster, diaries["ann"], [3, 9, 15])
        for handle in handles:
            handle.result(PATIENCE)
    assert [own.most_at_once() for own in diaries.values()] == [1, 1]


def test_a_rate_holds_for_the_whole_fleet_while_daemons_are_killed(
    tmp_path: Path, diary: Diary, closing: list[Cluster]
) -> None:
    cluster = start(closing, make(tmp_path, ["slow"], workers=3, queue={"slow": {"rate": "5/s"}}))
    with cluster.client() as q:
        names = [f"t{number}" for number in range(30)]
        handles = marks(q.options(queue="slow"), diary, names, 0.0)
        shake(cluster, diary, [6, 12, 18])
        assert [handle.result(PATIENCE) for handle in handles] == names
    runs = diary.runs()
    took = runs[-1].begin - runs[0].begin
    print(f"30 tasks at 5/s: {took:.2f} s")
    assert took >= (len(names) - 5) / 5 - 0.5  # a child may begin its first task a little late


def test_an_urgent_task_goes_before_all_that_wait_and_have_not_begun(
    tmp_path: Path, diary: Diary, closing: list[Cluster]
) -> None:
    cluster = start(closing, make(tmp_path, ["default"], workers=1))
    with cluster.client() as q:
        handles = marks(q, diary, [f"t{number}" for number in range(200)], 0.02)
        until(lambda: len(diary.runs()) >= 20, "20 tasks have begun")
        urgent = marks(q.options(priority=-10), diary, ["urgent"], 0.0)
        begun = len(diary.runs())
        urgent[0].result(PATIENCE)
        overtaken = diary.names().index("urgent") - begun
        print(f"{overtaken} tasks began between its acknowledgement and its beginning")
        assert overtaken <= 6  # two children with what they had at hand
        q.cancel(handles)


def test_a_queue_that_is_paused_rests_over_kills_and_then_goes_on(
    tmp_path: Path, diary: Diary, closing: list[Cluster]
) -> None:
    cluster = start(closing, make(tmp_path, ["default", "other"]))
    with cluster.client("admin") as q:
        q.pause("default")
        handles = marks(q, diary, ["a", "b"], 0.0)
        cluster.master.kill()
        cluster.master.start()
        assert q.options(queue="other").submit("square", 7).result(PATIENCE) == "7 * 7 = 49"
        assert [handle.state() for handle in handles] == [State.READY] * 2
        assert "paused" in handles[0].why()
        q.resume("default")
        assert {handle.result(PATIENCE) for handle in handles} == {"a", "b"}


def test_a_drained_worker_ends_what_it_runs_and_takes_nothing_more_also_after_its_restart(
    tmp_path: Path, diary: Diary, closing: list[Cluster]
) -> None:
    cluster = start(closing, make(tmp_path, ["default"], workers=1))
    with cluster.client("admin") as q:
        (running,) = marks(q, diary, ["running"], 1.0)
        until(diary.runs, "it has begun")
        (worker,) = q.workers()
        q.drain(worker.name)
        assert running.result(PATIENCE) == "running"
        (waiting,) = marks(q, diary, ["waiting"], 0.0)
        cluster.workers[0].kill()
        cluster.workers[0].start()
        cluster.master.kill()
        cluster.master.start()
        until(
            lambda: [each for each in q.workers() if each.drained and each.state == "connected"], "it is back, drained"
        )
        assert waiting.state() == State.READY
        assert "drained" in waiting.why()
        q.undrain(worker.name)
        assert waiting.result(PATIENCE) == "waiting"


def test_tasks_go_where_their_labels_are_and_wait_where_nobody_has_them(tmp_path: Path, closing: list[Cluster]) -> None:
    cluster = start(closing, make(tmp_path, ["default"], workers=1))
    with cluster.client() as q:
        task = q.options(requires=["gpu"]).submit("square", 7)
        task.state()
        (stuck,) = q.status().stuck
        assert (stuck.queue, stuck.requires, stuck.tasks) == ("default", ["gpu"], 1)
        assert q.submit("square", 2).result(PATIENCE)
        own = {"labels": ["gpu"], "tasks": ["qdistd.tasks"]}
        able = cluster.add_worker("able", worker=own)
        able.start()
        assert task.result(PATIENCE) == "7 * 7 = 49"
        assert q.status().stuck == []


def test_a_full_queue_says_when_to_come_back_and_who_is_patient_gets_through(
    tmp_path: Path, closing: list[Cluster]
) -> None:
    cluster = start(closing, make(tmp_path, ["default"], queue={"default": {"limit": 50}}))
    with cluster.client("admin") as q:
        q.pause("default")
        handles = [q.submit("square", number) for number in range(60)]
        refused = [error for handle in handles[50:] if (error := handle.exception(PATIENCE))]
        assert all(isinstance(error, qdistd.Overloaded) and error.after >= 1.0 for error in refused)
        assert len(refused) == 10
        q.resume("default")
        assert [handle.result(PATIENCE) for handle in handles[:50]]
    with cluster.client(patient=True) as q:
        assert len(list(q.map("square", range(300)))) == 300


def test_what_expires_while_no_worker_is_there_is_cancelled_and_never_runs(
    tmp_path: Path, diary: Diary, closing: list[Cluster]
) -> None:
    cluster = start(closing, make(tmp_path, ["default"], workers=0))
    with cluster.client() as q:
        (late,) = marks(q.options(expires=0.5), diary, ["late"], 0.0)
        cluster.master.kill()
        cluster.master.start()
        error = late.exception(PATIENCE)
        assert isinstance(error, qdistd.TaskCancelled)
        assert "time was over" in str(error)
    assert diary.runs() == []


def test_of_alike_tasks_one_runs_though_they_are_said_again_after_a_kill(
    tmp_path: Path, diary: Diary, closing: list[Cluster]
) -> None:
    cluster = start(closing, make(tmp_path, ["default"], workers=0))
    with cluster.client() as q:
        unique = q.options(unique="running", unique_key="nightly")
        first = marks(unique, diary, ["one"], 0.0)
        second = marks(unique, diary, ["two"], 0.0)
        cluster.master.kill()
        cluster.master.start()
        third = marks(unique, diary, ["three"], 0.0)
        assert first[0].id == second[0].id == third[0].id
        cluster.add_worker("late", worker={"tasks": ["flow_samples"]}).start()
        assert [handle.result(PATIENCE) for handle in (*first, *second, *third)] == ["one"] * 3
    assert diary.names() == ["one"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "qdist-test", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_runs_full_keeps_new_tasks_out_and_lets_results_in(
    small_disk: Path, diary: Diary, closing: list[Cluster]
) -> None:
    cluster = start(closing, make(small_disk, ["default"], workers=1, limits={"free": "32 MiB"}))
    ballast = small_disk / "ballast"
    with cluster.client() as q:
        (running,) = marks(q, diary, ["running"], 1.0)
        until(diary.runs, "it has begun")
        ballast.write_bytes(bytes(60 * 1024 * 1024))
        until(lambda: q.status().overload, "the master has noticed")
        error = q.submit("square", 7).exception(PATIENCE)
        assert isinstance(error, qdistd.Overloaded)
        assert "MiB free" in str(error)
        assert running.result(PATIENCE) == "running"
        ballast.unlink()
        freed = time.monotonic()
        until(lambda: q.submit("square", 7).exception(PATIENCE) is None, "tasks are taken again", 5.0)
        print(f"tasks were taken again {time.monotonic() - freed:.2f} s after there was room")
