"""Queues are paused, workers drained, and everybody who looks sees it; what nobody can take says why."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from daemons import DEADLINE
from shell import Ran, Shell

from qdistd.cli.exits import Exit

GATES = """
import time
from pathlib import Path


def wait(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.01)
"""
"""A task that runs until a file is there."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("flow")
    folder.chmod(0o700)
    (folder / "gates.py").write_text(GATES)
    tasks = {
        "tasks": ["qdistd.tasks", "gates"],
        "path": [str(folder)],
        "queues": ["default", "mail"],
        "labels": ["ssd"],
    }
    tables = {
        "master": {"queue": {"mail": {"concurrency": 3, "rate": "100/s"}}},
        "worker": {"worker": tasks},
    }
    cluster = Cluster(folder, workers=1, **tables)
    yield cluster.start()
    cluster.close()


@pytest.fixture(scope="module")
def shell(cluster: Cluster) -> Shell:
    return Shell(cluster, "admin")


@pytest.fixture(scope="module")
def worker(shell: Shell) -> str:
    name: str = shell("workers", "--json").thing["name"]
    return name


def submitted(shell: Shell, *arguments: str) -> str:
    return shell("submit", *arguments).out.strip()


def leased(shell: Shell, *arguments: str) -> str:
    """The id of a task that a worker has begun, and that does not end by itself."""
    task_id = submitted(shell, *arguments)
    end = time.monotonic() + DEADLINE
    while shell("show", task_id, "--json").thing["state"] != "leased":
        assert time.monotonic() < end
    return task_id


def queue(shell: Shell, name: str) -> dict[str, object]:
    (found,) = (each for each in shell("queues", "--json").things if each["name"] == name)
    return dict(found)


# -- queues


def test_a_paused_queue_keeps_its_tasks_over_a_restart_until_it_is_resumed(shell: Shell, cluster: Cluster) -> None:
    assert shell("submit", "square", "7", "--queue", "mail", "--wait").out == "7 * 7 = 49\n"
    assert shell("pause", "mail") == Ran(0, "mail  paused\n", "")
    task_id = submitted(shell, "square", "8", "--queue", "mail")
    cluster.master.kill()
    cluster.master.start()
    assert queue(shell, "mail")["paused"] and queue(shell, "mail")["ready"] == 1
    assert "paused" in shell("show", "--json", task_id).thing["why"]
    for command in ("queues", "status"):
        assert "PAUSED" in shell(command).out
    assert "paused     mail\n" in shell("status").out
    assert shell("resume", "mail") == Ran(0, "mail  resumed\n", "")
    assert shell("result", task_id).out == "8 * 8 = 64\n"
    assert queue(shell, "mail")["paused"] is None and "PAUSED" not in shell("queues").out


def test_to_say_it_twice_is_no_mistake(shell: Shell, worker: str) -> None:
    for there, back, name in (("pause", "resume", "mail"), ("drain", "undrain", worker)):
        for command in (there, back):
            first, again = shell(command, name, "--json"), shell(command, name, name, "--json")
            assert (first.code, first.thing["changed"]) == (Exit.OK, True)
            assert (again.code, again.thing["changed"]) == (Exit.OK, False)
        assert shell(back, name).out.endswith(" (was so before)\n")


@pytest.mark.parametrize(("there", "back", "kind"), [("pause", "resume", "queue"), ("drain", "undrain", "worker")])
def test_what_nobody_has_heard_of_is_named_and_prepared(shell: Shell, there: str, back: str, kind: str) -> None:
    words = f"qdist: nobody has heard of a {kind} nobody so far\n"
    first = shell(there, "nobody")
    assert (first.code, first.err) == (Exit.FAILED, words) and first.out.startswith("nobody  ")
    assert shell(back, "nobody").code == Exit.OK, "it was known as what had been prepared"
    assert shell(back, "nobody").err == words


def test_only_an_administrator_may_stop_the_flow(cluster: Cluster) -> None:
    for command in ("pause", "drain"):
        ran = Shell(cluster)(command, "mail")
        assert (ran.code, ran.out) == (Exit.NOT_ALLOWED, "") and "admin" in ran.err


