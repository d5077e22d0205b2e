"""What the pool makes of the end of a task, where it has sent a SIGTERM: whom it meets is a matter of chance."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from qdistd.call import decode_failure
from qdistd.child.frames import ASKED, OUTCOME, TOLD, WAIT
from qdistd.model import Outcome
from qdistd.pool.deaths import Death, cancelled
from qdistd.pool.fate import KNOWN, NEVER, Fate

KILLED, TERMINATED = Death(-signal.SIGKILL, 0.0, 0), Death(-signal.SIGTERM, 0.0, 0)

SUCCEEDED, FAILED, CANCELLED, REJECTED = Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED, Outcome.REJECTED


@pytest.fixture
def fate() -> Iterator[Fate]:
    """Of a process that is there and does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    yield Fate(process.pid, None, 2.0)
    process.kill()
    process.wait()


def test_every_word_of_a_child_is_known_once() -> None:
    assert {SUCCEEDED, FAILED, CANCELLED, REJECTED, SUCCEEDED | TOLD, FAILED | TOLD | ASKED} <= KNOWN
    assert KNOWN.isdisjoint({Outcome.CRASHED, Outcome.LOST, Outcome.RELEASED, SUCCEEDED | ASKED, 255})


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (SUCCEEDED | TOLD, SUCCEEDED),
        (FAILED | TOLD, CANCELLED),
        (CANCELLED | TOLD, CANCELLED),
        (REJECTED | TOLD, CANCELLED),
        (CANCELLED, CANCELLED),
    ],
)
def test_the_task_that_was_to_end_is_cancelled_unless_it_has_a_result(fate: Fate, code: int, outcome: Outcome) -> None:
    fate.verdicts[1] = cancelled("first")
    fate.ask(10.0)
    assert (fate.kill_at, fate.sealed) == (12.0, True)
    assert fate.read(1, "first", code, b"")[0] is outcome
    assert fate.spare() == bool(code & TOLD)
    assert (fate.kill_at == NEVER) == bool(code & TOLD)


def test_the_next_task_that_is_met_by_a_signal_for_the_one_before_is_handed_back(fate: Fate) -> None:
    fate.verdicts[1] = cancelled("first")
    fate.ask(10.0)
    assert fate.read(1, "first", SUCCEEDED, b"value") == (SUCCEEDED, b"value", -1.0)
    assert not fate.spare()
    outcome, value, _ = fate.read(2, "second", CANCELLED | TOLD, b"")
    assert outcome is Outcome.RELEASED
    assert decode_failure(value).kind == "stopped"
    assert fate.spare()


@pytest.mark.parametrize("death", [KILLED, TERMINATED])
def test_a_child_that_dies_of_the_signal_takes_the_next_task_with_it_at_no_cost(fate: Fate, death: Death) -> None:
    fate.verdicts[1] = cancelled("first")
    fate.ask(10.0)
    fate.read(1, "first", SUCCEEDED, b"value")
    assert fate.last(2, "second", death).outcome is Outcome.RELEASED


def test_a_signal_that_nobody_has_sent_costs_a_crash(fate: Fate) -> None:
    outcome, value, _ = fate.read(1, "first", CANCELLED | TOLD, b"")
    assert (outcome, decode_failure(value).number) == (Outcome.CRASHED, signal.SIGTERM)
    assert fate.last(2, "second", TERMINATED).outcome is Outcome.CRASHED


def test_who_was_asked_is_asked_once(fate: Fate) -> None:
    for now in (10.0, 11.0):
        fate.ask(now)
    assert fate.kill_at == 12.0


def test_a_child_that_is_killed_is_never_spared(fate: Fate) -> None:
    fate.kill()
    assert not fate.spare()
    assert os.waitid(os.P_PID, fate._pid, os.WEXITED | os.WNOWAIT).si_status == signal.SIGKILL  # type: ignore[union-attr]


@pytest.mark.parametrize("told", [0, TOLD])
def test_the_wish_for_another_try_comes_with_its_time(fate: Fate, told: int) -> None:
    assert fate.read(1, "first", FAILED | ASKED | told, WAIT.pack(60.0) + b"value") == (FAILED, b"value", 60.0)


def test_an_outcome_has_room_beside_its_marks() -> None:
    assert max(Outcome) <= OUTCOME
    assert OUTCOME & (TOLD | ASKED) == TOLD & ASKED == 0
