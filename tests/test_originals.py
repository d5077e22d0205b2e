"""The original pair, all four ways, on every CPython that this machine has: no script is changed for qdist.

plain master    x  plain worker                         the control
plain submitter x  qdist-master  x  plain worker
plain submitter x  qdist-master  x  qdist-worker
plain master    x  qdist-worker with protocol = "queue"
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from audit import causes_of_repeats, changes_of_state
from cluster import Cluster, reserve_port
from conftest import NewCluster
from interpreters import every_version, interpreter
from patience import until
from scripts import Script, numbers_put, results_got, squares
from test_programs import run

AUTHKEY = "abc"
"""The key of the original."""

Play = Callable[..., Script]
MakeCluster = Callable[..., Cluster]


@pytest.fixture
def play() -> Iterator[Play]:
    """Starts a script against an address, and ends what is left of it with the test."""
    scripts: list[Script] = []

    def start(python: str, name: str, address: str, *arguments: str, **environ: str) -> Script:
        port = address.rpartition(":")[2]
        scripts.append(Script(python, f"task_{name}.py", port, AUTHKEY, *arguments, **environ))
        return scripts[-1]

    yield start
    for script in scripts:
        script.close()


@pytest.fixture
def abc(tmp_path: Path) -> Path:
    """A file with the key of the original."""
    path = tmp_path / "abc.key"
    path.touch(mode=0o600)
    path.write_text(AUTHKEY)
    return path


@pytest.fixture
def qdist(new_cluster: NewCluster, abc: Path) -> MakeCluster:
    """Makes a qdist-master that takes the key of the original, and workers."""

    def make(workers: int = 0) -> Cluster:
        keys = {"weak": True, "work": [str(abc)], "submit": [str(abc)]}
        worker = {"key": str(abc), "weak": True}
        return new_cluster(workers=workers, master={"keys": keys}, worker={"worker": worker})

    return make


@pytest.fixture
def queue_side(new_cluster: NewCluster, abc: Path) -> Cluster:
    """A qdist-worker that looks for a plain master at the address of this cluster, where nobody listens yet."""
    worker = {"key": str(abc), "weak": True, "protocol": "queue", "processes": 2}
    cluster = new_cluster(workers=0, worker={"worker": worker})
    cluster.master.stop()
    cluster.add_worker("w1").start()
    return cluster


def all_came_back(lines: list[str]) -> bool:
    """Whether a master has got the squares of the ten numbers that it has put, in whatever order."""
    numbers = numbers_put(lines)
    return len(numbers) == 10 and sorted(results_got(lines)) == sorted(squares(numbers))


# -- the four ways


@every_version
def test_a_plain_master_and_a_plain_worker_do_the_ten_tasks(version: str, play: Play) -> None:
    python = interpreter(version)
    with reserve_port() as port:
        address = f"127.0.0.1:{port.getsockname()[1]}"
        master = play(python, "master", address)
        master.says("Try get results")
        worker = play(python, "worker", address)
        assert all_came_back(master.lines())
        assert worker.lines()[-1] == "worker exit."


@every_version
def test_a_plain_worker_does_the_ten_tasks_of_a_qdist_master(version: str, play: Play, qdist: MakeCluster) -> None:
    python, cluster = interpreter(version), qdist()
    submitter = play(python, "submitter", cluster.address)
    submitter.says("Try get results")
    worker = play(python, "worker", cluster.address)
    assert all_came_back(submitter.lines())
    assert worker.lines()[-1] == "worker exit."


@every_version
def test_a_plain_submitter_gets_its_ten_results_from_qdist_workers(
    version: str, play: Play, qdist: MakeCluster
) -> None:
    submitter = play(interpreter(version), "submitter", qdist(workers=2).address)
    assert all_came_back(submitter.lines())


@every_version
def test_a_plain_master_gets_its_ten_results_from_a_qdist_worker(version: str, play: Play, queue_side: Cluster) -> None:
    master = play(interpreter(version), "master", queue_side.address)
    assert all_came_back(master.lines())


def test_a_plain_worker_does_the_tasks_of_a_qdist_client(play: Play, qdist: MakeCluster) -> None:
    cluster = qdist()
    with cluster.client("admin") as q:
        tasks = [q.submit("square", number) for number in range(10)]
        assert play(sys.executable, "worker", cluster.address).lines()[-1] == "worker exit."
        assert [task.result(timeout=20) for task in tasks] == squares(list(range(10)))


# -- what kills the original


def test_a_task_that_a_killed_plain_worker_held_comes_back(play: Play, qdist: MakeCluster) -> None:
    cluster = qdist()
    submitter = play(sys.executable, "submitter", cluster.address)
    submitter.says("Try get results")
    victim = play(sys.executable, "worker", cluster.address, PONDER="1")
    victim.says("run task")
    victim.kill()
    play(sys.executable, "worker", cluster.address)
    assert all_came_back(submitter.lines())
    with cluster.client("admin") as q:
        assert causes_of_repeats(q, tasks=10) == {"lost": 1}


def test_a_plain_worker_that_is_killed_while_it_waits_swallows_no_task(play: Play, qdist: MakeCluster) -> None:
    cluster = qdist()
    with cluster.client("admin") as q:
        victim = play(sys.executable, "worker", cluster.address)
        until(lambda: q.status().connections == 2, "the plain worker is connected")
        victim.kill()
        submitter = play(sys.executable, "submitter", cluster.address)
        submitter.says("Try get results")
        play(sys.executable, "worker", cluster.address)
        assert all_came_back(submitter.lines())


def test_a_restart_of_the_qdist_master_between_put_and_get_loses_nothing(play: Play, qdist: MakeCluster) -> None:
    cluster = qdist()
    put = play(sys.executable, "submitter", cluster.address, "put").lines()
    _restart(cluster)
    assert play(sys.executable, "worker", cluster.address).lines()[-1] == "worker exit."
    _restart(cluster)
    got = play(sys.executable, "submitter", cluster.address, "get").lines()
    assert all_came_back(put + got)


def test_a_qdist_worker_serves_a_plain_master_each_time_it_is_started(play: Play, queue_side: Cluster) -> None:
    for _ in range(2):
        assert all_came_back(play(sys.executable, "master", queue_side.address).lines())
    assert changes_of_state(queue_side.workers[0])[:3] == ["connected", "lost", "connected"]


def test_a_qdist_worker_survives_a_plain_master_that_is_killed_in_the_middle(play: Play, queue_side: Cluster) -> None:
    victim = play(sys.executable, "master", queue_side.address)
    victim.says("Result")
    victim.kill()
    lines = play(sys.executable, "master", queue_side.address).lines()
    assert len(results_got(lines)) == 10
    assert set(results_got(lines)) <= set(squares(numbers_put(victim.heard() + lines)))


# -- the key of the original


@pytest.mark.parametrize("program", ["master", "worker"])
def test_the_key_of_the_original_is_refused_unless_weak_keys_are_allowed(
    program: str, tmp_path: Path, abc: Path
) -> None:
    file = tmp_path / f"{program}.toml"
    file.write_text(f'[keys]\nwork = ["{abc}"]\n' if program == "master" else f'[worker]\nkey = "{abc}"\n')
    refused = run(program, "-c", str(file))
    assert refused.returncode == 78
    expected = f"{abc}: holds 3 bytes; expected 32 or more; make one with `qdist key`"
    assert expected in refused.stderr and "or set weak = true on loopback" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("program", ["master", "worker"])
def test_weak_keys_are_refused_beyond_this_machine(program: str, tmp_path: Path, abc: Path) -> None:
    file = tmp_path / f"{program}.toml"
    if program == "master":
        file.write_text(f'[master]\nlisten = ["0.0.0.0:5000"]\n[keys]\nweak = true\nwork = ["{abc}"]\n')
    else:
        file.write_text(f'[worker]\nmasters = ["192.0.2.1:5000"]\nweak = true\nkey = "{abc}"\n')
    refused = run(program, "-c", str(file))
    assert refused.returncode == 78
    assert f"{file}:" in refused.stderr and "weak keys are for this machine alone" in refused.stderr


def test_a_script_with_another_key_is_turned_away_and_the_master_says_so(play: Play, cluster: Cluster) -> None:
    play(sys.executable, "worker", cluster.address).says("multiprocessing.context.AuthenticationError")
    until(lambda: "does not hold this key" in cluster.master.log, "a line in the log of the master")


def _restart(cluster: Cluster) -> None:
    cluster.master.kill()
    cluster.master.start()
