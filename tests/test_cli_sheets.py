"""What `qdist show` says of a task explains every move of it: why it waits, how far it is, why an attempt ended."""

import json
from collections.abc import Callable

import pytest

from qdistd.call import encode_call, encode_failure, encode_value
from qdistd.cli.causes import cause_of
from qdistd.cli.cluster import END_STATES, OPEN_STATES
from qdistd.cli.following import Follower, JsonFollower
from qdistd.cli.sheets import bar, detail_json, write_sheet
from qdistd.cli.tasks import STATES
from qdistd.model import Failure, Outcome, Progress, State, id_text
from qdistd.views import AttemptView, TaskView

ID = bytes(15) + b"\1"
OTHER = bytes(15) + b"\2"

Sheet = Callable[..., str]


@pytest.fixture
def sheet(capsys: pytest.CaptureFixture[str]) -> Sheet:
    def show(state: State, attempt: int = 0, **fields: object) -> str:
        write_sheet(task(state, attempt, **fields))
        return capsys.readouterr().out

    return show


def task(state: State, attempt: int = 0, **fields: object) -> TaskView:
    fields = {"payload": encode_call((), {}), **fields}
    return TaskView(ID, "resize", "images", state, attempt, **fields)  # type: ignore[arg-type]


def ended(attempt: int, outcome: Outcome, kind: str, message: str = "", **more: object) -> AttemptView:
    failure = Failure(kind, message, **more)  # type: ignore[arg-type]
    return AttemptView(attempt, outcome.word, "w1@host7", "host7", 1.0, 2.0, failure=failure)


# -- why it waits


def test_a_task_that_waits_says_why(sheet: Sheet) -> None:
    told = sheet(
        State.BLOCKED,
        why="waits for 1 of the tasks that it comes after",
        after=[ID, OTHER],
        blocked_by=1,
        if_failed="run",
        requires=["gpu", "site=berlin"],
        concurrency_key="tenant-7",
        expires=4_000_000_000.0,
    )
    for words in (
        "because    waits for 1 of the tasks",
        "after      2 tasks, waits for 1 of them; if one fails: run",
        "requires   gpu, site=berlin",
        "limited by the key tenant-7",
        "expires    2096-10-02",
    ):
        assert words in told, told


def test_what_does_not_hold_is_not_said(sheet: Sheet) -> None:
    told = sheet(State.READY)
    for label in ("because", "after", "requires", "expires", "timeout", "retries", "used", "progress", "qdist retry"):
        assert label not in told


def test_limits_and_budgets_are_told_with_what_is_used_of_them(sheet: Sheet) -> None:
    told = sheet(
        State.SCHEDULED,
        2,
        timeout=90.0,
        soft_timeout=60.0,
        retries=5,
        backoff=2.0,
        backoff_cap=60.0,
        failures=2,
        crashes=1,
        losses=2,
    )
    assert "timeout    1 min 30 s, SoftTimeout after 1 min" in told
    assert "retries    5, the first after 2 s at most, none after more than 1 min" in told
    assert "used       2 of 5 retries, 1 crash, 2 lost workers" in told


# -- how far it is


@pytest.mark.parametrize(
    ("progress", "drawn"),
    [
        (Progress(5, 10, "copying"), "[##########..........]  50%  5 of 10, copying"),
        (Progress(0, 4), "[....................]   0%  0 of 4"),
        (Progress(12, 10), "[####################] 100%  12 of 10"),
        (Progress(3, 0, "files"), "3, files"),
        (Progress(-1, 10, "a\x1b[31m"), "[....................]   0%  -1 of 10, a\\x1b[31m"),
    ],
)
def test_progress_is_drawn_where_the_task_knows_the_end(progress: Progress, drawn: str) -> None:
    assert bar(progress) == drawn


def test_partial_results_are_numbered_from_the_first_there_ever_was(sheet: Sheet) -> None:
    partials = [encode_value(f"page {number}") for number in range(95, 101)]
    told = sheet(State.LEASED, 1, partials=partials, partials_before=94)
    assert "partial results (the last of 100):\n   95  page 95\n" in told and "  100  page 100\n" in told


# -- how it ended


@pytest.mark.parametrize(
    ("attempt", "cause"),
    [
        (ended(1, Outcome.FAILED, "exception", type="ValueError"), "ValueError"),
        (ended(1, Outcome.FAILED, "retry", type="Retry"), "asked for a retry"),
        (ended(1, Outcome.REJECTED, "rejected", type="Reject"), "gave up for good"),
        (ended(1, Outcome.FAILED, "timeout"), "time limit"),
        (ended(1, Outcome.FAILED, "soft-timeout", type="SoftTimeout"), "soft time limit"),
        (ended(1, Outcome.CRASHED, "exit", number=3), "exit code 3"),
        (ended(1, Outcome.CRASHED, "signal", number=11), "SIGSEGV"),
        (ended(1, Outcome.CRASHED, "signal", number=35), "signal 35"),
        (ended(1, Outcome.CRASHED, "memory", number=9), "memory limit"),
        (ended(1, Outcome.CRASHED, "oom", number=9), "no memory left (kernel)"),
        (ended(1, Outcome.LOST, "lost"), "worker lost"),
        (ended(1, Outcome.RELEASED, "stopped"), "worker stopped"),
        (ended(1, Outcome.FAILED, "too-large"), "result too large"),
        (ended(1, Outcome.FAILED, "not-found"), "not importable"),
        (ended(1, Outcome.FAILED, "not-allowed"), "not allowed there"),
        (ended(1, Outcome.FAILED, "of tomorrow"), "of tomorrow"),
        (AttemptView(1, "succeeded"), ""),
    ],
)
def test_the_cause_of_every_end_is_a_few_plain_words(attempt: AttemptView, cause: str) -> None:
    assert cause_of(attempt) == cause


