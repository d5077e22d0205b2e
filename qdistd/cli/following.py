"""What has happened to a task since one last looked: a line for each thing.

blocked: waits for 2 tasks
leased: attempt 1 on 1@host7
progress: [##########..........]  50 %  5 of 10, copying
partial result 3: "…"
attempt 1 failed: ValueError: …
succeeded: …
"""

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from qdistd.call import decode_value
from qdistd.cli.causes import long
from qdistd.cli.output import clean, coloured, one_line, text_of, when, write_json
from qdistd.cli.sheets import LONGEST_ARGUMENT, bar, detail_json, end_of, value_or_bytes
from qdistd.model import Progress, State
from qdistd.views import AttemptView, TaskView

_NUMBERS = re.compile(r"\d+")


class Follower:
    """Tells people. `draw` shows progress in a place of its own, or says that there is none."""

    def __init__(self, draw: Callable[[Progress | None], bool]) -> None:
        self._draw = draw
        self._stood = ""
        self._attempt = 0
        self._progress: Progress | None = None
        self._partials = 0
        self._ended: set[int] = set()

    def tell(self, task: TaskView) -> None:
        """Say what is new."""
        self._tell_ends(task.attempts[: max(0, task.attempt - 1)])
        if task.state is State.LEASED:
            self._tell_state(task)
        self._tell_progress(task)
        self._tell_partials(task)
        self._tell_ends(task.attempts)
        self._tell_state(task)
        sys.stdout.flush()

    def _tell_ends(self, attempts: Sequence[AttemptView]) -> None:
        for attempt in attempts:
            if attempt.outcome == "running" or attempt.number in self._ended:
                continue
            self._ended.add(attempt.number)
            if attempt.failure:
                click.echo(f"attempt {attempt.number} {attempt.outcome}: {long(attempt.failure)}")

    def _tell_progress(self, task: TaskView) -> None:
        if task.progress == self._progress:
            return
        self._progress = task.progress
        if not self._draw(task.progress) and task.progress:
            click.echo(f"progress: {bar(task.progress)}")

    def _tell_partials(self, task: TaskView) -> None:
        """Say those that were not said: the master has the latest ones, and how many there were before.

        It has those of an attempt that has ended for a moment longer.
        """
        if task.attempt != self._attempt:
            self._attempt, self._partials = task.attempt, 0
        first = task.partials_before + 1
        for number, value in enumerate(task.partials, first):
            if number > self._partials:
                click.echo(f"partial result {number}: {one_line(text_of(value_or_bytes(value)), LONGEST_ARGUMENT)}")
        if task.partials:
            self._partials = max(self._partials, first + len(task.partials) - 1)

    def _tell_state(self, task: TaskView) -> None:
        """Say where it stands, unless only a number in the reason is another one than before."""
        stands = ": ".join(filter(None, (coloured(task.state.word), _more_of(task))))
        alike = f"{task.attempt} {_NUMBERS.sub('', stands)}"
        if alike != self._stood:
            self._stood = alike
            click.echo(stands)


class JsonFollower:
    """Tells programs: the whole task, whenever something of it is new."""

    def __init__(self) -> None:
        self._told: dict[str, Any] = {}

    def tell(self, task: TaskView) -> None:
        """Say it if anything is new."""
        told = detail_json(task)
        if told != self._told:
            self._told = told
            write_json(told)
            sys.stdout.flush()


def _more_of(task: TaskView) -> str:
    """What there is to say beside the state."""
    if task.state is State.SUCCEEDED:
        return text_of(decode_value(task.value))
    if task.state is State.LEASED and not task.why:
        return f"attempt {task.attempt} on {clean(task.worker)}"
    if task.state is State.SCHEDULED:
        return f"{clean(task.why)}, runs {when(task.run_at)}"
    return clean(task.why) or end_of(task)
