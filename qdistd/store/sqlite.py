"""The store in one SQLite file: WAL, `synchronous=FULL`, exactly one connection.

The connection holds the file exclusively, so no second process can write or checkpoint it: that is also what keeps
the WAL-reset defect of SQLite 3.7.0 – 3.51.2 out of reach (it needs two connections). Tools go through the master.
Statements run on the caller's thread; only `commit` may run on another one, while nobody else touches the store.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

from qdistd.model import Claim, Outcome, Result, State
from qdistd.store import LARGEST_LEASE, Arrival, Ending, Leased, Page, StoreBroken, StoreFull, WorkerRow, views
from qdistd.store.opening import connect
from qdistd.views import TaskView

PROMOTE_AT_ONCE = 1000
"""Scheduled tasks made ready in one transaction."""

PURGE_STRETCH = 2000
"""Rows one purge looks at, so that it never holds the store for long."""

_INSERT = """INSERT INTO task(id, name, queue, state, priority, run_at, at, payload, payload_check, timeout, retries,
backoff, key, mailbox, created) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(id) DO NOTHING"""

_CLAIM = "seq, id, attempt, name, queue, retries, backoff, failures, crashes, losses, cancel, mailbox"

_LEASE = f"""UPDATE task SET state = 2, attempt = attempt + 1, worker = ?, started = ? WHERE seq IN
(SELECT seq FROM (SELECT seq, sum(size) OVER (ORDER BY priority, seq ROWS UNBOUNDED PRECEDING) - size AS before FROM
(SELECT seq, priority, length(payload) AS size FROM task WHERE state = 1 AND queue = ? ORDER BY priority, seq LIMIT ?))
WHERE before < {LARGEST_LEASE})
RETURNING priority, {_CLAIM}, payload, timeout, payload_check"""

_END = """UPDATE task SET state = ?, run_at = coalesce(?, run_at), failures = ?, crashes = ?, losses = ?, outcome = ?,
started = ?, wall = ?, cpu = ?, rss = ?, finished = ?, value = ?, value_check = ?, output = ?, mailbox = ?
WHERE seq = ? AND attempt = ? AND state = 2"""

_KEEP_ATTEMPT = """INSERT INTO attempt SELECT seq, attempt, ?, worker, ?, ?, ?, ?, ?, ?, ? FROM task
WHERE seq = ? AND attempt = ? AND state = 2"""

_KEEP_LAST = """INSERT OR IGNORE INTO attempt SELECT seq, attempt, outcome, worker, coalesce(started, 0),
coalesce(wall, 0), coalesce(cpu, 0), coalesce(rss, 0), coalesce(value, x''), finished, output
FROM task WHERE seq = ? AND attempt > 0"""

_FRESH = """UPDATE task SET state = 1, run_at = ?, cancel = 0, failures = 0, crashes = 0, losses = 0,
finished = NULL, value = NULL, value_check = NULL, outcome = NULL, output = NULL WHERE seq = ?"""


class SqliteStore:
    """A `Store` in the file at `path` (`:memory:` for one that nothing survives)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._db = connect(path)
        self._tally: Counter[tuple[str, State]] = Counter()
        self._moved: set[tuple[str, State]] = set()
        self._load_tally()

    # -- transactions

    def begin(self) -> None:
        self._change("BEGIN IMMEDIATE")
        self._before = self._db.total_changes

    def seal(self) -> bool:
        rows = [(queue, state, self._tally[queue, state]) for queue, state in self._moved]
        self._write("INSERT OR REPLACE INTO tally(queue, state, tasks) VALUES(?,?,?)", [row for row in rows if row[2]])
        empty = [row[:2] for row in rows if not row[2]]
        self._write("DELETE FROM tally WHERE queue = ? AND state = ?", empty)
        for kind in empty:
            del self._tally[kind]
        self._moved.clear()
        return self._db.total_changes != self._before

    def commit(self) -> None:
        # SQLITE_FULL comes of writing the log, before the sync: without its last frame the transaction never was
        self._change("COMMIT")

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._moved.clear()
        self._load_tally()

    def close(self) -> None:
        self._db.close()

    # -- the life of a task

    def insert(self, arrivals: Sequence[Arrival], now: float) -> int:
        new = 0
        for kind, group in _grouped(arrivals).items():
            done = self._write(_INSERT, [_insert_row(arrival, now) for arrival in group])
            self._move(kind, done)
            new += done
        return new

    def lease(self, queue: str, count: int, worker: int, now: float) -> list[Leased]:
        rows = self._change(_LEASE, (worker, now, queue, count))
        rows.sort(key=lambda row: row[:2])  # RETURNING promises no order
        self._shift(queue, State.READY, State.LEASED, len(rows))
        return [Leased(Claim(*row[1:13]), row[13], row[14], crc32(row[13], crc32(row[2])) != row[15]) for row in rows]

    def end(self, endings: Sequence[Ending], now: float) -> int:
        again = [ending for ending in endings if not ending.next.state.final]
        self._write(_KEEP_ATTEMPT, [_attempt_row(ending, now) for ending in again])
        done = self._write(_END, [_end_row(ending, now) for ending in endings])
        if done == len(endings):
            for (queue, state), tasks in Counter([(e.claim.queue, e.next.state) for e in endings]).items():
                self._shift(queue, State.LEASED, state, tasks)
        else:
            self._recount()
        return done

    def promote(self, now: float) -> list[str]:
        rows = self._change(
            "UPDATE task SET state = 1 WHERE seq IN (SELECT seq FROM task WHERE state = 0 AND run_at <= ?"
            " ORDER BY run_at LIMIT ?) RETURNING queue",
            (now, PROMOTE_AT_ONCE),
        )
        queues = Counter(queue for (queue,) in rows)
        for queue, tasks in queues.items():
            self._shift(queue, State.SCHEDULED, State.READY, tasks)
        return list(queues)

    def realign(self, ahead: float) -> None:
        self._change("UPDATE task SET run_at = at + ? WHERE state = 0 AND attempt = 0 AND at IS NOT NULL", (ahead,))

    def latest(self) -> float:
        # `started` is the master's time while the lease runs; then it is what the clock of a worker said, and that
        # must not set this master's
        row = self._db.execute(
            "SELECT max(max(created, coalesce(finished, 0), iif(state = 2, started, 0))) FROM"
            " (SELECT created, finished, started, state FROM task ORDER BY seq DESC LIMIT ?)",
            (PROMOTE_AT_ONCE,),
        ).fetchone()
        return float(row[0] or 0.0)

    def cancel(self, ids: Iterable[bytes], now: float) -> dict[bytes, State]:
        states: dict[bytes, State] = {}
        for task_id, (seq, queue, state) in self._stands(ids):
            states[task_id] = state
            if state == State.LEASED:
                self._change("UPDATE task SET cancel = 1 WHERE seq = ?", (seq,))
            elif not state.final:
                self._change(
                    "UPDATE task SET state = 5, finished = ?, outcome = ?, value = x'' WHERE seq = ?",
                    (now, Outcome.CANCELLED, seq),
                )
                self._shift(queue, state, State.CANCELLED, 1)
                states[task_id] = State.CANCELLED
        return states

    def retry(self, ids: Iterable[bytes], now: float) -> dict[bytes, State]:
        states: dict[bytes, State] = {}
        for task_id, (seq, queue, state) in self._stands(ids):
            states[task_id] = state
            if state.final and state != State.SUCCEEDED:
                self._change(_KEEP_LAST, (seq,))
                self._change(_FRESH, (now, seq))
                self._shift(queue, state, State.READY, 1)
                states[task_id] = State.READY
        return states

    def purge(self, before: float, cursor: int) -> tuple[int, int]:
        stretch = self._db.execute(
            "SELECT seq, queue, state, state >= 3 AND finished < ? AND NOT (mailbox = 1 AND state = 3) FROM task"
            " WHERE seq > ? ORDER BY seq LIMIT ?",
            (before, cursor, PURGE_STRETCH),
        ).fetchall()
        old = [(seq,) for seq, _, _, ended in stretch if ended]
        self._write("DELETE FROM attempt WHERE seq = ?", old)
        self._write("DELETE FROM task WHERE seq = ?", old)
        for _, queue, state, ended in stretch:
            if ended:
                self._move((queue, State(state)), -1)
        return len(old), stretch[-1][0] if len(stretch) == PURGE_STRETCH else 0

    # -- reading

    def claims(self) -> list[tuple[int, Claim]]:
        rows = self._db.execute(f"SELECT worker, {_CLAIM} FROM task WHERE state = 2")
        return [(row[0], Claim(*row[1:])) for row in rows]

    def next_due(self) -> float | None:
        row = self._db.execute("SELECT min(run_at) FROM task WHERE state = 0").fetchone()
        return None if row[0] is None else float(row[0])

    def results(self, ids: Sequence[bytes]) -> tuple[list[Result], list[bytes]]:
        return views.results(self._db, ids)

    def view(self, task_id: bytes) -> TaskView | None:
        return views.task(self._db, task_id)

    def page(self, page: Page) -> tuple[list[TaskView], int]:
        return views.page(self._db, page)

    def counts(self) -> Mapping[str, Mapping[State, int]]:
        counts: dict[str, dict[State, int]] = {}
        for (queue, state), tasks in self._tally.items():
            if tasks:
                counts.setdefault(queue, {})[state] = tasks
        return counts

    def ready(self, queue: str) -> int:
        return self._tally[queue, State.READY]

    def size(self) -> int:
        pages = self._db.execute("PRAGMA page_count").fetchone()[0]
        return int(pages * self._db.execute("PRAGMA page_size").fetchone()[0])

    # -- workers

    def worker(self, worker: WorkerRow, now: float) -> int:
        self._change(
            "INSERT OR IGNORE INTO worker(token, name, host, pid, stock, since) VALUES(?,?,?,?,?,?)",
            (worker.token, worker.name, worker.host, worker.pid, worker.stock, now),
        )
        row = self._db.execute("SELECT number FROM worker WHERE token = ?", (worker.token,)).fetchone()
        return int(row[0])

    def workers(self, numbers: Iterable[int]) -> dict[int, WorkerRow]:
        found = {}
        for number in numbers:
            row = self._db.execute(
                "SELECT token, name, host, pid, stock FROM worker WHERE number = ?", (number,)
            ).fetchone()
            found[number] = WorkerRow(row[0], row[1], row[2], row[3], bool(row[4]))
        return found

    # -- the mailbox of stock clients

    def take(self) -> tuple[bytes, bytes] | None:
        rows = self._change(
            "UPDATE task SET mailbox = 2 WHERE seq = (SELECT seq FROM task WHERE mailbox = 1 AND state = 3"
            " ORDER BY finished, seq LIMIT 1) RETURNING id, value"
        )
        return rows[0] if rows else None

    def untake(self, task_id: bytes) -> None:
        self._change("UPDATE task SET mailbox = 1 WHERE id = ? AND mailbox = 2", (task_id,))

    def mailbox(self) -> int:
        rows = self._db.execute("SELECT count(*) FROM task WHERE mailbox = 1 AND state = 3")
        return int(rows.fetchone()[0])

    # -- helpers

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> int:
        if not rows:
            return 0
        try:
            return self._db.executemany(statement, rows).rowcount
        except sqlite3.OperationalError as error:
            raise self._trouble(error) from error

    def _change(self, statement: str, values: tuple[object, ...] = ()) -> list[Any]:
        """Run one statement that writes; the rows it returns."""
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise self._trouble(error) from error

    def _trouble(self, error: sqlite3.OperationalError) -> Exception:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return StoreFull(f"{self._path}: no space left for the store")
        return StoreBroken(f"{self._path}: {error}")

    def _stands(self, ids: Iterable[bytes]) -> Iterator[tuple[bytes, tuple[int, str, State]]]:
        """Where each task stands that exists: (id, (seq, queue, state))."""
        for task_id in ids:
            row = self._db.execute("SELECT seq, queue, state FROM task WHERE id = ?", (task_id,)).fetchone()
            if row:
                yield task_id, (row[0], row[1], State(row[2]))

    def _move(self, kind: tuple[str, State], tasks: int) -> None:
        self._tally[kind] += tasks
        self._moved.add(kind)

    def _shift(self, queue: str, old: State, new: State, tasks: int) -> None:
        self._move((queue, old), -tasks)
        self._move((queue, new), tasks)

    def _load_tally(self) -> None:
        rows = self._db.execute("SELECT queue, state, tasks FROM tally").fetchall()
        self._tally = Counter({(queue, State(state)): tasks for queue, state, tasks in rows})

    def _recount(self) -> None:
        """Count from the rows: only where a guard did not hold, which no single master ever sees."""
        self._db.execute("DELETE FROM tally")
        self._db.execute("INSERT INTO tally SELECT queue, state, count(*) FROM task GROUP BY queue, state")
        self._load_tally()
        self._moved.clear()