def test_a_quarantined_task_shows_its_evidence_and_the_way_back(sheet: Sheet) -> None:
    attempts = [ended(number, Outcome.CRASHED, "signal", "killed by signal 11", number=11) for number in (1, 2, 3)]
    told = sheet(State.QUARANTINED, 3, attempts=attempts, crashes=3)
    assert told.count("SIGSEGV") == 6, "in the table, and in a sentence of its own for each"
    assert "used       3 crashes" in told
    assert "It ended its own process too often, and is set aside" in told
    assert f"qdist retry {id_text(ID)} brings it back with fresh budgets." in told
    assert "It was lost with its worker too often" in sheet(State.QUARANTINED, 10, losses=10)


def test_what_the_disk_has_damaged_cannot_be_retried(sheet: Sheet) -> None:
    told = sheet(State.QUARANTINED, 1, attempts=[ended(1, Outcome.FAILED, "damaged")])
    assert "it must be submitted anew" in told and "qdist retry" not in told


def test_what_ended_without_an_attempt_says_why(sheet: Sheet) -> None:
    expired = encode_failure(Failure("expired", "it had not begun within 1 h"))
    assert "because    it had not begun within 1 h\n" in sheet(State.CANCELLED, value=expired)
    failure = Failure("exception", "no", "ValueError")
    told = sheet(State.FAILED, 1, value=encode_failure(failure), attempts=[AttemptView(1, "failed", failure=failure)])
    assert "because" not in told, "the attempt has said so"


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
def test_what_has_ended_otherwise_can_be_run_again(sheet: Sheet, state: State) -> None:
    assert f"qdist retry {id_text(ID)} runs it again, with fresh budgets." in sheet(state, 1)


def test_the_keys_of_show_in_json_are_stable() -> None:
    told = detail_json(
        task(State.BLOCKED, after=[OTHER], progress=Progress(1, 0, "x"), partials=[encode_value(1), b"\xc1 no value"])
    )
    assert list(told) == [
        *("id", "task", "queue", "state", "attempt", "priority", "created", "run_at", "finished", "retries", "timeout"),
        *("key", "worker", "args", "kwargs", "why", "blocked_by", "if_failed", "requires", "concurrency_key"),
        *("soft_timeout", "backoff", "backoff_cap", "failures", "crashes", "losses", "partials_before"),
        *("expires", "after", "progress", "partials", "attempts"),
    ]
    assert told["after"] == [id_text(OTHER)] and told["expires"] is None
    assert told["progress"] == {"done": 1, "total": None, "note": "x"}
    assert told["partials"] == [1, b"\xc1 no value"]


def test_every_state_there_is_can_be_asked_for_and_is_counted() -> None:
    words = {state.word for state in State}
    assert {*STATES} == words == {*OPEN_STATES, *END_STATES}
    assert {*END_STATES} == {state.word for state in State if state.final}


# -- as it happens


def test_what_happens_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    follower = Follower(lambda _: False)
    failure = ended(1, Outcome.FAILED, "exception", "no", type="ValueError")
    partials = [encode_value("a"), encode_value("b")]
    for seen in (
        task(State.READY, why="behind 12 others"),
        task(State.READY, why="behind 7 others"),
        task(State.LEASED, 1, worker="w1@host7", attempts=[AttemptView(1, "running")]),
        task(State.LEASED, 1, worker="w1@host7", progress=Progress(1, 2), partials=partials[:1]),
        task(State.LEASED, 1, worker="w1@host7", progress=Progress(1, 2), partials=partials),
        task(State.LEASED, 1, worker="w1@host7", partials=partials[1:], partials_before=1),
        task(State.SCHEDULED, 1, why="its retry is not due", run_at=1e9, attempts=[failure]),
        task(State.LEASED, 2, worker="w2@host8", partials=partials[:1], attempts=[failure]),
        task(State.SUCCEEDED, 2, value=encode_value("done"), attempts=[failure, AttemptView(2, "succeeded")]),
    ):
        follower.tell(seen)
    assert capsys.readouterr().out.splitlines() == [
        "ready: behind 12 others",
        "leased: attempt 1 on w1@host7",
        "progress: [##########..........]  50%  1 of 2",
        "partial result 1: a",
        "partial result 2: b",
        "attempt 1 failed: ValueError: no",
        "scheduled: its retry is not due, runs 2001-09-09T01:46:40.000+00:00",
        "leased: attempt 2 on w2@host8",
        "partial result 1: a",
        "succeeded: done",
    ]


def test_for_programs_the_whole_task_is_told_when_something_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    follower = JsonFollower()
    value = encode_failure(Failure("exception", "no"))
    for seen in (task(State.READY), task(State.READY), task(State.FAILED, 1, value=value)):
        follower.tell(seen)
    states = [json.loads(line)["state"] for line in capsys.readouterr().out.splitlines()]
    assert states == ["ready", "failed"]
