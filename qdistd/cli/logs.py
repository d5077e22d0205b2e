"""`qdist logs`: what a task has printed, attempt by attempt; with -f, while it does."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from qdistd.cli.exits import Exit
from qdistd.cli.words import json_option, task_id

if TYPE_CHECKING:
    from qdistd.views import AttemptView, TaskView

PAUSE = 0.5
"""Seconds between two looks at a task that is followed: a worker speaks of its output once a second."""


@click.command("logs")
@click.argument("task", metavar="ID", type=task_id)
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended.")
@json_option
def logs_command(task: str, follow: bool, as_json: bool) -> int:
    """Print what a task has printed and logged, and how each of its attempts ended.

    Of each attempt the last 64 KiB are kept. The journal of the worker has it all: `journalctl QDIST_TASK_ID=ID`.
    """
    from qdistd.cli.context import asking
    from qdistd.model import id_from_text
    from qdistd.protocol import Show

    question = Show(id_from_text(task))
    teller = Teller(as_json)
    with asking() as ask:
        for view in _views(ask, question):
            teller.tell(view)
            if not follow:
                break
    return Exit.OK


def _views(ask: Callable[[Any], Any], question: Any) -> "Iterator[TaskView]":
    """The task again and again, until it has ended."""
    while True:
        view = ask(question)
        yield view
        if view.state.final:
            return
        time.sleep(PAUSE)


class Teller:
    """Prints of a task what it has not printed yet."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._told: dict[int, bytes] = {}
        """The output of each attempt as it was last seen."""
        self._ended: set[int] = set()

    def tell(self, task: "TaskView") -> None:
        """Say what is new."""
        for attempt in task.attempts:
            if attempt.number not in self._ended:
                self._tell_attempt(attempt)
        sys.stdout.flush()

    def _tell_attempt(self, attempt: "AttemptView") -> None:
        before = self._told.get(attempt.number)
        ended = attempt.outcome != "running"
        if self._as_json:
            self._tell_json(attempt, ended, before)
        else:
            self._tell_text(attempt, ended, before)
        self._told[attempt.number] = attempt.output
        if ended:
            self._ended.add(attempt.number)

    def _tell_text(self, attempt: "AttemptView", ended: bool, before: bytes | None) -> None:
        from qdistd.cli.output import clean, span, when

        if before is None:
            click.echo(f"--- attempt {attempt.number} on {clean(attempt.worker)}, {when(attempt.started)}")
        for line in news_of(before or b"", attempt.output).decode(errors="replace").splitlines():
            click.echo(clean(line))
        if ended:
            reason = f": {clean(attempt.failure.message)}" if attempt.failure else ""
            click.echo(f"--- {attempt.outcome} after {span(attempt.wall)}{reason}")

    def _tell_json(self, attempt: "AttemptView", ended: bool, before: bytes | None) -> None:
        from qdistd.cli.output import write_json

        news = news_of(before or b"", attempt.output)
        if news or ended or before is None:
            outcome = attempt.outcome if ended else None
            text = news.decode(errors="replace")
            write_json({"attempt": attempt.number, "worker": attempt.worker, "output": text, "outcome": outcome})


def news_of(before: bytes, now: bytes) -> bytes:
    """What `now` has that `before` has not; both are the ends of one growing text."""
    if now.startswith(before):
        return now[len(before) :]
    for at in range(len(before)):  # its beginning has been dropped meanwhile
        if now.startswith(before[at:]):
            return now[len(before) - at :]
    return now
