"""Every rule of a task's life. Pure: `now` and randomness are arguments.

    submit ──> blocked ──others ended──┐
      │           ^ its key has no room│
      │           │                    v
      └──────> scheduled ──due──────> ready ──lease──> leased ──settle──> succeeded
                   ^                   ^                 │                failed       (rejected, retries used up)
                   └── failed, crashed: backoff ─────────┤                quarantined  (killed its process too often)
                                       └─ released, lost ┘                cancelled    (by a person, by what it comes
                                                                                       after, or it expired)

`attempt` grows with every lease and with nothing else. Budgets are kept by cause: a failure of the task costs one of
its retries, a crash and a lost worker count on their own, a release (stop, restart) costs nothing.
"""

import random

import msgspec

from qdistd.model import Claim, Next, Outcome, State

MOVES: dict[State, frozenset[State]] = {
    State.BLOCKED: frozenset({State.SCHEDULED, State.READY, State.CANCELLED}),
    State.SCHEDULED: frozenset({State.READY, State.BLOCKED, State.CANCELLED}),
    State.READY: frozenset({State.LEASED, State.CANCELLED, State.QUARANTINED}),
    State.LEASED: frozenset(State) - {State.LEASED, State.BLOCKED},
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset({State.READY, State.BLOCKED}),
    State.CANCELLED: frozenset({State.READY, State.BLOCKED}),
    State.QUARANTINED: frozenset({State.READY, State.BLOCKED}),
}
"""From each state, where a task can go in one step. Out of `FAILED`… only by a person's `retry`."""

LONGEST_BACKOFF = 3600.0
"""Seconds: the retry after a crash never waits longer than an hour, however many there were."""

LONGEST_WISH = 366 * 86400.0
"""Seconds: nobody asks in earnest for a retry in more than a year."""

CRASH_BACKOFF = 1.0
"""Seconds before a task whose process died may try again: a crash loop must not eat a machine."""


class Policy(msgspec.Struct, frozen=True):
    """Budgets that hold for every task. A task that used one up is quarantined."""

    crashes: int = 3
    """Deaths of the process under a task."""
    losses: int = 10
    """Workers that vanished with a task: most are no fault of the task, but some are."""


def arrival(run_at: float, delay: float, now: float, ahead: float = 0.0) -> tuple[State, float]:
    """State and due time of a task that arrives at `now`, by a clock that is `ahead` seconds of the wall clock.

    `run_at` is wall clock time (0: none), the due time is of the same clock as `now`.
    """
    due = max(run_at + ahead if run_at > 0 else 0.0, now + delay if delay > 0 else 0.0)
    return (State.SCHEDULED, due) if due > now else (State.READY, now)


def after(claim: Claim, outcome: Outcome, policy: Policy, now: float, rng: random.Random, wish: float = -1.0) -> Next:
    """Where the task of `claim` goes when its attempt ends with `outcome` at `now`.

    `wish`: the seconds that the task itself asked to wait before its retry (negative: it did not).
    """
    if outcome is Outcome.SUCCEEDED:
        return Next(State.SUCCEEDED, 0.0, claim.failures, claim.crashes, claim.losses)
    failures = claim.failures + (outcome in (Outcome.FAILED, Outcome.REJECTED))
    crashes = claim.crashes + (outcome == Outcome.CRASHED)
    losses = claim.losses + (outcome == Outcome.LOST)
    state, wait = _after_trouble(claim, outcome, failures, crashes, losses, policy)
    if state == State.SCHEDULED and outcome == Outcome.FAILED and wish >= 0:
        pause = min(wish, LONGEST_WISH)
    else:
        pause = rng.uniform(0, wait) if wait else 0.0
    return Next(state, now + pause, failures, crashes, losses)


def meets(if_failed: str, state: State) -> bool:
    """Whether a task need not wait any more for one that it comes after and that is in `state`."""
    return state is State.SUCCEEDED or (state.final and if_failed == "run")


def cancels(if_failed: str, state: State) -> bool:
    """Whether a task is cancelled because one that it comes after is in `state`."""
    return state.final and state is not State.SUCCEEDED and if_failed == "cancel"


def _after_trouble(
    claim: Claim, outcome: Outcome, failures: int, crashes: int, losses: int, policy: Policy
) -> tuple[State, float]:
    """State after an attempt without a result, and the most seconds to wait (full jitter is drawn from it)."""
    if claim.cancel:
        return State.CANCELLED, 0.0
    if outcome == Outcome.REJECTED:
        return State.FAILED, 0.0
    if crashes >= policy.crashes or losses >= policy.losses:
        return State.QUARANTINED, 0.0
    if outcome == Outcome.CRASHED:
        return State.SCHEDULED, backoff(CRASH_BACKOFF, crashes, LONGEST_BACKOFF)
    if outcome != Outcome.FAILED:
        return State.READY, 0.0
    if failures > claim.retries:
        return State.FAILED, 0.0
    return State.SCHEDULED, backoff(claim.backoff, failures, claim.backoff_cap)


def backoff(base: float, failures: int, cap: float) -> float:
    """The most seconds to wait before retry number `failures` (1, 2, …): it doubles up to `cap`; the wait is drawn.

    Full jitter as in "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """
    return float(min(base * 2.0 ** min(failures - 1, 40), cap))
