"""Poison that needs a stage of its own: a flood of output, bombs, what stays behind, and what is set aside for good."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bounds import bounds, reached
from clearing import clearing
from conftest import CLUSTERS
from patience import until
from poison_ward import Neighbours, Ward
from shell import Shell

from qdistd.model import MOST_OUTPUT, State

GROSS, STALL = 20.0, 5.0
"""See `test_poison.py`."""

QUIET = 500

GIB = 1 << 30

GROWTH = 64
"""MiB by which a daemon may grow while a task says a thousand times as much."""

MOST = 150
"""Processes that a bomb, its worker and that one's children may be."""


both = pytest.mark.parametrize("ward", ["plain", "cgroup"], indirect=True)


@pytest.fixture
def ward(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ward]:
    """A worker in bounds of processes and memory. For `both` with a group to divide, too."""
    with clearing() as group, bounds(group, MOST, 2 * GIB) as around, contextlib.ExitStack() as stack:
        home = group if getattr(request, "param", "") == "cgroup" else None
        ward = Ward(tmp_path / "ward", home=home, around=around, memory="600 MiB")
        stack.callback(ward.close)
        request.node.stash[CLUSTERS] = [ward.cluster]
        yield ward


@contextlib.contextmanager
def among_neighbours(ward: Ward, capsys: pytest.CaptureFixture[str], what: str) -> Iterator[Neighbours]:
    """Shows what the neighbours notice of what happens meanwhile; fails where that is gross."""
    with ward.neighbours() as neighbours:
        neighbours.phase("quiet")
        neighbours.wait_for(QUIET)
        neighbours.phase("poison")
        yield neighbours
        neighbours.phase("after")
    quiet, poison = neighbours.p99("quiet"), neighbours.p99("poison")
    with capsys.disabled():
        print(f"\nneighbours of {what}, p99: quiet {quiet * 1e3:.2f} ms, then {poison * 1e3:.2f} ms")
    assert poison < max(GROSS * quiet, STALL)


# -- output


