"""`qdist` follows what happens: a task until it has ended, a cancel until it is done, a cluster second by second."""

import json
import os
import pty
import re
import select
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from daemons import DEADLINE
from shell import Shell

from qdistd.cli.exits import Exit

STEPS = """
import os
import time
from pathlib import Path

import qdistd


def climb(gate: str) -> str:
    qdistd.progress(1, 4, "the first step")
    qdistd.partial({"step": 1})
    while not Path(gate).exists():
        time.sleep(0.01)
    if qdistd.current().attempt == 1:
        raise qdistd.Retry(after=0, message="slipped")
    raise qdistd.Reject("too steep")


def fall() -> None:
    os.abort()
"""
"""A task that has got somewhere and goes on when a file is there, and one that kills its process."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("live")
    folder.chmod(0o700)
    (folder / "steps.py").write_text(STEPS)
    tasks = {"tasks": ["qdistd.tasks", "operator", "time", "steps"], "path": [str(folder)]}
    cluster = Cluster(folder, workers=1, worker={"worker": tasks})
    yield cluster.start()
    cluster.close()


@pytest.fixture(scope="module")
def shell(cluster: Cluster) -> Shell:
    return Shell(cluster)


def submitted(shell: Shell, *arguments: str) -> str:
    return shell("submit", *arguments).out.strip()


def leased(shell: Shell, *arguments: str) -> str:
    """The id of a task that a worker has begun."""
    task_id = submitted(shell, *arguments)
    end = time.monotonic() + DEADLINE
    while shell("show", task_id, "--json").thing["state"] != "leased":
        assert time.monotonic() < end
    return task_id


def test_a_task_is_followed_until_it_has_ended(shell: Shell, cluster: Cluster) -> None:
    admin = Shell(cluster, "admin")
    admin("pause", "default")
    process = shell.start("show", "--follow", submitted(shell, "square", "7"))
    assert process.stdout
    assert process.stdout.readline().startswith("ready: the queue is paused")
    admin("resume", "default")
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out.splitlines()[-1], err) == (Exit.OK, "succeeded: 7 * 7 = 49", "")


def test_progress_partial_results_and_every_attempt_are_seen_live(shell: Shell, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = submitted(shell, "steps.climb", str(gate), "--retries", "5")
    process = shell.start("show", "--follow", task_id)
    assert process.stdout
    seen = [process.stdout.readline()]
    while not seen[-1].startswith("partial result"):
        assert seen[-1]
        seen.append(process.stdout.readline())
    now = shell("show", task_id)
    assert "[#####...............]  25%  1 of 4, the first step" in now.out and '  1  {"step": 1}' in now.out
    gate.touch()
    out, _ = process.communicate(timeout=DEADLINE)
    text = "".join(seen) + out
    assert process.returncode == Exit.FAILED
    for line in ("leased: attempt 1 on w1@", "progress: [#####...............]  25%  1 of 4, the first step"):
        assert line in text
    assert "slipped" in text and "attempt 2 rejected: qdistd.errors.Reject: too steep" in text, text
    told = shell("show", task_id).out
    assert "asked for a retry" in told and "gave up for good" in told and "used       2 of 5 retries" in told


def test_whoever_follows_outlasts_a_master_that_is_killed(shell: Shell, cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    process = shell.start("show", "--follow", submitted(shell, "steps.climb", str(gate)))
    assert process.stdout
    while not process.stdout.readline().startswith("partial result"):
        assert process.poll() is None
    cluster.master.kill()
    cluster.master.start()
    gate.touch()
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (Exit.FAILED, "")
    assert "slipped" in out and out.splitlines()[-1].startswith("failed")


def test_on_a_terminal_progress_is_drawn(shell: Shell, tmp_path: Path) -> None:
    task_id = submitted(shell, "steps.climb", str(tmp_path / "gate"))
    ours, theirs = pty.openpty()
    process = shell.start("show", "-f", task_id, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    until(ours, "1/4 the first step")
    (tmp_path / "gate").touch()
    until(ours, "failed")
    assert process.wait(DEADLINE) == Exit.FAILED
    os.close(ours)


def until(terminal: int, text: str) -> str:
    """What is seen on a terminal, once the text is among it."""
    seen, end = "", time.monotonic() + DEADLINE
    while text not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, seen
        seen += os.read(terminal, 65536).decode()
    return seen


def test_whoever_follows_hears_why_it_failed_and_the_exit_code_says_so(shell: Shell) -> None:
    task_id = submitted(shell, "operator.truediv", "1", "0")
    ran = shell("show", "-f", task_id)
    assert ran.code == Exit.FAILED
    assert "attempt 1 failed: ZeroDivisionError: division by zero" in ran.lines
    assert ran.lines[-1].startswith("failed")
    assert shell("show", "-f", "--json", task_id).thing["failure"]["type"] == "ZeroDivisionError"


def test_only_one_task_can_be_followed(shell: Shell) -> None:
    task_id = submitted(shell, "square", "7")
    for ids in ((task_id, task_id), ("-",)):
        ran = shell("show", "-f", *ids)
        assert ran.code == Exit.USAGE and "--follow is for one task" in ran.err


def test_a_cancel_may_be_waited_for(shell: Shell) -> None:
    running, waiting = leased(shell, "time.sleep", "60"), submitted(shell, "square", "7", "--queue", "nobody")
    ran = shell("cancel", "--wait", running, waiting)
    assert (ran.code, ran.lines) == (Exit.OK, [f"{waiting}  cancelled", f"{running}  cancelled"])
    again = shell("cancel", "--wait", running, waiting)
    assert (again.code, sorted(again.lines)) == (Exit.OK, sorted(ran.lines))


def test_a_cancel_that_is_on_its_way_is_said_to_be(shell: Shell) -> None:
    running = leased(shell, "time.sleep", "60")
    assert shell("cancel", running).out == f"{running}  leased  its worker is stopping it\n"
    assert shell("cancel", "--wait", "--json", running).thing == {"id": running, "state": "cancelled"}


def test_list_shows_what_a_worker_or_a_host_has(shell: Shell) -> None:
    running = leased(shell, "time.sleep", "60")
    (worker,) = shell("workers", "--json").things
    for name in (worker["name"], worker["host"]):
        assert shell("list", "--worker", name, "--json").thing["id"] == running
    assert shell("list", "--worker", "another").out == ""
    wrong = shell("list", "--worker", "another", "--state", "ready")
    assert wrong.code == Exit.USAGE and "leave --state out" in wrong.err
    assert shell("cancel", "--wait", running).code == Exit.OK


def test_what_is_listed_can_be_cancelled_at_once(shell: Shell) -> None:
    ids = [submitted(shell, "square", "7", "--queue", "shelf") for _ in range(3)]
    listed = shell("list", "--queue", "shelf", "--state", "ready", "--ids")
    assert listed.lines == ids[::-1]
    assert sorted(shell("cancel", "-", stdin=listed.out).lines) == sorted(f"{task_id}  cancelled" for task_id in ids)


def test_a_task_that_kills_its_process_is_set_aside_with_its_evidence_and_brought_back(shell: Shell) -> None:
    task_id = submitted(shell, "steps.fall")
    followed = shell("show", "--follow", task_id)
    assert followed.code == Exit.FAILED and followed.lines[-1].startswith("quarantined")
    told = shell("show", task_id).out
    assert told.count("crashed") == 6 and "SIGABRT" in told and "used       3 crashes" in told
    assert f"qdist retry {task_id} brings it back with fresh budgets." in told
    assert shell("retry", task_id).lines == [f"{task_id}  ready"]
    assert shell("wait", task_id).out == f"{task_id}  quarantined\n"
    attempts = shell("show", "--json", task_id).thing["attempts"]
    assert [(each["outcome"], each["failure"]["number"]) for each in attempts] == [("crashed", 6)] * 6


# -- top


def test_top_in_a_pipe_is_a_line_for_each_look(shell: Shell) -> None:
    head, *lines = shell("top", "--count", "2", "--every", "0.1").lines
    assert head.split() == ["TIME", "BLOCKED", "SCHEDULED", "READY", "LEASED", "SUBMITTED", "SETTLED"]
    assert len(lines) == 2 and all(len(line.split()) == 7 for line in lines)


def test_top_tells_what_is_done_a_second(shell: Shell) -> None:
    process = shell.start("top", "--json", "--every", "0.2")
    assert process.stdout
    first = json.loads(process.stdout.readline())
    assert (first["submitted"], first["settled"]) == (0, 0)
    shell("submit", "square", "7", "--wait")
    looks = [first]
    while not looks[-1]["queues"]["default"]:
        looks.append(json.loads(process.stdout.readline()))
    process.kill()
    process.communicate()
    assert max(look["submitted"] for look in looks) > 0 and max(look["settled"] for look in looks) > 0
    assert list(first) == [
        *("now", "blocked", "scheduled", "ready", "leased", "submitted", "settled", "queues", "workers")
    ]


def test_top_on_a_terminal_ends_with_q_and_leaves_the_terminal_as_it_was(shell: Shell) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 150))
    before = termios.tcgetattr(theirs)
    process = shell.start("top", "--every", "30s", stdin=theirs, stdout=theirs, stderr=theirs)
    seen = until(ours, "connected")
    os.write(ours, b"q")
    assert process.wait(DEADLINE) == Exit.OK
    assert termios.tcgetattr(theirs) == before
    assert re.search(r"default\W", seen) and "q ends" in seen and "SETTLED/S" in seen
    os.close(ours)
    os.close(theirs)
