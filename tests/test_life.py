"""One task's life, from a client's `submit` to its last attempt, on real daemons: limits, wishes, orders, progress."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from conftest import NewCluster
from daemons import DEADLINE
from patience import until
from samples import HERE, MODULES

import qdistd
from qdistd import Progress, State

AT_ONCE = 1.0
"""Seconds in which a task that runs has ended when it was cancelled."""


class Scene:
    """A cluster of one worker with one child, and what its tasks say."""

    def __init__(self, new_cluster: NewCluster, folder: Path, **limits: object) -> None:
        worker = {"worker": {"tasks": list(MODULES), "path": [HERE]}, "limits": limits}
        self.cluster: Cluster = new_cluster(workers=1, worker=worker)
        self.news, self.gate = str(folder / "news"), str(folder / "gate")
        os.mkfifo(self.news)
        os.mkfifo(self.gate)
        self._ear = os.open(self.news, os.O_RDWR)
        self._gatekeeper = os.open(self.gate, os.O_RDWR)

    def hears(self, word: str) -> None:
        """Wait until a task says this."""
        heard = b""
        while word.encode() not in heard.splitlines():
            heard += os.read(self._ear, 4096)

    def close(self) -> None:
        """Let go of the fifos."""
        for descriptor in (self._ear, self._gatekeeper):
            if descriptor >= 0:
                os.close(descriptor)

    def open_gate(self) -> None:
        """Let go on who waits there, and who will."""
        Path(self.gate).with_name("open").touch()
        Path(self.gate).with_name("open").replace(self.gate)
        os.close(self._gatekeeper)
        self._gatekeeper = -1


@pytest.fixture
def new_scene(new_cluster: NewCluster, tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def make(**limits: object) -> Scene:
        scenes.append(Scene(new_cluster, tmp_path, **limits))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()


@pytest.fixture
def scene(new_scene: Callable[..., Scene]) -> Scene:
    return new_scene()


# -- cancel


def test_a_task_that_runs_is_cancelled_within_a_second_again_and_again(scene: Scene) -> None:
    with scene.cluster.client("admin") as q:
        pid = q.submit("pid").result(DEADLINE)
        task = q.submit("tidy_up", scene.news, scene.gate)
        scene.hears("begun False")
        begin = time.monotonic()
        assert task.cancel()
        scene.hears("tidied True")
        with pytest.raises(qdistd.TaskCancelled):
            task.result(DEADLINE)
        seconds = time.monotonic() - begin
        assert task.cancel()
        assert q.submit("pid").result(DEADLINE) == pid
        view = q.show(task)
    print(f"cancelled within {seconds * 1e3:.0f} ms")
    assert seconds < AT_ONCE
    assert [attempt.outcome for attempt in view.attempts] == ["cancelled"]


def test_a_cancel_outlives_the_worker_and_the_master(scene: Scene) -> None:
    with scene.cluster.client("admin") as q:
        task = q.submit("ignore_all", scene.news, scene.gate)
        scene.hears("begun")
        task.cancel()
        scene.cluster.workers[0].kill()
        scene.cluster.master.kill()
        scene.cluster.master.start()
        scene.cluster.workers[0].start()
        with pytest.raises(qdistd.TaskCancelled):
            task.result(DEADLINE)
        assert len(q.show(task).attempts) == 1


def test_a_worker_that_is_told_to_stop_lets_its_task_tidy_up_and_another_one_runs_it(scene: Scene) -> None:
    worker = scene.cluster.workers[0]
    with scene.cluster.client("admin") as q:
        task = q.submit("tidy_up", scene.news, scene.gate)
        scene.hears("begun False")
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait_for("STOPPING=1")
        os.kill(worker.pid, signal.SIGTERM)
        scene.hears("tidied True")
        until(lambda: not worker.alive, "the worker has ended")
        scene.cluster.add_worker("w2").start()
        scene.hears("begun False")
        scene.open_gate()
        assert task.result(DEADLINE) is None
        view = q.show(task)
    assert [attempt.outcome for attempt in view.attempts] == ["released", "succeeded"]
    assert (view.failures, view.crashes, view.losses) == (0, 0, 0)


# -- limits


def test_the_soft_limit_of_a_task_and_that_of_its_worker(new_scene: Callable[..., Scene]) -> None:
    scene = new_scene(soft_timeout="200 ms")
    with scene.cluster.client("admin") as q:
        late = q.options(soft_timeout=0.1).submit("outlast_politely", scene.news, scene.gate)
        assert "its soft limit of 0.1 seconds" in late.result(DEADLINE)
        assert "its soft limit of 0.2 seconds" in q.submit("outlast_politely", scene.news, scene.gate).result(DEADLINE)
        task = q.submit("outlast", scene.news, scene.gate)
        error = task.exception(DEADLINE)
        assert error and error.failure.kind == "soft-timeout"  # type: ignore[attr-defined] # a TaskFailed


def test_children_are_replaced_as_the_settings_say(new_scene: Callable[..., Scene]) -> None:
    scene = new_scene(child_tasks=20)
    with scene.cluster.client() as q:
        pids = set(q.map("nothing_but_the_pid", range(2000), window=10))
    assert len(pids) > 1


# -- wishes of a task


def test_a_task_that_wants_another_try_gets_it_when_it_wants_it(scene: Scene) -> None:
    with scene.cluster.client("admin") as q:
        task = q.options(retries=1, backoff=3600).submit("retry", 0.5)
        error = task.exception(DEADLINE)
        view = q.show(task)
        assert error and error.failure.kind == "retry"  # type: ignore[attr-defined] # a TaskFailed
        later = q.options(retries=1).submit("retry", 3600)
        until(lambda: later.state() is State.SCHEDULED, "it waits for its next try")
        assert 3500 < q.show(later).run_at - time.time() <= 3600
    first, second = view.attempts
    assert 0.5 <= second.started - first.started < 0.5 + DEADLINE
    assert view.failures == 2


def test_a_task_that_rejects_has_no_other_try(scene: Scene) -> None:
    with scene.cluster.client("admin") as q:
        task = q.options(retries=5).submit("reject", "no such customer")
        error = task.exception(DEADLINE)
        assert error and "no such customer" in str(error)
        view = q.show(task)
    assert (view.state, [attempt.outcome for attempt in view.attempts]) == (State.FAILED, ["rejected"])


# -- progress


def test_progress_and_partial_results_are_seen_while_the_task_runs(scene: Scene) -> None:
    with scene.cluster.client() as q:
        task = q.submit("advance", scene.news, scene.gate, 1000)
        scene.hears("advanced")
        until(lambda: task.progress() == Progress(999, 1000, "step 999"), "progress")
        stream = q.submit("stream", 30)
        scene.open_gate()
        assert list(stream.partials()) == [{"number": number} for number in range(30)]
        assert stream.result(DEADLINE) == 30


def test_after_a_worker_was_killed_the_next_attempt_streams_anew(scene: Scene) -> None:
    with scene.cluster.client("admin") as q:
        task = q.submit("stream", 3, scene.news, scene.gate)
        scene.hears("streamed")
        until(lambda: len(q.show(task).partials) == 3, "partial results")
        scene.cluster.workers[0].kill()
        until(lambda: task.state() is not State.LEASED, "the worker is lost")
        scene.cluster.workers[0].start()
        scene.hears("streamed")
        until(lambda: (view := q.show(task)).attempt == 2 and len(view.partials) == 3, "partial results of the second")
        scene.open_gate()
        assert task.result(DEADLINE) == 3
        assert task.attempt == 2
