"""`qdist logs` tells what a task has printed, attempt by attempt, and while it runs."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from shell import Shell

from qdistd.cli.exits import Exit
from qdistd.cli.logs import news_of

TALKER = """
import os

def count(words, fifo=""):
    print(words)
    if fifo:
        os.close(os.open(fifo, os.O_RDONLY))  # until somebody opens the other end
    print("done")
    return 1

def fail(words):
    print(words)
    raise ValueError("no more")
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("logs")
    folder.chmod(0o700)
    (folder / "chatty.py").write_text(TALKER)
    cluster = Cluster(folder, workers=1, worker={"worker": {"tasks": ["chatty"], "path": [str(folder)]}})
    yield cluster.start()
    cluster.close()


@pytest.fixture(scope="module")
def shell(cluster: Cluster) -> Shell:
    return Shell(cluster)


def ended(shell: Shell, *arguments: str) -> str:
    task_id = shell("submit", *arguments).out.strip()
    shell("wait", task_id)
    return task_id


def test_the_story_of_a_task_has_its_words_and_its_ends(shell: Shell) -> None:
    ran = shell("logs", ended(shell, "count", "hello"))
    first, *words, last = ran.out.splitlines()
    assert ran.code == Exit.OK
    assert first.startswith("--- attempt 1 on ")
    assert words == ["hello", "done"]
    assert last.startswith("--- succeeded after ")


def test_a_failure_says_why(shell: Shell) -> None:
    last = shell("logs", ended(shell, "fail", "hello")).out.splitlines()[-1]
    assert last.startswith("--- failed after ") and last.endswith(": no more")


def test_the_sheet_of_a_task_has_its_last_words(shell: Shell) -> None:
    sheet = shell("show", ended(shell, "count", "hello")).out
    assert "attempt 1 printed:\n  hello\n  done\n" in sheet


def test_json_has_an_object_for_each_attempt(shell: Shell) -> None:
    told = json.loads(shell("logs", "--json", ended(shell, "count", "hello")).out)
    assert (told["attempt"], told["output"], told["outcome"]) == (1, "hello\ndone\n", "succeeded")


def test_who_follows_reads_the_words_while_the_task_runs(cluster: Cluster, shell: Shell, tmp_path: Path) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    task_id = shell("submit", "count", "hello", str(fifo)).out.strip()
    follower = shell.start("logs", "-f", task_id, stdout=subprocess.PIPE)
    assert follower.stdout is not None
    assert follower.stdout.readline().startswith("--- attempt 1 on ")
    assert follower.stdout.readline() == "hello\n"
    os.close(os.open(fifo, os.O_WRONLY))
    rest = follower.stdout.read().splitlines()
    assert rest[0] == "done" and rest[-1].startswith("--- succeeded after ")
    assert follower.wait() == Exit.OK


def test_a_task_that_nobody_knows_is_said_so(shell: Shell) -> None:
    ran = shell("logs", "0192f0c1-2b3c-7d4e-8f90-a1b2c3d4e5f6")
    assert ran.code == Exit.FAILED and "there is no task" in ran.err


def test_news_are_found_although_the_beginning_was_dropped() -> None:
    assert news_of(b"", b"abc") == b"abc"
    assert news_of(b"abc", b"abcde") == b"de"
    assert news_of(b"abc", b"cde") == b"de"
    assert news_of(b"abc", b"xyz") == b"xyz"
