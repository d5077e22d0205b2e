"""What one image of a program leaves to the next, and what becomes of it where there is no next one."""

import asyncio
import os
import resource
import subprocess
from pathlib import Path

import pytest
from conftest import NewCluster
from daemons import python

from qdistd.errors import Refused
from qdistd.succession import VARIABLE, VERSION, Estate, Succession


@pytest.fixture
def succession(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Succession:
    monkeypatch.chdir(tmp_path)
    return Succession({}, tmp_path)


def test_an_exec_that_fails_leaves_the_estate_and_its_descriptors_to_this_image(succession: Succession) -> None:
    succession.program = ["/nonexistent/python3"]
    reader, writer = os.pipe()
    before = {fd.name for fd in Path("/proc/self/fd").iterdir()}
    succession.go(Estate(b"state", [reader, writer], [(-1, {})]))
    assert {fd.name for fd in Path("/proc/self/fd").iterdir()} == before
    estate = succession.take()
    assert estate
    assert (estate.state, estate.descriptors) == (b"state", [reader, writer])
    assert estate.problem == "/nonexistent/python3 cannot be executed: No such file or directory"
    assert not os.get_inheritable(reader)
    assert succession.take() is None
    os.close(reader)
    os.close(writer)


def test_an_estate_that_cannot_even_be_written_is_left_to_this_image(succession: Succession) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        succession.go(Estate(b"state", [], [(-1, {})]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    estate = succession.take()
    assert estate
    assert estate.state == b"state"
    assert estate.problem.endswith("cannot be executed: Too many open files")


def test_an_estate_that_is_meant_for_another_process_is_left_alone(tmp_path: Path) -> None:
    environ = {VARIABLE: "1:0", "HOME": "/"}
    assert Succession(environ, tmp_path).estate is None
    assert environ == {"HOME": "/"}, "and nobody else shall find it"


def test_a_program_that_says_no_is_quoted(succession: Succession) -> None:
    for code, words in ((1, "^w1.toml:3: wrong$"), (64, "cannot go on from this one .*wrong.*: restart it instead")):
        succession.program = ["/bin/sh", "-c", f"echo 'w1.toml:3: wrong' >&2; exit {code}"]
        with pytest.raises(Refused, match=words):
            asyncio.run(succession.ask())


def test_a_worker_takes_over_from_its_own_version_alone(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    file = str(cluster.configure_worker("w1"))
    codes = {}
    for version in (VERSION, VERSION + 1):
        command = python("-m", "qdistd", "worker", "w1", "-c", file, f"--heir={version}")
        done = subprocess.run(command, capture_output=True, text=True)
        codes[version] = done.returncode, "restart it instead" in done.stderr
    assert codes == {VERSION: (0, False), VERSION + 1: (1, True)}
