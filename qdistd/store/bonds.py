"""What ties tasks to each other in the SQLite store.

depend    a task comes after others: one row for each, `met` once that one has ended as it should
ckey      a concurrency key: `blocked` without blockers waits for a place
unique_id a task that may not be there twice; `alias` remembers those that were merged into it
expires   by when a task must have begun
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

from qdistd.model import Outcome, State
from qdistd.store.tallies import Tally
from qdistd.store.ties import Dependent

Change = Callable[..., list[Any]]
"""Runs one statement that writes; the rows it returns."""

_QUEUED = "state IN (0, 1, 7)"
"""As the partial indexes have it: an index is used where the very same words stand."""

_DEPENDENT = """task.seq, task.id, task.queue, task.run_at, task.if_failed, task.blockers, task.requires, task.ckey"""

_ADMIT = """UPDATE task SET state = 1 WHERE seq IN (SELECT seq FROM task WHERE state = 7 AND blockers = 0 AND queue = ?
AND ckey = ? ORDER BY priority, seq LIMIT ?) RETURNING requires"""


class SqliteBonds:
    """See `Bonds`. Part of one `SqliteStore`."""

    def __init__(self, db: sqlite3.Connection, tally: Tally, change: Change) -> None:
        self._db = db
        self._tally = tally
        self._change = change

    # -- what comes after what

    def depend(self, seq: int, needs: Sequence[tuple[bytes, bool]]) -> None:
        """Write down what a new task comes after."""
        for position, (task_id, met) in enumerate(needs):
            self._change("INSERT INTO depend(needs, seq, position, met) VALUES(?,?,?,?)", (task_id, seq, position, met))

    def weigh(self, seq: int) -> None:
        """Note how much the results come to that a task takes along."""
        self._change(
            "UPDATE task SET inputs = (SELECT coalesce(sum(length(other.value)), 0) FROM depend JOIN task AS other"
            " ON other.id = needs WHERE depend.seq = task.seq AND other.state = 3) WHERE seq = ? AND take != ''",
            (seq,),
        )

    def blocked(self) -> int:
        """See `Bonds`."""
        return self._tally.blocked

    def dependents(self, task_id: bytes, limit: int, *, succeeded: bool) -> list[Dependent]:
        """See `Bonds`."""
        if not self._tally.blocked:
            return []
        rows = self._db.execute(
            f"SELECT {_DEPENDENT} FROM depend JOIN task USING(seq) WHERE needs = ? AND met = 0 AND task.state = 7"
            " AND (? OR task.if_failed != 'wait') ORDER BY seq LIMIT ?",
            (task_id, succeeded, limit),
        )
        return [Dependent(*row) for row in rows]

    def meet(self, task_id: bytes, dependent: Dependent) -> None:
        """See `Bonds`."""
        self._change("UPDATE depend SET met = 1 WHERE needs = ? AND seq = ?", (task_id, dependent.seq))
        self._change("UPDATE task SET blockers = blockers - 1 WHERE seq = ?", (dependent.seq,))

    def unblock(self, dependent: Dependent, state: State) -> None:
        """See `Bonds`."""
        self.weigh(dependent.seq)
        if state is State.READY and dependent.key:
            self._tally.loose[dependent.queue, dependent.key] = None
            return
        self._change("UPDATE task SET state = ? WHERE seq = ?", (state, dependent.seq))
        self._tally.shift(dependent.queue, State.BLOCKED, state, 1, dependent.requires)

    def unmet(self) -> list[tuple[bytes, State]]:
        """See `Bonds`."""
        if not self._tally.blocked:
            return []
        rows = self._db.execute(
            "SELECT DISTINCT task.id, task.state FROM depend JOIN task ON task.id = needs"
            " WHERE met = 0 AND task.state BETWEEN 3 AND 6"
        )
        return [(task_id, State(state)) for task_id, state in rows]

    def inputs(self, seq: int) -> tuple[bytes, ...]:
        """See `Bonds`."""
        rows = self._db.execute(
            "SELECT iif(task.state = 3, task.value, x'') FROM depend LEFT JOIN task ON task.id = needs"
            " WHERE depend.seq = ? ORDER BY position",
            (seq,),
        )
        return tuple(value or b"" for (value,) in rows)

    # -- concurrency keys

    def loosen(self, queue: str, key: str) -> None:
        """See `Bonds`."""
        self._tally.loose[queue, key] = None

    def loose(self) -> list[tuple[str, str]]:
        """See `Bonds`."""
        return self._tally.take_loose()

    def holding(self, queue: str, key: str) -> int:
        """See `Bonds`."""
        row = self._db.execute(
            "SELECT count(*) FROM task WHERE queue = ? AND ckey = ? AND ckey != '' AND state IN (1, 2)", (queue, key)
        ).fetchone()
        return int(row[0])

    def admit(self, queue: str, key: str, count: int) -> int:
        """See `Bonds`."""
        rows = self._change(_ADMIT, (queue, key, count))
        for (lane,) in rows:
            self._tally.shift(queue, State.BLOCKED, State.READY, 1, lane)
        return len(rows)

    def held_keys(self) -> list[tuple[str, str]]:
        """See `Bonds`."""
        if not self._tally.blocked:
            return []
        return self._db.execute("SELECT DISTINCT queue, ckey FROM task WHERE state = 7 AND blockers = 0").fetchall()

    # -- unique tasks

    def alike(self, unique_id: bytes, *, running: bool) -> tuple[bytes, State] | None:
        """See `Bonds`."""
        states = "(0, 1, 2, 7)" if running else "(0, 1, 7)"
        row = self._db.execute(
            "SELECT id, state FROM task WHERE unique_id = ? AND unique_id IS NOT NULL AND state IN (0, 1, 2, 7)"
            f" AND state IN {states} ORDER BY seq LIMIT 1",
            (unique_id,),
        ).fetchone()
        return (row[0], State(row[1])) if row else None

    def alias(self, task_id: bytes, into: bytes) -> None:
        """See `Bonds`."""
        self._change("INSERT OR IGNORE INTO alias(id, into_id) VALUES(?,?)", (task_id, into))

    def merged(self, task_id: bytes) -> bytes | None:
        """See `Bonds`."""
        row = self._db.execute("SELECT into_id FROM alias WHERE id = ?", (task_id,)).fetchone()
        return row[0] if row else None

    def coalesce(self, task_id: bytes, payload: bytes) -> None:
        """See `Bonds`."""
        check = crc32(payload, crc32(task_id))
        self._change("UPDATE task SET payload = ?, payload_check = ? WHERE id = ?", (payload, check, task_id))

    # -- what is no longer worth running

    def expire(self, now: float, limit: int, value: bytes) -> list[bytes]:
        """See `Bonds`."""
        rows = self._db.execute(
            f"SELECT seq, id, queue, state, requires, ckey FROM task WHERE expires IS NOT NULL AND {_QUEUED}"
            " AND expires <= ? ORDER BY expires LIMIT ?",
            (now, limit),
        ).fetchall()
        for seq, task_id, queue, state, lane, key in rows:
            self._change(
                "UPDATE task SET state = 5, finished = ?, outcome = ?, value = ?, value_check = ? WHERE seq = ?",
                (now, Outcome.CANCELLED, value, crc32(value, crc32(task_id)), seq),
            )
            self._tally.shift(queue, State(state), State.CANCELLED, 1, lane, key)
        return [row[1] for row in rows]

    def next_expiry(self) -> float | None:
        """See `Bonds`."""
        row = self._db.execute(f"SELECT min(expires) FROM task WHERE expires IS NOT NULL AND {_QUEUED}").fetchone()
        return None if row[0] is None else float(row[0])
