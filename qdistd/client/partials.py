"""Partial results of a running task, as they come.

master's memory ──Show──> the latest ones, and how many there were before ──> each once, in order
"""

from collections.abc import Callable, Iterator
from typing import Any

from qdistd.call import decode_value
from qdistd.views import TaskView

SHORTEST_REST = 0.1
"""Seconds between two looks while partial results come: a person sees that as at once."""

LONGEST_REST = 2.0
"""Seconds between two looks at a task that says nothing: hundreds of lookers cost a master nothing then."""


def partials(show: Callable[[], TaskView], rest: Callable[[float], None]) -> Iterator[Any]:
    """The partial results of the task that `show` shows, until it has ended. `rest`: wait, or hear of the end."""
    attempt = told = 0
    pause = SHORTEST_REST
    while True:
        view = show()
        if view.attempt != attempt:
            attempt, told = view.attempt, 0
        new = view.partials[max(0, told - view.partials_before) :]
        told = max(told, view.partials_before + len(view.partials))
        for value in new:
            yield decode_value(value)
        if view.state.final:
            return
        pause = SHORTEST_REST if new else min(2 * pause, LONGEST_REST)
        rest(pause)