def test_the_limits_of_a_queue_are_shown(shell: Shell) -> None:
    submitted(shell, "square", "7", "--queue", "mail", "--wait")
    limits = queue(shell, "mail")["limits"]
    assert isinstance(limits, dict) and limits["concurrency"] == "3" and limits["rate"].startswith("100")
    assert "LIMITS" in shell("queues").out and "concurrency 3" in shell("queues").out


# -- workers


def test_a_drained_worker_ends_what_it_runs_and_gets_nothing_more(shell: Shell, worker: str, tmp_path: Path) -> None:
    running = leased(shell, "gates.wait", str(tmp_path / "gate"))
    drain = shell.start("drain", worker, "--wait")
    assert drain.stdout and drain.stdout.readline() == f"{worker}  drained\n"
    assert drain.poll() is None, "it waits for the task"
    (tmp_path / "gate").touch()
    assert drain.communicate(timeout=DEADLINE) == ("", "") and drain.returncode == Exit.OK
    assert shell("show", "--json", running).thing["state"] == "succeeded"
    waiting = submitted(shell, "square", "7")
    assert shell("show", "--json", waiting).thing["state"] == "ready"
    assert shell("workers", "--json").thing["drained"] and "drained" in shell("workers").out
    status = shell("status", "--json").thing
    assert status["drained"] == [worker] and f"drained    {worker}\n" in shell("status").out
    assert shell("undrain", worker).out == f"{worker}  undrained\n"
    assert shell("result", waiting).out == "7 * 7 = 49\n"


def test_a_host_is_drained_with_all_its_workers(shell: Shell, worker: str) -> None:
    host = shell("workers", "--json").thing["host"]
    assert shell("drain", host, "--wait", "--timeout", "20s").out == f"{host}  drained\n"
    assert shell("workers", "--json").thing["drained"]
    assert shell("undrain", host).code == Exit.OK
    assert not shell("workers", "--json").thing["drained"]


def test_a_worker_that_does_not_get_done_in_time_is_named(shell: Shell, worker: str, tmp_path: Path) -> None:
    running = leased(shell, "gates.wait", str(tmp_path / "gate"))
    ran = shell("drain", worker, "--wait", "--timeout", "0")
    assert ran.code == Exit.TIMEOUT and ran.err == f"qdist: {worker} still has 1 tasks\n"
    shell("cancel", "--wait", running)
    shell("undrain", worker)


def test_labels_are_shown(shell: Shell) -> None:
    assert shell("workers", "--json").thing["labels"] == ["ssd"]
    assert "LABELS" in shell("workers").out


# -- the Tab key


def test_queues_and_workers_are_completed(shell: Shell, worker: str) -> None:
    submitted(shell, "square", "7", "--queue", "mail", "--wait")
    for typed, completed in (
        ("qdist pause ma", "mail"),
        ("qdist submit square --queue ma", "mail"),
        ("qdist list --queue ma", "mail"),
        (f"qdist drain {worker[:4]}", worker),
    ):
        position = str(len(typed.split()) - 1)
        ran = shell(_QDIST_COMPLETE="bash_complete", COMP_WORDS=typed, COMP_CWORD=position)
        assert (ran.code, ran.out, ran.err) == (0, f"plain,{completed}\n", ""), typed


def test_without_a_master_the_tab_key_completes_nothing(shell: Shell) -> None:
    nobody = {"QDIST_MASTER": "127.0.0.1:1", "COMP_WORDS": "qdist pause ma", "COMP_CWORD": "2"}
    assert shell(_QDIST_COMPLETE="bash_complete", **nobody) == Ran(0, "\n", "")


# -- what nobody takes


def test_what_no_worker_can_take_stands_in_the_status_with_the_reason(shell: Shell) -> None:
    task_id = submitted(shell, "square", "7", "--require", "gpu", "--require", "ssd")
    (stuck,) = shell("status", "--json").thing["stuck"]
    assert (stuck["queue"], stuck["requires"], stuck["tasks"]) == ("default", ["gpu", "ssd"], 1)
    told = shell("status").out
    assert "STUCK IN" in told and "gpu, ssd" in told and stuck["reason"] in told
    assert "gpu" in shell("show", "--json", task_id).thing["why"]
    shell("cancel", task_id)
    assert shell("status", "--json").thing["stuck"] == [] and "STUCK IN" not in shell("status").out
