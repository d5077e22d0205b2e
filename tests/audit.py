"""What must be true when all faults are over: every task has succeeded, each further attempt has a cause, and a worker
has written one line for each change of its state.
"""

import re
from collections import Counter
from collections.abc import Iterator

from daemons import Daemon

from qdistd import Client
from qdistd.model import State, TaskView, id_text

CHANGES = re.compile(r"qdistd\.worker (no master answers|connected|lost|no master takes)")

CAUSES = frozenset({"lost", "crashed", "released", "failed"})
"""How an attempt can have ended that was not the last one."""


def every_task(q: Client) -> Iterator[TaskView]:
    """All tasks that the master has, newest first, without their attempts."""
    page = q.list(limit=1000)
    yield from page.tasks
    while page.before:
        page = q.list(limit=1000, before=page.before)
        yield from page.tasks


def causes_of_repeats(q: Client, tasks: int) -> Counter[str]:
    """How the attempts ended that were not the last of their task.

    Fails unless the master has just so many tasks, all have succeeded, and each attempt but the last one says why it
    did not.
    """
    views = list(every_task(q))
    assert len(views) == tasks, f"{tasks} tasks were submitted, the master has {len(views)}"
    assert {view.state for view in views} <= {State.SUCCEEDED}
    return Counter(cause for view in views if view.attempt > 1 for cause in _causes(q.show(id_text(view.id))))


def _causes(view: TaskView) -> list[str]:
    assert [attempt.number for attempt in view.attempts] == list(range(1, view.attempt + 1))
    *earlier, last = view.attempts
    assert (last.outcome, last.failure) == ("succeeded", None)
    for attempt in earlier:
        assert attempt.outcome in CAUSES, attempt
        assert attempt.failure and attempt.failure.message, attempt
        assert attempt.worker, attempt
    return [attempt.outcome for attempt in earlier]


def changes_of_state(worker: Daemon) -> list[str]:
    """How the worker says it stood with its master, line by line: "connected", "lost", "no master answers"…"""
    return CHANGES.findall(worker.log)
