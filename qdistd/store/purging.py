"""Deleting what is over, a bounded stretch at a time.

    purge    what has ended, by its end: the oldest first ──> too old, or too many ──> gone
    weed     all there is, by its arrival ──────────────────> what a person wants gone ──> gone

Two partial indexes hold what has ended in the order of its ends, so that the first walk looks at what it deletes and
at little else, however much is kept. A result that nobody has collected yet (`mailbox`) is in neither. The second walk
looks at the head of every row, until one arrived too late to have ended in time.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from qdistd.model import State
from qdistd.store import Chosen, Keep
from qdistd.store.tallies import Tally

Write = Callable[[str, Sequence[tuple[object, ...]]], int]
"""Runs one statement that writes, for each row of values; how many rows of the store it changed."""

MOST_ROWS = 100
"""Tasks deleted in one transaction, about a millisecond of work."""

MOST_BYTES = 4 * 1024 * 1024
"""Bytes of payloads and results after which a stretch ends: every page of a large one is taken in hand."""

MOST_LOOKS = 2000
"""Rows that one step for a person looks at."""

_HEAD = """seq, queue, state, length(payload) + coalesce(length(value), 0) + coalesce(length(output), 0),
EXISTS (SELECT 1 FROM depend JOIN task AS other ON other.seq = depend.seq WHERE depend.needs = task.id
AND other.state NOT IN (3, 4, 5, 6))"""

_OLD = f"""SELECT {_HEAD}, finished FROM task INDEXED BY {{index}}
WHERE {{ended}} AND (finished, seq) > (?, ?) AND finished < ? ORDER BY finished, seq LIMIT ?"""

_SUCCEEDED = _OLD.format(index="task_succeeded", ended="state = 3 AND mailbox <> 1")
_FAILED = _OLD.format(index="task_failed", ended="state IN (4, 5, 6)")

_CHOSEN = f"""SELECT {_HEAD} OR (mailbox = 1 AND state = 3), finished, name, created
FROM task WHERE seq > ? ORDER BY seq LIMIT {MOST_LOOKS}"""

_DELETES = (
    "DELETE FROM attempt WHERE seq = ?",
    "DELETE FROM depend WHERE seq = ?",
    "DELETE FROM alias WHERE into_id = (SELECT id FROM task WHERE seq = ?)",
    "DELETE FROM task WHERE seq = ?",
)
"""All there is of a task."""

_START = (0.0, 0)


class Row(NamedTuple):
    """One task that may go. `needed`: it stays for now, whoever asks."""

    seq: int
    queue: str
    state: int
    size: int
    needed: int
    finished: float


class SqliteEnds:
    """See `Ends`. Part of one `SqliteStore`."""

    def __init__(self, db: sqlite3.Connection, tally: Tally, write: Write) -> None:
        self._db = db
        self._tally = tally
        self._write = write
        self._passed = _START
        """End and `seq` of the last row that the walk has looked at: before it lies only what had to stay."""

    def purge(self, keep: Keep) -> tuple[int, bool]:
        """See `Ends`."""
        ended = sum(tasks for (_, state), tasks in self._tally.tasks.items() if state.final)
        excess = ended - keep.most if keep.most else 0
        bounds = (keep.succeeded, keep.failed) if excess <= 0 else (float("inf"), float("inf"))
        stretch = self._stretch(*bounds, MOST_ROWS if excess <= 0 else min(MOST_ROWS, excess))
        self._passed = (stretch[-1].finished, stretch[-1].seq) if stretch else _START
        return self._delete([row for row in stretch if not row.needed]), bool(stretch)

    def weed(self, chosen: Chosen, cursor: int, *, dry: bool) -> tuple[int, int]:
        """See `Ends`."""
        rows, cursor = _choose(self._db, chosen, cursor)
        return len(rows) if dry else self._delete(rows), cursor

    def _delete(self, rows: Sequence[Row]) -> int:
        for statement in _DELETES:
            self._write(statement, [(row.seq,) for row in rows])
        for (queue, state), tasks in Counter((row.queue, State(row.state)) for row in rows).items():
            self._tally.add(queue, state, -tasks)
        return len(rows)

    def _stretch(self, succeeded: float, failed: float, most: int) -> list[Row]:
        rows: list[Row] = []
        for statement, before in ((_SUCCEEDED, succeeded), (_FAILED, failed)):
            rows += map(Row._make, self._db.execute(statement, (*self._passed, before, most)))
        rows.sort(key=lambda row: (row.finished, row.seq))
        return list(_bounded(rows[:most]))


def _bounded(rows: Iterable[Row]) -> Iterator[Row]:
    size = 0
    for row in rows:
        yield row
        size += row.size
        if size > MOST_BYTES:
            return


def _choose(db: sqlite3.Connection, wish: Chosen, cursor: int) -> tuple[list[Row], int]:
    """Some tasks that a person wants gone, and where to go on (0: that was all)."""
    rows: list[Row] = []
    size = 0
    for looks, (*head, name, created) in enumerate(db.execute(_CHOSEN, (cursor,)), 1):
        if created >= wish.before:
            return rows, 0
        row = Row._make(head)
        if not row.needed and _is_chosen(row, name, wish):
            rows.append(row)
            size += row.size
        if len(rows) == MOST_ROWS or size > MOST_BYTES or looks == MOST_LOOKS:
            return rows, row.seq
    return rows, 0


def _is_chosen(row: Row, name: str, wish: Chosen) -> bool:
    if row.state not in wish.states or not State(row.state).final or row.finished >= wish.before:
        return False
    return wish.queue in ("", row.queue) and wish.name in ("", name)
