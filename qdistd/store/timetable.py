"""How far the schedules have come, in the SQLite store."""

import sqlite3
from collections.abc import Callable
from typing import Any

from qdistd.store import ScheduleRow


class SqliteTimetable:
    """See `Timetable`. Part of one `SqliteStore`."""

    def __init__(self, db: sqlite3.Connection, change: Callable[..., list[Any]]) -> None:
        self._db = db
        self._change = change

    def rows(self) -> dict[str, ScheduleRow]:
        """See `Timetable`."""
        rows = self._db.execute("SELECT name, rule, upto, coalesce(due, 0.0), coalesce(task, x'') FROM schedule")
        return {row[0]: ScheduleRow(*row) for row in rows}

    def put(self, row: ScheduleRow) -> None:
        """See `Timetable`."""
        values = (row.name, row.rule, row.upto, row.due or None, row.task or None)
        self._change("INSERT OR REPLACE INTO schedule(name, rule, upto, due, task) VALUES(?,?,?,?,?)", values)

    def forget(self, name: str) -> None:
        """See `Timetable`."""
        self._change("DELETE FROM schedule WHERE name = ?", (name,))
