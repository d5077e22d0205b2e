"""Why an attempt ended as it did, in words for people, and what can be done about it.

Failure(kind, number, message …) ──cause_of──> "SIGSEGV", "exit code 3", "time limit"      a column of `qdist show`
TaskView ──advice──> what to do with a task that does not go on by itself
"""

import signal
from collections.abc import Iterator

from qdistd.cli.output import clean, one_line
from qdistd.model import Failure, State, id_text
from qdistd.views import AttemptView, TaskView

_WORDS = {
    "retry": "asked for a retry",
    "rejected": "gave up for good",
    "timeout": "time limit",
    "soft-timeout": "soft time limit",
    "memory": "memory limit",
    "oom": "no memory left (kernel)",
    "not-found": "not importable",
    "not-allowed": "not allowed there",
    "undecodable": "unreadable call",
    "unserializable": "result is no plain data",
    "too-large": "result too large",
    "lost": "worker lost",
    "stopped": "worker stopped",
    "cancelled": "cancelled",
    "expired": "expired",
    "damaged": "damaged on disk",
}
"""By the kind of a failure, where its number and type say no more."""


def cause_of(attempt: AttemptView) -> str:
    """What ended the attempt, in a few words; empty where nothing was wrong."""
    failure = attempt.failure
    return short(failure) if failure else ""


def short(failure: Failure) -> str:
    """A failure in a few words."""
    if failure.kind == "exit":
        return f"exit code {failure.number}"
    if failure.kind == "signal":
        return signal_name(failure.number)
    return _WORDS.get(failure.kind) or clean(failure.type or failure.kind)


def signal_name(number: int) -> str:
    """The name of a signal as kill(1) knows it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def long(failure: Failure) -> str:
    """A failure in a sentence, on one line."""
    return one_line(": ".join(filter(None, (failure.type or short(failure), failure.message))))


def used(task: TaskView) -> str:
    """What a task has used up of its budgets since somebody last gave it fresh ones."""
    retries = f"{min(task.failures, task.retries)} of {task.retries} retries" if task.retries else ""
    parts = (retries, _number(task.crashes, "crash", "crashes"), _number(task.losses, "lost worker", "lost workers"))
    return ", ".join(filter(None, parts))


def _number(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}" if number else ""


def advice(task: TaskView) -> Iterator[str]:
    """What a person can do about a task that will not go on by itself."""
    again = f"qdist retry {id_text(task.id)}"
    if any(attempt.failure and attempt.failure.kind == "damaged" for attempt in task.attempts[-1:]):
        yield "The disk has changed what was stored of it: it must be submitted anew."
    elif task.state is State.QUARANTINED:
        how = "It was lost with its worker" if task.losses > task.crashes else "It ended its own process"
        yield f"{how} too often, and is set aside: no worker gets it. How it ended stands above."
        yield f"When that is mended, {again} brings it back with fresh budgets."
    elif task.state in (State.FAILED, State.CANCELLED):
        yield f"{again} runs it again, with fresh budgets."
