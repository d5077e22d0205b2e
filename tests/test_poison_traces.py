"""What a task changes of its child is no matter of the next one: put back, or the child goes and says why.

On a real master and a real worker of one child, without the rights to take back what needs rights.
"""

import ctypes
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CLUSTERS
from patience import until
from poison_ward import Ward

from qdistd.child.fence import CREATE_RULESET

UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
"""Root without its rights: who has given up something cannot take it back."""

FLEETING = (
    *("open_all_doors", "change_the_environment", "ignore_sigterm", "block_sigterm", "set_the_alarm"),
    *("shut_everybody_up", "write_riddles", "allow_no_depth", "forget_all_modules", "allow_less_files"),
)
"""What can be put back."""

LASTING = {
    "be_nice": "it is not as urgent as it was (nice)",
    "shut_the_descriptors_up": "its descriptors 1 and 2 are not those that they were",
    "allow_no_files": "it has lower limits than before (setrlimit)",
}
"""What cannot, and why not."""


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    ward = Ward(tmp_path_factory.mktemp("traces"), processes=1, before=UNPRIVILEGED)
    try:
        yield ward
    finally:
        ward.close()


@pytest.fixture(autouse=True)
def logs(ward: Ward, request: pytest.FixtureRequest) -> None:
    """A failing test shows the logs of the ward."""
    request.node.stash[CLUSTERS] = [ward.cluster]


def found(ward: Ward) -> tuple[int, dict[str, Any], list[str]]:
    """What a task finds: its process, the state of that, and what is heard of its words."""
    view = ward.end(handle := ward.submit("state"))
    state = handle.result(0)
    return state.pop("pid"), state, sorted(view.attempts[-1].output.decode().splitlines())


@pytest.mark.parametrize("name", FLEETING)
def test_what_a_task_has_changed_is_put_back(ward: Ward, name: str) -> None:
    before = found(ward)
    ward.result(name)
    assert found(ward) == before


def test_a_task_that_went_elsewhere_takes_nobody_with_it(ward: Ward, tmp_path: Path) -> None:
    before = found(ward)
    ward.result("go_elsewhere", str(tmp_path))
    assert found(ward) == before
    ward.result("go_where_nothing_is", str(tmp_path / "nowhere"))
    assert found(ward) == before


@pytest.mark.parametrize("name", LASTING)
def test_a_child_that_was_changed_for_good_says_why_and_goes(ward: Ward, name: str) -> None:
    pid, state, words = found(ward)
    ward.result(name)
    other, *after = found(ward)
    assert after == [state, words]
    assert other != pid
    assert f"a task has changed this child for good: {LASTING[name]}" in ward.worker.log
    assert f"child {pid}, which had no task, was not fit for another one, and ended itself" in ward.worker.log
    ward.unharmed()


# -- the worker, which is a process of the same user


def fenced() -> bool:
    """Whether this kernel can keep signals in (Landlock, version 6)."""
    return ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1) >= 6


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_task_cannot_send_signals_to_its_worker_where_the_kernel_can_see_to_that(ward: Ward, number: int) -> None:
    if fenced():
        assert ward.result("signal_the_worker", int(number)) == "refused"
    else:
        assert ward.result("signal_the_worker", 0) == "sent"
    ward.unharmed()


def test_a_task_cannot_read_the_memory_of_its_worker_there(ward: Ward) -> None:
    assert not fenced() or ward.result("read_the_worker") == "refused"


def test_a_worker_that_is_killed_takes_its_children_with_it_over_the_fence(tmp_path: Path) -> None:
    ward = Ward(tmp_path / "ward", before=UNPRIVILEGED)
    try:
        ward.submit("hang")
        until(lambda: "about to hang" in ward.worker.log, "a task that runs")
        ward.worker.kill()
        until(lambda: not ward.processes(), "an end of all children")
    finally:
        ward.close()


# -- whoever started the worker

CARELESS = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD})
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_signals_that_were_ignored_or_blocked_when_a_worker_was_started_mean_what_they_should(tmp_path: Path) -> None:
    ward = Ward(tmp_path / "ward", processes=1, before=(sys.executable, "-c", CARELESS))
    try:
        assert ward.result("state")["blocked"] == []
        failure = ward.swallow("leave", 3).attempts[-1].failure
        assert failure and (failure.kind, failure.number) == ("exit", 3)
        ward.unharmed()
    finally:
        ward.close()
