"""What is special about few tasks, and ties them to each other, in the SQLite store.

special   one row for each task that has anything of this: what it needs, and how many tasks it still waits for
depend    a task comes after others: one row for each, `met` (1) once that one has ended as it should; 2: a person has
          put the task back since that one ended, so only another end of it counts
held      it waits for a place of its concurrency key
identity  it may not be there twice; `alias` remembers those that were merged into it
expiry    by when it must have begun
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from zlib import crc32

import msgspec

from qdistd.model import Claim, State
from qdistd.store import Arrival, Leased
from qdistd.store.tallies import Tally
from qdistd.store.ties import Dependent

Change = Callable[..., list[Any]]
"""Runs one statement that writes; the rows it returns."""

Cancel = Callable[[int, bytes, float, bytes], None]
"""Cancels the row of a task that is queued: its number and id, when, and why."""

PLAIN, SPECIAL, KEYED = 0, 1, 2
"""What `task.special` says."""

_DEPENDENT = "task.seq, task.id, task.queue, task.run_at, if_failed, blockers, ckey"

_UNMET = """SELECT DISTINCT needs, coalesce(task.state, 3) FROM depend JOIN special USING(seq)
LEFT JOIN task ON task.id = needs WHERE met <> 1 AND (task.state IS NULL OR task.state = 3
OR (task.state BETWEEN 4 AND 6 AND (met = 0 OR if_failed = 'run')))"""
"""One that is not there any more has ended, nobody knows how: nobody waits for it."""

_ALIKE = """SELECT task.id, task.state FROM identity JOIN task USING(seq)
WHERE unique_id = ? AND state IN (%s) ORDER BY identity.seq %s LIMIT 1"""

_ALIKE_QUEUED, _ALIKE_RUNNING = _ALIKE % ("0, 1, 7", "DESC"), _ALIKE % ("0, 1, 2, 7", "ASC")

_TIDY_IDENTITY = """DELETE FROM identity WHERE unique_id = ?
AND NOT EXISTS (SELECT 1 FROM task WHERE task.seq = identity.seq AND state IN (0, 1, 2, 7))"""
"""Rows of those that have ended go when the next one like them comes."""

_HOLD = "INSERT OR IGNORE INTO held(seq, queue, ckey, priority) SELECT seq, ?, ?, priority FROM task WHERE seq = ?"

_QUEUED = frozenset({State.SCHEDULED, State.READY, State.BLOCKED})


def kind_of(arrival: Arrival) -> int:
    """What `task.special` says of it."""
    if not arrival.special:
        return PLAIN
    return KEYED if arrival.task.concurrency_key else SPECIAL


class SqliteBonds:
    """See `Bonds`. Part of one `SqliteStore`."""

    def __init__(self, db: sqlite3.Connection, tally: Tally, change: Change, cancel: Cancel) -> None:
        self._db = db
        self._tally = tally
        self._change = change
        self._cancel = cancel

    # -- what the store itself needs

    def insert(self, seq: int, arrival: Arrival) -> None:
        """Write down what is special about a new task."""
        task, expires = arrival.task, arrival.expires or None
        blockers = sum(not met for _, met in arrival.needs)
        values = (seq, task.soft_timeout, task.backoff_cap, expires, task.concurrency_key)
        places = msgspec.msgpack.encode(arrival.places) if arrival.places else None
        more = (arrival.unique_id or None, task.if_failed, task.take, blockers, places)
        self._change("INSERT INTO special VALUES(?,?,?,?,?,?,?,?,?,?)", (*values, *more))
        for position, (needs, met) in enumerate(arrival.needs):
            self._change("INSERT INTO depend(needs, seq, position, met) VALUES(?,?,?,?)", (needs, seq, position, met))
        if arrival.unique_id:
            self._change(_TIDY_IDENTITY, (arrival.unique_id,))
            self._change("INSERT INTO identity VALUES(?,?)", (arrival.unique_id, seq))
        if expires:
            self._change("INSERT INTO expiry VALUES(?,?)", (expires, seq))
        if arrival.state is State.BLOCKED and not blockers:
            self.hold(seq, task.queue, task.concurrency_key)

    def hold(self, seq: int, queue: str, key: str) -> None:
        """It waits for a place of its key, and for nothing else."""
        self._change(_HOLD, (queue, key, seq))
        self._tally.loose[queue, key] = None

    def let_go(self, seq: int) -> None:
        """It does not wait any more."""
        self._change("DELETE FROM held WHERE seq = ?", (seq,))

    def key(self, seq: int) -> str:
        """Its concurrency key."""
        row = self._db.execute("SELECT ckey FROM special WHERE seq = ?", (seq,)).fetchone()
        return str(row[0]) if row else ""

    def renew(self, seq: int) -> None:
        """It is put back to its queue by a person: it does not expire any more, and is again what others are."""
        self._change("UPDATE special SET expires = NULL WHERE seq = ?", (seq,))
        self._change("UPDATE depend SET met = 2 WHERE seq = ? AND met = 0", (seq,))
        self._change(
            "INSERT OR IGNORE INTO identity SELECT unique_id, seq FROM special WHERE seq = ? AND unique_id IS NOT NULL",
            (seq,),
        )

    def complete(self, leased: Leased) -> None:
        """Fill in what is special about a leased task."""
        leased.soft_timeout, leased.take = self.complete_claim(leased.claim)

    def complete_claim(self, claim: Claim) -> tuple[float, str]:
        """Fill in what is special about the task of a claim; its `soft_timeout` and `take`."""
        soft_timeout, take, claim.backoff_cap, claim.key = self._db.execute(
            "SELECT soft_timeout, take, backoff_cap, ckey FROM special WHERE seq = ?", (claim.seq,)
        ).fetchone()
        return soft_timeout, take

    def forget(self, seqs: Iterable[int]) -> None:
        """These tasks are about to be deleted."""
        for seq in seqs:
            self._change(
                "DELETE FROM identity WHERE seq = ?1 AND unique_id = (SELECT unique_id FROM special WHERE seq = ?1)",
                (seq,),
            )
            self._change("DELETE FROM alias WHERE into_id = (SELECT id FROM task WHERE seq = ?)", (seq,))
            for table in ("special", "depend"):
                self._change(f"DELETE FROM {table} WHERE seq = ?", (seq,))

    # -- what comes after what

    def blocked(self) -> int:
        """See `Bonds`."""
        return self._tally.totals[State.BLOCKED]

    def dependents(self, task_id: bytes, limit: int, *, succeeded: bool) -> list[Dependent]:
        """See `Bonds`."""
        rows = self._db.execute(
            f"SELECT {_DEPENDENT} FROM depend JOIN task USING(seq) JOIN special USING(seq)"
            " WHERE needs = ? AND met <> 1 AND task.state = 7 AND (? OR if_failed != 'wait') ORDER BY seq LIMIT ?",
            (task_id, succeeded, limit),
        )
        return [Dependent(*row) for row in rows]

    def meet(self, task_id: bytes, dependent: Dependent) -> None:
        """See `Bonds`."""
        self._change("UPDATE depend SET met = 1 WHERE needs = ? AND seq = ?", (task_id, dependent.seq))
        self._change("UPDATE special SET blockers = blockers - 1 WHERE seq = ?", (dependent.seq,))

    def unblock(self, dependent: Dependent, state: State) -> None:
        """See `Bonds`."""
        if state is State.READY and dependent.key:
            self.hold(dependent.seq, dependent.queue, dependent.key)
            return
        self._change("UPDATE task SET state = ? WHERE seq = ?", (state, dependent.seq))
        self._tally.shift(dependent.line, State.BLOCKED, state, 1, dependent.key)

    def unmet(self) -> list[tuple[bytes, State]]:
        """See `Bonds`."""
        rows = self._db.execute(_UNMET) if self.blocked() else ()
        return [(task_id, State(state)) for task_id, state in rows]

    def unmet_by(self, task_id: bytes) -> list[tuple[bytes, State]]:
        """See `Bonds`."""
        rows = self._db.execute(f"{_UNMET} AND depend.seq = (SELECT seq FROM task WHERE id = ?)", (task_id,))
        return [(needs, State(state)) for needs, state in rows]

    def inputs(self, seq: int) -> tuple[bytes, ...]:
        """See `Bonds`."""
        rows = self._db.execute(
            "SELECT iif(task.state = 3, task.value, x'') FROM depend LEFT JOIN task ON task.id = needs"
            " WHERE depend.seq = ? ORDER BY position",
            (seq,),
        )
        values = [value or b"" for (value,) in rows]
        (places,) = self._db.execute("SELECT places FROM special WHERE seq = ?", (seq,)).fetchone()
        return tuple(values[place] for place in msgspec.msgpack.decode(places)) if places else tuple(values)

    # -- concurrency keys

    def loosen(self, queue: str, key: str) -> None:
        """See `Bonds`."""
        self._tally.loose[queue, key] = None

    def loose(self) -> list[tuple[str, str]]:
        """See `Bonds`."""
        return self._tally.take_loose() if self._tally.loose else []

    def holding(self, queue: str, key: str) -> int:
        """See `Bonds`."""
        return self._tally.holding(queue, key)

    def admit(self, queue: str, key: str, count: int) -> int:
        """See `Bonds`."""
        rows = self._db.execute(
            "SELECT held.seq, task.queue FROM held JOIN task USING(seq) WHERE held.queue = ? AND ckey = ?"
            " ORDER BY held.priority, held.seq LIMIT ?",
            (queue, key, count),
        ).fetchall()
        for seq, line in rows:
            self._change("UPDATE task SET state = 1 WHERE seq = ?", (seq,))
            self.let_go(seq)
            self._tally.shift(line, State.BLOCKED, State.READY, 1, key)
        return len(rows)

    def held_keys(self) -> list[tuple[str, str]]:
        """See `Bonds`."""
        return self._db.execute("SELECT DISTINCT queue, ckey FROM held").fetchall() if self.blocked() else []

    # -- unique tasks

    def alike(self, unique_id: bytes, *, running: bool) -> tuple[bytes, State] | None:
        """See `Bonds`. Those that run came first, as a rule: whoever looks for one that is queued begins at the end."""
        row = self._db.execute(_ALIKE_RUNNING if running else _ALIKE_QUEUED, (unique_id,)).fetchone()
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
            "SELECT expiry.at, expiry.seq, task.id, task.queue, task.state, ckey, special.expires,"
            " failures + crashes + losses FROM expiry LEFT JOIN task USING(seq) LEFT JOIN special USING(seq)"
            " WHERE expiry.at <= ? ORDER BY expiry.at LIMIT ?",
            (now, limit),
        ).fetchall()
        queued = [row for row in rows if row[2] and State(row[4]) in _QUEUED and row[6] == row[0]]
        expired: Sequence[Any] = [row for row in queued if not row[7]]  # the others have begun, and are to be repeated
        for _, seq, task_id, line, state, key, *_ in expired:
            self._cancel(seq, task_id, now, value)
            self._tally.shift(line, State(state), State.CANCELLED, 1, key)
            self.let_go(seq)
        for at, seq, *_ in rows:
            self._change("DELETE FROM expiry WHERE at = ? AND seq = ?", (at, seq))
        return [row[2] for row in expired]

    def next_expiry(self) -> float | None:
        """See `Bonds`."""
        row = self._db.execute("SELECT min(at) FROM expiry").fetchone()
        return None if row[0] is None else float(row[0])
