"""What the log hears of tasks: every trouble as it comes, all the rest as numbers once a minute.

    broker ──News, after the commit──> Chronicle ──┬─ trouble ────> a line at once, with a MESSAGE_ID
                                                   ├─ each move ──> a line, at level debug only
                                                   └─ numbers ────> a summary, a minute after the first of them

A thousand tasks a second would fill a journal and its rate limit within moments, so what goes well is counted only.
"""

import asyncio
import logging
from collections import Counter

from qdistd.broker import News
from qdistd.call import decode_failure
from qdistd.errors import Malformed
from qdistd.events import Event, told
from qdistd.model import Claim, Failure, Grant, Outcome, State, Task, id_text
from qdistd.store import Ending

EVERY = 60.0
"""Seconds that one summary speaks of."""

LONGEST_REASON = 500
"""Characters of a reason in a line of the log; `qdist show` has it whole."""

TROUBLES = {
    Outcome.FAILED: (Event.TASK_RETRIED, "failed"),
    Outcome.CRASHED: (Event.TASK_CRASHED, "crashed"),
    Outcome.LOST: (Event.TASK_LOST, "was lost"),
    Outcome.REJECTED: (Event.TASK_FAILED, "was rejected by its task"),
}
"""Ends of attempts that a person hears of: the event where another attempt follows, and the verb."""


SWITCHES = {
    Event.QUEUE_PAUSED: "this queue is paused",
    Event.QUEUE_RESUMED: "this queue goes on",
    Event.WORKER_DRAINED: "this worker or host is drained",
    Event.WORKER_UNDRAINED: "this worker or host gets tasks again",
}
"""What a person has done, in words."""


class Chronicle:
    """`tell` it nothing that could still be rolled back."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: logging.Logger) -> None:
        self._loop = loop
        self._log = log
        self._counts: Counter[str] = Counter()
        self._complained = float("-inf")
        """When it was last said that tasks are refused."""
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, news: News) -> None:
        """Write down what a transaction has done."""
        self._count("submitted", news.new)
        for event, name in news.switched:
            self._log.warning("%s: %s", name, SWITCHES[event], extra=told(event, NAME=name))
        if news.overloaded and self._loop.time() >= self._complained + EVERY:
            self._complained = self._loop.time()
            self._log.warning("tasks are refused: %s", news.overloaded, extra=told(Event.OVERLOADED))
        for worker, endings in news.ended:
            for ending in endings:
                self._count(ending.outcome.word)
                if ending.outcome in TROUBLES:
                    self._complain(worker, ending)
        if self._log.isEnabledFor(logging.DEBUG):
            self._retell(news)

    def _retell(self, news: News) -> None:
        """Every move of every task."""
        for task in news.submitted:
            self._move(task, "", 0, "was submitted")
        for worker, grants in news.leased:
            for grant in grants:
                self._move(grant, worker, grant.attempt, f"was leased to {worker}")
        for worker, endings in news.ended:
            for ending in endings:
                self._move(ending.claim, worker, ending.claim.attempt, ending.outcome.word)

    def _move(self, task: Task | Grant | Claim, worker: str, attempt: int, words: str) -> None:
        text = f"attempt {attempt} {words}" if attempt else words
        extra = {"qdist": _names(task, worker, attempt)}
        self._log.debug("task %s %s: %s", task.name, id_text(task.id), text, extra=extra)

    def close(self) -> None:
        """Say what has not been said."""
        if self._timer is not None:
            self._timer.cancel()
            self._sum_up()

    def _count(self, word: str, number: int = 1) -> None:
        if not number:
            return
        self._counts[word] += number
        if self._timer is None:
            self._timer = self._loop.call_later(EVERY, self._sum_up)

    def _sum_up(self) -> None:
        self._timer = None
        numbers, self._counts = self._counts, Counter()
        words = ", ".join(f"{number:,} {word}" for word, number in numbers.items())
        extra = told(Event.SUMMARY, **{word.upper(): number for word, number in numbers.items()})
        self._log.info("within %g seconds: %s", EVERY, words, extra=extra)

    def _complain(self, worker: str, ending: Ending) -> None:
        claim, after = ending.claim, ending.next
        event, verb = TROUBLES[ending.outcome]
        failure = _failure(ending.value)
        if after.state is State.QUARANTINED:
            level, event, outlook = logging.ERROR, Event.TASK_QUARANTINED, "it is quarantined (`qdist retry` frees it)"
        elif after.state.final:
            level, event, outlook = logging.WARNING, Event.TASK_FAILED, f"it has {after.state.word}"
        else:
            level, outlook = logging.WARNING, "it will run again"
        extra = told(event, **_names(claim, worker, claim.attempt), CAUSE=failure.kind, ERROR_TYPE=failure.type)
        values = claim.name, id_text(claim.id), claim.attempt, verb, f" on {worker}" if worker else ""
        self._log.log(level, "task %s %s: attempt %d %s%s: %s; %s", *values, _reason(failure), outlook, extra=extra)


def _failure(value: bytes) -> Failure:
    try:
        return decode_failure(value)
    except Malformed:
        return Failure("unreadable", "what the worker said of it cannot be read")


def _reason(failure: Failure) -> str:
    text = " ".join(f"{failure.type}: {failure.message}".removeprefix(": ").split())
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"


def _names(task: Task | Grant | Claim, worker: str, attempt: int) -> dict[str, object]:
    names: dict[str, object] = {"TASK_ID": id_text(task.id), "TASK": task.name, "QUEUE": task.queue}
    if worker:
        names |= {"WORKER": worker, "ATTEMPT": attempt}
    return names
