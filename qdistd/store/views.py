"""What people and waiting clients read of the SQLite store."""

import sqlite3
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec

from qdistd.call import decode_failure, encode_failure
from qdistd.errors import Malformed
from qdistd.model import BACKOFF_CAP, Failure, Outcome, Result, State
from qdistd.store import Page, labels_of
from qdistd.store.tallies import split
from qdistd.views import AttemptView, TaskView

_DAMAGED = encode_failure(
    Failure("damaged", "the stored result is not what was written: the disk or its file system has changed it")
)

_SUMMARY = """task.id, task.name, task.queue, task.state, task.attempt, task.priority, task.created, task.run_at,
task.finished, task.retries, task.timeout, task.key, worker.name"""

_MORE = "payload, coalesce(value, x'') AS value, backoff, failures, crashes, losses"

_SPECIAL = """SELECT soft_timeout, backoff_cap, coalesce(expires, 0.0) AS expires, ckey AS concurrency_key, if_failed,
iif(state = 7, blockers, 0) AS blocked_by FROM special JOIN task USING(seq) WHERE task.id = ?"""

_ATTEMPTS = """SELECT attempt.number, attempt.outcome, worker.name, worker.host, attempt.started, attempt.wall,
attempt.cpu, attempt.rss, attempt.value, attempt.output FROM task JOIN attempt USING(seq)
LEFT JOIN worker ON worker.number = attempt.worker WHERE task.id = ?1
UNION ALL
SELECT task.attempt, task.outcome, worker.name, worker.host, task.started, task.wall, task.cpu, task.rss, task.value,
task.output FROM task LEFT JOIN worker ON worker.number = task.worker WHERE task.id = ?1 AND task.attempt > 0
AND NOT EXISTS (SELECT 1 FROM attempt WHERE attempt.seq = task.seq AND attempt.number = task.attempt)
ORDER BY 1"""
"""Ended attempts, and the present or last one, which stands in the row of the task."""

_LAST = "\U0010ffff"
"""Comes after every other character."""

_FROM = "FROM task LEFT JOIN worker ON worker.number = task.worker"


def results(db: sqlite3.Connection, ids: Sequence[bytes]) -> tuple[list[Result], list[bytes]]:
    """Results of those that have ended, and the ids that no task has."""
    found: list[Result] = []
    unknown: list[bytes] = []
    for task_id in ids:
        row = db.execute("SELECT state, attempt, value, value_check FROM task WHERE id = ?", (task_id,)).fetchone()
        if row is None:
            unknown.append(task_id)
        elif State(row[0]).final:
            found.append(_result(task_id, *row))
    return found, unknown


def _result(task_id: bytes, state: int, attempt: int, value: bytes | None, check: int | None) -> Result:
    if value and check is not None and crc32(value, crc32(task_id)) != check:
        return Result(task_id, State.QUARANTINED, attempt, _DAMAGED)
    return Result(task_id, State(state), attempt, value or b"")


def task(db: sqlite3.Connection, task_id: bytes) -> TaskView | None:
    """One task with payload, value and every attempt."""
    row = db.execute(f"SELECT {_SUMMARY} {_FROM} WHERE task.id = ?", (task_id,)).fetchone()
    if row is None:
        other = db.execute("SELECT into_id FROM alias WHERE id = ?", (task_id,)).fetchone()
        return task(db, other[0]) if other else None
    after = db.execute(
        "SELECT needs FROM depend WHERE seq = (SELECT seq FROM task WHERE id = ?) ORDER BY position", (task_id,)
    )
    more = _named(db.execute(f"SELECT {_MORE} FROM task WHERE id = ?", (task_id,)))
    special = _named(db.execute(_SPECIAL, (task_id,)))
    attempts = _attempts(db, task_id)
    return msgspec.structs.replace(
        _summary(row),
        attempts=attempts,
        after=[needs for (needs,) in after],
        **({"backoff_cap": BACKOFF_CAP} | more | special),
    )


def _named(cursor: sqlite3.Cursor) -> dict[str, Any]:
    """The first row, by the names of its columns; nothing where there is none."""
    names = [column[0] for column in cursor.description]
    return dict(zip(names, cursor.fetchone() or (), strict=False))


def page(db: sqlite3.Connection, page: Page) -> tuple[list[TaskView], int]:
    """A page of tasks, newest first, and where the next one starts (0: nowhere)."""
    where, values = _where(page)
    rows = db.execute(
        f"SELECT task.seq, {_SUMMARY} {_FROM} WHERE {where} ORDER BY task.seq DESC LIMIT ?",
        (*values, page.limit),
    ).fetchall()
    return [_summary(row[1:]) for row in rows], rows[-1][0] if len(rows) == page.limit else 0


def _where(page: Page) -> tuple[str, list[object]]:
    parts: list[tuple[str, list[object]]] = [("1", [])]
    if page.before:
        parts.append(("task.seq < ?", [page.before]))
    if page.queue:
        below = f"{page.queue}\n"  # the lines of those that require labels
        parts.append(("(task.queue = ? OR (task.queue > ? AND task.queue < ?))", [page.queue, below, below + _LAST]))
    if page.name:
        parts.append(("task.name = ?", [page.name]))
    if page.states:
        parts.append((f"task.state IN ({','.join('?' * len(page.states))})", list(page.states)))
    return " AND ".join(text for text, _ in parts), [value for _, values in parts for value in values]


def _summary(row: Sequence[object]) -> TaskView:
    names = TaskView.__struct_fields__[: len(row)]
    filled = {name: value for name, value in zip(names, row, strict=True) if value is not None}
    queue, lane = split(str(filled["queue"]))
    return msgspec.convert(filled | {"queue": queue, "requires": [*labels_of(lane)]}, TaskView)


def _attempts(db: sqlite3.Connection, task_id: bytes) -> list[AttemptView]:
    rows = db.execute(_ATTEMPTS, (task_id,))
    return [_attempt(*row) for row in rows]


def _attempt(
    number: int,
    outcome: int | None,
    worker: str | None,
    host: str | None,
    started: float | None,
    wall: float | None,
    cpu: float | None,
    rss: int | None,
    value: bytes | None,
    output: bytes | None,
) -> AttemptView:
    word = "running" if outcome is None else Outcome(outcome).word
    measured = (started or 0.0, wall or 0.0, cpu or 0.0, rss or 0)
    failed = value if outcome not in (None, Outcome.SUCCEEDED) else None
    return AttemptView(
        number, word, worker or "", host or "", *measured, _failure(failed) if failed else None, output or b""
    )


def _failure(value: bytes) -> Failure:
    try:
        return decode_failure(value)
    except Malformed:  # a worker of ours does not write such a thing, but anybody with its key can
        return Failure("unreadable", "what the worker reported about this attempt cannot be read")
