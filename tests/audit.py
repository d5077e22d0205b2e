"""What must be true when all faults are over: every task has succeeded, each further attempt has a cause, a worker
has written one line for each change of its state, and its disk keeps nothing that the master has.
"""

import contextlib
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator

import msgspec
from cluster import Cluster
from daemons import Daemon

from qdistd import Client
from qdistd.model import Settlement, State, id_text
from qdistd.views import TaskView

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
    """How the worker says it stood with its master, line by line: "connected", "lost", "connected"…

    Without the first "no master answers", which depends on who of both was started first.
    """
    changes = CHANGES.findall(worker.log)
    return changes[1:] if changes[:1] == ["no master answers"] else changes


def spooled(cluster: Cluster, worker: Daemon) -> set[tuple[str, int]]:
    """The results that a worker keeps on its disk for a master that has not got them yet: (task id, attempt).

    The worker has its file for itself, so this looks into a copy; a copy from the middle of a write has nothing in it.
    """
    spool = cluster.folder / "worker" / worker.name / "spool.db"
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            shutil.copy(f"{spool}{suffix}", folder)
        try:
            with contextlib.closing(sqlite3.connect(f"{folder}/spool.db")) as copy:
                rows = copy.execute("SELECT body FROM unsent").fetchall()
        except sqlite3.DatabaseError:
            return set()
    kept = [msgspec.msgpack.decode(body, type=Settlement) for (body,) in rows]
    return {(id_text(settlement.id), settlement.attempt) for settlement in kept}
