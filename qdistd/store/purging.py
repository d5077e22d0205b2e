"""Deleting what is over, a bounded stretch at a time.

    purge    what has ended, the oldest first ──────────────> too old, or too many ──> gone
    retire   incarnations of workers, by the first sight ───> long ago, and gone ──> gone
    weed     all there is, by its arrival ──────────────────> what a person wants gone ──> gone

Both walks look at the head of every row in the order of arrival, until one came too late to have ended in time: an
index of what has ended would make every task dearer by a third. So the first walk sees what it deletes, and what has to
stay though it is old: its master rests after that in proportion.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from qdistd.model import State
from qdistd.store import Chosen, Keep
from qdistd.store.tallies import Tally, split

Write = Callable[[str, Sequence[tuple[object, ...]]], int]
"""Runs one statement that writes, for each row of values; how many rows of the store it changed."""

MOST_ROWS = 100
"""Tasks deleted in one transaction, about a millisecond of work."""

MOST_BYTES = 4 * 1024 * 1024
"""Bytes of payloads and results after which a stretch ends: every page of a large one is taken in hand."""

NO_BOUND = 2**62
"""More tasks than there ever are."""

MOST_WORKERS = 500
"""Incarnations of workers that one step looks at: as many as come in the time until the next one, and more."""

MOST_LOOKS = 2000
"""Rows that one step for a person looks at."""

_HEAD = """seq, queue, state, length(payload) + coalesce(length(value), 0) + coalesce(length(output), 0),
EXISTS (SELECT 1 FROM depend JOIN task AS other ON other.seq = depend.seq WHERE depend.needs = task.id
AND other.state NOT IN (3, 4, 5, 6))"""

_WALK = f"""SELECT {_HEAD} OR (mailbox = 1 AND state = 3), finished, special, name, created
FROM task WHERE seq > ? ORDER BY seq LIMIT {MOST_LOOKS}"""

_WORKERS = """SELECT number, since, EXISTS (SELECT 1 FROM task WHERE worker = number AND state = 2) FROM worker
WHERE number > ? AND number < (SELECT max(number) FROM worker) ORDER BY number LIMIT ?"""
"""The newest stays: its number, and those below it, are never given to another one."""

_DELETES = ("DELETE FROM attempt WHERE seq = ?", "DELETE FROM task WHERE seq = ?")


class Row(NamedTuple):
    """One task that may go. `needed`: it stays for now, whoever asks."""

    seq: int
    queue: str
    state: int
    size: int
    needed: int
    finished: float | None
    special: int


Wanted = Callable[[Row, str], bool]
"""Whether a task that has ended is to go; the text is its name."""


class SqliteEnds:
    """See `Ends`. Part of one `SqliteStore`."""

    def __init__(
        self, db: sqlite3.Connection, tally: Tally, write: Write, forget: Callable[[Sequence[int]], None]
    ) -> None:
        self._db = db
        self._tally = tally
        self._write = write
        self._forget = forget
        self._cursor = 0
        """Where the walk of `purge` goes on."""
        self._worker_cursor = 0

    def purge(self, keep: Keep) -> tuple[int, bool]:
        """See `Ends`."""
        excess = max(0, self._tally.ended() - keep.most) if keep.most else 0
        ends = dict.fromkeys(State, keep.failed) | {State.SUCCEEDED: keep.succeeded}
        latest = float("inf") if excess else max(keep.succeeded, keep.failed)

        def old(row: Row, _: str) -> bool:
            return excess > 0 or (row.finished is not None and row.finished < ends[State(row.state)])

        rows, self._cursor = self._walk(self._cursor, latest, old, excess or NO_BOUND)
        return self._delete(rows), self._cursor > 0

    def weed(self, chosen: Chosen, cursor: int, *, dry: bool) -> tuple[int, int]:
        """See `Ends`."""
        rows, cursor = self._walk(cursor, chosen.before, lambda row, name: _is_chosen(row, name, chosen), NO_BOUND)
        return len(rows) if dry else self._delete(rows), cursor

    def retire(self, before: float, seated: Collection[int]) -> None:
        """See `Ends`."""
        rows = self._db.execute(_WORKERS, (self._worker_cursor, MOST_WORKERS)).fetchall()
        rows = [row for row in rows if row[1] < before]  # each is newer than the one before it
        gone = [(number,) for number, _, holds in rows if not holds and number not in seated]
        self._write("DELETE FROM worker WHERE number = ?", gone)
        self._worker_cursor = rows[-1][0] if len(rows) == MOST_WORKERS else 0

    def _delete(self, rows: Sequence[Row]) -> int:
        self._forget([row.seq for row in rows if row.special])
        for statement in _DELETES:
            self._write(statement, [(row.seq,) for row in rows])
        for (queue, state), tasks in Counter((row.queue, State(row.state)) for row in rows).items():
            self._tally.add(queue, state, -tasks)
        return len(rows)

    def _walk(self, cursor: int, latest: float, wanted: Wanted, most: int) -> tuple[list[Row], int]:
        """Ended tasks that are wanted, and where to go on (0: that was all). None came at `latest` or after."""
        rows: list[Row] = []
        size = 0
        for looks, (*head, name, created) in enumerate(self._db.execute(_WALK, (cursor,)), 1):
            if created >= latest:
                return rows, 0
            row = Row._make(head)
            if State(row.state).final and not row.needed and wanted(row, name):
                rows.append(row)
                size += row.size
            if len(rows) == min(most, MOST_ROWS) or size > MOST_BYTES or looks == MOST_LOOKS:
                return rows, row.seq if len(rows) < most else 0
        return rows, 0


def _is_chosen(row: Row, name: str, wish: Chosen) -> bool:
    if row.state not in wish.states or row.finished is None or row.finished >= wish.before:
        return False
    return wish.queue in ("", split(row.queue)[0]) and wish.name in ("", name)