@pytest.mark.parametrize("name", ["print_much", "pour_out"])
def test_a_gibibyte_of_output_costs_neither_memory_nor_the_neighbours(
    ward: Ward, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ward.swallow(name, 1 << 20)
    before = ward.peak()
    with among_neighbours(ward, capsys, f"{name}, a GiB"):
        view = ward.swallow(name, GIB)
    assert view.state is State.SUCCEEDED
    output = view.attempts[-1].output
    assert len(output) <= MOST_OUTPUT
    assert output.endswith(b"that was all\n")
    after = ward.peak()
    with capsys.disabled():
        print(f"peak memory, MiB: {before} before a GiB of output, {after} after it")
    assert all(after[name] < before[name] + GROWTH for name in after)
    assert ward.worker.log_file.stat().st_size < 5 << 20
    ward.unharmed()


# -- bombs


@both
def test_a_fork_bomb_ends_with_its_time_and_all_that_it_has_started(
    ward: Ward, capsys: pytest.CaptureFixture[str]
) -> None:
    with among_neighbours(ward, capsys, "a fork bomb"):
        view = ward.swallow("bomb", timeout=3.0)
    assert reached(ward.around), "it did go off"
    assert view.attempts[-1].failure and view.attempts[-1].failure.kind == "timeout"
    ward.unharmed()


@both
def test_a_bomb_of_threads_fails_and_says_why(ward: Ward) -> None:
    view = ward.swallow("start_threads_for_ever", timeout=20.0)
    failure = view.attempts[-1].failure
    assert failure and (failure.kind, failure.type) == ("exception", "RuntimeError")
    assert "can't start new thread" in failure.message
    ward.unharmed()


def test_a_task_that_takes_all_the_memory_there_is_dies_before_its_worker(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with clearing() as group, bounds(group, MOST, GIB) as around:
        ward = Ward(tmp_path / "ward", around=around)
        request.node.stash[CLUSTERS] = [ward.cluster]
        try:
            view = ward.swallow("take_bit_by_bit", 64 * GIB)
            failure = view.attempts[-1].failure
            assert view.state is State.QUARANTINED
            assert failure and failure.number == signal.SIGKILL
            assert "memory" in failure.message
            ward.unharmed()
        finally:
            ward.close()


# -- quarantine


def test_a_task_that_is_set_aside_keeps_its_evidence_and_comes_back_by_retry(ward: Ward) -> None:
    task = str(ward.submit("leave", 3).id)
    shell = Shell(ward.cluster, "admin")
    assert shell("wait", task).code == 1
    shown = shell("show", task).out
    assert "quarantined, attempt 3" in shown
    assert shown.count("the child that ran leave ended by itself with exit status 3") == 3
    assert shown.count("printed:\n  about to leave\n") == 3
    assert task in shell("list", "--state", "quarantined").out
    assert shell("retry", task).code == 0
    assert shell("wait", task).code == 1
    assert "quarantined, attempt 6" in shell("show", task).out
    ward.unharmed()


# -- what stays behind


@both
def test_what_a_task_has_left_ends_with_its_child(ward: Ward) -> None:
    pid = ward.result("pid")
    left = [ward.result("leave_a_grandchild"), *([ward.result("leave_a_session")] if ward.home else [])]
    assert set(left) <= set(ward.processes())
    for child in ward.children():
        os.kill(child, signal.SIGKILL)
    ward.unharmed()
    assert pid not in ward.children()


def test_a_task_that_kills_its_worker_is_set_aside_when_it_has_done_so_often_enough(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    ward = Ward(tmp_path / "ward", master={"tasks": {"losses": 3}})
    request.node.stash[CLUSTERS] = [ward.cluster]
    try:
        task = ward.submit("signal_the_worker", int(signal.SIGKILL))
        for _ in range(3):
            assert ward.worker.wait() == -signal.SIGKILL
            until(lambda: not ward.processes(), "an end of all children")
            ward.worker.start()
        view = ward.end(task)
        assert view.state is State.QUARANTINED
        assert [attempt.outcome for attempt in view.attempts] == ["lost"] * 3
        assert ward.result("echo", "well") == "well"
    finally:
        ward.close()


def test_a_copy_that_floods_the_pipes_of_a_dead_child_keeps_nobody_busy(ward: Ward) -> None:
    view = ward.swallow("leave_a_flood")
    assert view.state is State.QUARANTINED
    assert view.attempts[-1].failure
    assert "wrote into pipes that are not its own" in view.attempts[-1].failure.message
    ward.unharmed()


# -- orders

DEAF = (
    *("ignore_every_signal", "block_every_signal", "swallow_everything", "spin", "spin_in_c", "stop_oneself"),
    "have_everything_block",
)
"""Most of them do not hear that they are to end, and the last one would have their worker wait."""


def test_a_task_that_does_not_want_to_end_is_cancelled_all_the_same(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    ward = Ward(tmp_path / "ward", processes=len(DEAF))
    request.node.stash[CLUSTERS] = [ward.cluster]
    try:
        tasks = {name: ward.submit(name) for name in DEAF}
        until(lambda: ward.worker.log.count("about to") == len(DEAF), "tasks that run")
        asked = time.time()
        ward.q.cancel(list(tasks.values()))
        views = {name: ward.end(task) for name, task in tasks.items()}
        with capsys.disabled():
            took = {name: round(view.finished - asked, 1) for name, view in views.items()}
            print(f"\nseconds until they were cancelled: {took}")
        assert {view.state for view in views.values()} == {State.CANCELLED}
        ward.unharmed()
    finally:
        ward.close()


# -- children that stand still


def test_a_task_that_stops_its_own_process_is_found_out_long_before_its_time_is_over(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    ward = Ward(tmp_path / "ward", master={"tasks": {"crashes": 1}})
    request.node.stash[CLUSTERS] = [ward.cluster]
    try:
        tasks = [ward.submit(name) for name in ("stop_oneself", "stop_everything")]
        for view in map(ward.end, tasks):
            failure = view.attempts[-1].failure
            assert view.state is State.QUARANTINED
            assert failure and (failure.kind, failure.number) == ("signal", signal.SIGSTOP)
            assert "was stopped by signal 19 (SIGSTOP) and did not go on within 10 seconds" in failure.message
        ward.unharmed()
    finally:
        ward.close()


def test_a_child_that_is_stopped_and_let_go_on_in_time_is_left_alone(ward: Ward) -> None:
    task = ward.submit("stop_oneself")
    until(lambda: "T" in ward.children().values(), "a child that stands still")
    [child] = [pid for pid, state in ward.children().items() if state == "T"]
    os.kill(child, signal.SIGCONT)
    assert ward.end(task).state is State.SUCCEEDED
    assert child in ward.children()
    ward.unharmed()
