"""What the master remembers of queues and workers in the SQLite store: what a person has switched, and when tasks
of a queue with a rate have begun."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any


class SqliteNotes:
    """See `Notes`. Part of one `SqliteStore`."""

    def __init__(self, db: sqlite3.Connection, change: Callable[..., list[Any]]) -> None:
        self._db = db
        self._change = change

    def switch(self, kind: str, name: str, since: float) -> bool:
        """See `Notes`."""
        if not since:
            return bool(self._change("DELETE FROM switch WHERE kind = ? AND name = ? RETURNING 1", (kind, name)))
        values = (kind, name, since)
        return bool(self._change("INSERT OR IGNORE INTO switch(kind, name, since) VALUES(?,?,?) RETURNING 1", values))

    def switched(self, kind: str) -> dict[str, float]:
        """See `Notes`."""
        return dict(self._db.execute("SELECT name, since FROM switch WHERE kind = ? ORDER BY name", (kind,)).fetchall())

    def begun(self, queue: str, at: float, tasks: int, before: float) -> None:
        """See `Notes`."""
        self._change("DELETE FROM begun WHERE queue = ? AND at <= ?", (queue, before))
        self._change(
            "INSERT INTO begun(queue, at, tasks) VALUES(?,?,?)"
            " ON CONFLICT DO UPDATE SET tasks = tasks + excluded.tasks",
            (queue, at, tasks),
        )

    def beginnings(self) -> Sequence[tuple[str, float, int]]:
        """See `Notes`."""
        return self._db.execute("SELECT queue, at, tasks FROM begun ORDER BY queue, at").fetchall()
