"""A worker that is reloaded is a fresh image of its program in the same process: its running tasks do not notice."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from conftest import NewCluster
from daemons import DEADLINE, Daemon
from gate import Gate
from patience import until

from qdistd import Client, Handle
from qdistd.errors import TaskFailed, TaskQuarantined

PATIENCE = 60.0

CODE = '''
import os, signal, sys, time
from pathlib import Path

def version():
    return "VERSION"

def once(number, log):
    """Leaves a line for each time that it runs."""
    with open(log, "a") as file:
        file.write(f"{number}\\n")
    return number

def hold(gate):
    Path(gate).read_bytes()
    return os.getpid()

def hold_and_end(gate, number):
    """Ends its process: by a signal where the number is negative."""
    Path(gate).read_bytes()
    os._exit(number) if number >= 0 else os.kill(os.getpid(), -number)

def hold_and_print_much(gate):
    Path(gate).read_bytes()
    return "x" * 1_000_000

def spin():
    while True:
        time.sleep(60)
'''

NewHouse = Callable[..., Cluster]


@pytest.fixture
def new_house(new_cluster: NewCluster, tmp_path: Path) -> Iterator[NewHouse]:
    """A cluster with one worker and tasks of its own."""

    def make(**worker: object) -> Cluster:
        write_code(tmp_path, "old")
        settings = {"tasks": ["jobs"], "path": [str(tmp_path)], "processes": 2} | worker
        return new_cluster(workers=1, worker={"worker": settings}, master={"tasks": {"crashes": 1}})

    yield make


def write_code(folder: Path, version: str) -> None:
    (folder / "jobs.py").write_text(CODE.replace("VERSION", version))


def reload(worker: Daemon) -> None:
    pid = worker.pid
    notice = worker.reload()
    assert "reload refused" not in notice, worker.log
    assert (worker.pid, worker.alive) == (pid, True)


class Held:
    """A task that runs until it is let go, and the child that runs it."""

    def __init__(self, q: Client, folder: Path, name: str = "hold", *arguments: object, **options: float) -> None:
        self._gate = Gate(folder / f"gate-{time.monotonic_ns()}")
        self.handle: Handle[object] = q.options(**options).submit(name, self._gate.path, *arguments)
        self._gate.reached()

    def let_go(self) -> Handle[object]:
        self._gate.let_go(1)
        return self.handle


class Stream:
    """Short tasks, ever more of them, each of which must run exactly once."""

    def __init__(self, q: Client, log: Path) -> None:
        self._client, self._log = q, log
        self._handles: list[Handle[int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def flows(self) -> None:
        """Return when some more have ended."""
        goal = self.ended() + 20
        until(lambda: self.ended() >= goal, "tasks that end")

    def ended(self) -> int:
        return self._log.read_text().count("\n") if self._log.exists() else 0

    def finish(self) -> int:
        self._over.set()
        self._thread.join()
        count = len(self._handles)
        assert [handle.result(PATIENCE) for handle in self._handles] == list(range(count))
        assert sorted(map(int, self._log.read_text().split())) == list(range(count)), "some ran twice"
        return count

    def _run(self) -> None:
        while not self._over.is_set():
            number = len(self._handles)
            self._handles.append(self._client.submit("once", number, str(self._log)))
            if number >= 200:
                self._handles[number - 200].result(PATIENCE)


def test_twenty_reloads_under_load_lose_nothing_and_leave_a_running_task_alone(
    new_house: NewHouse, tmp_path: Path
) -> None:
    house = new_house()
    [worker] = house.workers
    with house.client() as q:
        held = Held(q, tmp_path)
        stream = Stream(q, tmp_path / "ran")
        for number in range(20):
            stream.flows()
            write_code(tmp_path, f"new-{number}")
            reload(worker)
        assert stream.finish() > 400
        assert q.submit("version").result(timeout=PATIENCE) == "new-19"
        handle = held.let_go()
        child = handle.result(timeout=PATIENCE)
        assert handle.attempt == 1
    until(lambda: not Path(f"/proc/{child}").exists(), "the end of the child of the first image")
    until(lambda: len(worker.children()) == 2, "two children, and no more")
    assert worker.stop() == 0


def test_the_child_goes_on_and_its_end_is_told_as_ever(new_house: NewHouse, tmp_path: Path) -> None:
    house = new_house(processes=4)
    with house.client() as q:
        ends = [Held(q, tmp_path, "hold_and_end", number) for number in (3, -signal.SIGSEGV)]
        much = Held(q, tmp_path, "hold_and_print_much")
        pids = set(house.workers[0].children())
        reload(house.workers[0])
        assert len(pids & set(house.workers[0].children())) >= 3
        assert much.let_go().result(timeout=PATIENCE) == "x" * 1_000_000
        for held, words in zip(ends, ("exit status 3", "SIGSEGV"), strict=True):
            with pytest.raises(TaskQuarantined, match=words):
                held.let_go().result(timeout=PATIENCE)
            assert held.handle.attempt == 1


def test_a_limit_of_time_counts_from_the_real_start(new_house: NewHouse) -> None:
    house = new_house()
    with house.client() as q:
        handle = q.options(timeout=3.0).submit("spin")
        until(lambda: handle.state().name == "LEASED", "a task that runs")
        for _ in range(3):
            reload(house.workers[0])
        with pytest.raises(TaskFailed, match="ran longer than its limit of 3 seconds"):
            handle.result(timeout=PATIENCE)
        view = q.show(handle)
        assert view.finished - view.created < 6.0


def test_a_running_task_can_be_cancelled_after_the_reload(new_house: NewHouse, tmp_path: Path) -> None:
    house = new_house()
    with house.client() as q:
        held = Held(q, tmp_path)
        reload(house.workers[0])
        assert held.handle.cancel()
        held.handle.wait(timeout=PATIENCE)
        assert held.handle.state().name == "CANCELLED"


def test_settings_of_all_kinds_are_in_force_when_the_reload_is_over(new_house: NewHouse, tmp_path: Path) -> None:
    house = new_house()
    [worker] = house.workers
    with house.client() as q:
        held = Held(q, tmp_path)
        tables = {"processes": 1, "queues": ["gpu"], "tasks": ["jobs"], "path": [str(tmp_path)]}
        house.configure_worker("w1", worker=tables, limits={"timeout": 1.0})
        reload(worker)
        with pytest.raises(TaskFailed, match="limit of 1 seconds"):
            q.options(queue="gpu").submit("spin").result(timeout=PATIENCE)
        assert held.let_go().result(timeout=PATIENCE), "it had no limit when it began"
    until(lambda: len(worker.children()) == 1, "one child, as there should be")


def test_what_is_of_no_use_changes_nothing(new_house: NewHouse, tmp_path: Path) -> None:
    house = new_house()
    [worker] = house.workers
    file = tmp_path / "cluster-0" / "w1.toml"
    sound = file.read_text()
    with house.client() as q:
        held = Held(q, tmp_path)
        for text, words in (
            (sound + "[limits]\ntimeuot = 3\n", f"{file}:{len(sound.splitlines()) + 2}: [limits] timeuot: unknown key"),
            (sound.replace('"jobs"', '"nonsense"'), "no module of tasks can be imported: nonsense"),
        ):
            file.write_text(text)
            assert words in worker.reload()
        write_code(tmp_path, "new")
        assert q.submit("version").result(timeout=PATIENCE) == "old"
        assert held.let_go().result(timeout=PATIENCE) in worker.children()


def test_a_signal_to_stop_that_comes_during_a_reload_is_obeyed_and_drains(new_house: NewHouse, tmp_path: Path) -> None:
    house = new_house()
    [worker] = house.workers
    with house.client() as q:
        held = Held(q, tmp_path)
        worker.signal(signal.SIGHUP)
        worker.wait_for("RELOADING=1")
        until(lambda: b"QDIST_ESTATE" in Path(f"/proc/{worker.pid}/environ").read_bytes(), "another image")
        worker.signal(signal.SIGTERM)
        worker.wait_for("STOPPING=1")
        assert held.let_go().result(timeout=PATIENCE)
    assert worker.wait() == 0


def test_kill_9_in_the_middle_of_a_handover_loses_nothing(new_house: NewHouse, tmp_path: Path) -> None:
    house = new_house()
    [worker] = house.workers
    with house.client() as q:
        for delay in range(6):
            held = Held(q, tmp_path)
            children = [os.pidfd_open(pid) for pid in worker.children()]
            worker.signal(signal.SIGHUP)
            worker.wait_for("RELOADING=1")
            if delay % 2:
                until(lambda: b"QDIST_ESTATE" in Path(f"/proc/{worker.pid}/environ").read_bytes(), "another image")
            worker.kill()
            for pidfd in children:
                os.close(pidfd)
            worker.start()
            assert held.let_go().result(timeout=PATIENCE + DEADLINE)