def _grouped(arrivals: Sequence[Arrival]) -> dict[tuple[str, State], list[Arrival]]:
    groups: dict[tuple[str, State], list[Arrival]] = {}
    for arrival in arrivals:
        groups.setdefault((arrival.task.queue, arrival.state), []).append(arrival)
    return groups


def _insert_row(arrival: Arrival, now: float) -> tuple[object, ...]:
    task = arrival.task
    return (
        *(task.id, task.name, task.queue, arrival.state, task.priority, arrival.run_at, task.run_at or None),
        *(task.payload, crc32(task.payload, crc32(task.id)), task.timeout, task.retries, task.backoff, task.key),
        *(task.mailbox, now),
    )


def _end_row(ending: Ending, now: float) -> tuple[object, ...]:
    claim, after = ending.claim, ending.next
    final = after.state.final
    return (
        *(after.state, None if final else after.run_at, after.failures, after.crashes, after.losses),
        ending.outcome if final else None,
        *(ending.started, ending.wall, ending.cpu, ending.rss),
        *((now, ending.value, crc32(ending.value, crc32(claim.id))) if final else (None, None, None)),
        (ending.output or None) if final else None,
        *(claim.mailbox, claim.seq, claim.attempt),
    )


def _attempt_row(ending: Ending, now: float) -> tuple[object, ...]:
    measured = (ending.outcome, ending.started, ending.wall, ending.cpu, ending.rss, ending.value)
    return (*measured, now, ending.output or None, ending.claim.seq, ending.claim.attempt)
