"""`qdist demo` prints what the original script printed, and of a private master nothing stays behind."""

import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from daemons import DEADLINE
from shell import Ran, Shell

from qdistd.cli.exits import Exit


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder for the demo. Its path is short: a socket will be in it."""
    folder = Path(tempfile.mkdtemp(prefix="qdist-test-"))
    yield folder
    shutil.rmtree(folder)


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that have to do with the folder."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if str(folder) in line:
            lines.append(line)
    return lines


def is_the_original(ran: Ran) -> bool:
    put, got = ran.lines[:10], ran.lines[11:21]
    numbers = [int(re.fullmatch(r"Put task (\d+)\.\.\.", line)[1]) for line in put]  # type: ignore[index]  # or it fails
    assert ran.lines[10] == "Try get results..."
    assert sorted(got) == sorted(f"Result: {n} * {n} = {n * n}" for n in numbers)
    assert all(0 <= n <= 10_000 for n in numbers)
    return ran.lines[21] == "master exit." and ran.code == 0


def test_the_demo_runs_on_the_configured_master(cluster: Cluster) -> None:
    shell = Shell(cluster)
    ran = shell("demo")
    assert is_the_original(ran) and ran.err == ""
    assert "your own master" in ran.out
    assert len(shell("list", "--json").lines) == 10


def test_without_a_master_the_demo_brings_its_own(cluster: Cluster, folder: Path) -> None:
    ran = Shell(cluster)("demo", QDIST_MASTER="127.0.0.1:1", TMPDIR=str(folder))
    assert is_the_original(ran) and "packaging/quickstart" in ran.out
    assert "127.0.0.1:1" in ran.err and "private master" in ran.err
    assert list(folder.iterdir()) == [] and processes_of(folder) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing_behind(
    cluster: Cluster, folder: Path, number: signal.Signals, code: int
) -> None:
    shell = Shell(cluster)
    process = shell.start("demo", "--private", env=shell.environ | {"TMPDIR": str(folder)})
    assert process.stdout
    assert process.stdout.readline().startswith("Put task")
    assert len(processes_of(folder)) >= 3
    process.send_signal(number)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == code, err
    assert list(folder.iterdir()) == [] and processes_of(folder) == []


def test_a_private_cluster_that_cannot_start_says_why(cluster: Cluster, folder: Path) -> None:
    (folder / "sqlite3.py").write_text("raise ImportError('no sqlite here')")
    ran = Shell(cluster)("demo", "--private", TMPDIR=str(folder), PYTHONPATH=str(folder))
    assert (ran.code, ran.out) == (Exit.LATER, "")
    assert re.match(r"qdist: the private (master|worker-\d) ended ", ran.err), "whichever was seen first"
    assert "no sqlite here" in ran.err
