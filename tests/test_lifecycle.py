"""The rules of a task's life, read off the table."""

import random

import pytest

from qdistd import lifecycle
from qdistd.lifecycle import MOVES, Policy
from qdistd.model import Claim, Outcome, State

NOW = 1_000_000.0


def claim(**changes: int | float) -> Claim:
    fields = {
        "retries": 0,
        "backoff": 1.0,
        "failures": 0,
        "crashes": 0,
        "losses": 0,
        "cancel": 0,
        "mailbox": 0,
    } | changes
    return Claim(1, b"i" * 16, 1, "square", "default", **fields)


def after(outcome: Outcome, **changes: int | float) -> lifecycle.Next:
    return lifecycle.after(claim(**changes), outcome, Policy(crashes=3, losses=5), NOW, random.Random(1))


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("cancel", [0, 1])
@pytest.mark.parametrize("count", range(7))
def test_every_outcome_leads_where_the_table_allows(outcome: Outcome, cancel: int, count: int) -> None:
    reached = after(outcome, cancel=cancel, crashes=count, losses=count, failures=count).state
    assert reached in MOVES[State.LEASED]


@pytest.mark.parametrize(
    ("outcome", "changes", "state"),
    [
        (Outcome.SUCCEEDED, {}, State.SUCCEEDED),
        (Outcome.SUCCEEDED, {"cancel": 1}, State.SUCCEEDED),
        (Outcome.FAILED, {}, State.FAILED),
        (Outcome.FAILED, {"retries": 1}, State.SCHEDULED),
        (Outcome.FAILED, {"retries": 1, "failures": 1}, State.FAILED),
        (Outcome.FAILED, {"retries": 9, "cancel": 1}, State.CANCELLED),
        (Outcome.CRASHED, {}, State.SCHEDULED),
        (Outcome.CRASHED, {"crashes": 1}, State.SCHEDULED),
        (Outcome.CRASHED, {"crashes": 2}, State.QUARANTINED),
        (Outcome.LOST, {}, State.READY),
        (Outcome.LOST, {"losses": 4}, State.QUARANTINED),
        (Outcome.RELEASED, {"retries": 0}, State.READY),
        (Outcome.RELEASED, {"cancel": 1}, State.CANCELLED),
        (Outcome.CANCELLED, {"cancel": 1}, State.CANCELLED),
        (Outcome.CANCELLED, {}, State.READY),
        (Outcome.REJECTED, {"retries": 9}, State.FAILED),
        (Outcome.REJECTED, {"retries": 9, "cancel": 1}, State.CANCELLED),
    ],
)
def test_an_attempt_ends_as_the_rules_say(outcome: Outcome, changes: dict[str, int], state: State) -> None:
    assert after(outcome, **changes).state == state


@pytest.mark.parametrize(
    ("outcome", "spent"),
    [
        (Outcome.FAILED, (1, 0, 0)),
        (Outcome.CRASHED, (0, 1, 0)),
        (Outcome.LOST, (0, 0, 1)),
        (Outcome.RELEASED, (0, 0, 0)),
    ],
)
def test_each_cause_spends_its_own_budget(outcome: Outcome, spent: tuple[int, int, int]) -> None:
    result = after(outcome, retries=5)
    assert (result.failures, result.crashes, result.losses) == spent


def test_a_retry_waits_somewhere_below_a_cap_that_doubles() -> None:
    waits = [
        lifecycle.after(
            claim(retries=99, failures=n, backoff=2.0), Outcome.FAILED, Policy(), NOW, random.Random(s)
        ).run_at
        - NOW
        for n, s in [(0, 1), (0, 2), (4, 1), (4, 2)]
    ]
    assert 0 <= waits[0] <= 2 and 0 <= waits[1] <= 2 and waits[0] != waits[1]
    assert 0 <= waits[2] <= 32 and waits[2] > 2
    assert lifecycle.backoff(1.0, 1000, 60.0) == 60.0


@pytest.mark.parametrize(
    ("run_at", "delay", "expected"),
    [
        (0.0, 0.0, (State.READY, NOW)),
        (NOW - 5, 0.0, (State.READY, NOW)),
        (NOW + 5, 0.0, (State.SCHEDULED, NOW + 5)),
        (0.0, 9.0, (State.SCHEDULED, NOW + 9)),
        (NOW + 5, 9.0, (State.SCHEDULED, NOW + 9)),
    ],
)
def test_a_task_is_ready_once_both_its_delay_and_its_time_are_over(
    run_at: float, delay: float, expected: tuple[State, float]
) -> None:
    assert lifecycle.arrival(run_at, delay, NOW) == expected


def test_an_ended_task_only_comes_back_by_hand() -> None:
    for state in State:
        if state.final:
            assert MOVES[state] <= {State.READY, State.BLOCKED}
    assert not MOVES[State.SUCCEEDED]


def test_a_task_that_asks_for_a_retry_waits_as_long_as_it_asked_for_and_no_longer() -> None:
    asked = lifecycle.after(claim(retries=1), Outcome.FAILED, Policy(), NOW, random.Random(1), 60.0)
    assert (asked.state, asked.run_at, asked.failures) == (State.SCHEDULED, NOW + 60.0, 1)
    used_up = lifecycle.after(claim(retries=1, failures=1), Outcome.FAILED, Policy(), NOW, random.Random(1), 60.0)
    assert used_up.state is State.FAILED


@pytest.mark.parametrize("wish", [-1.0, float("nan")])
def test_what_is_no_wish_is_left_to_the_backoff(wish: float) -> None:
    reached = lifecycle.after(claim(retries=1, backoff=8.0), Outcome.FAILED, Policy(), NOW, random.Random(1), wish)
    assert NOW < reached.run_at <= NOW + 8.0


def test_a_retry_never_waits_longer_than_the_cap_of_its_task() -> None:
    reached = after(Outcome.FAILED, retries=50, failures=40, backoff=10.0, backoff_cap=12.0)
    assert NOW < reached.run_at <= NOW + 12.0
