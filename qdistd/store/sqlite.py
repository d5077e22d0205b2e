"""The store in one SQLite file: WAL, `synchronous=FULL`, exactly one connection.

The connection holds the file exclusively, so no second process can write or checkpoint it: that is also what keeps
the WAL-reset defect of SQLite 3.7.0 – 3.51.2 out of reach (it needs two connections). Tools go through the master.
Statements run on the caller's thread; only `commit` may run on another one, while nobody else touches the store.
"""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

from qdistd.model import Claim, Outcome, Result, State
from qdistd.store import (
    LARGEST_LEASE,
    MOST_LANES,
    Arrival,
    Ending,
    Leased,
    Page,
    StoreBroken,
    StoreFull,
    WorkerRow,
    lane_of,
    shape,
    views,
)
from qdistd.store.backup import FileCopy
from qdistd.store.bonds import SqliteBonds
from qdistd.store.notes import SqliteNotes
from qdistd.store.opening import connect
from qdistd.store.purging import SqliteEnds
from qdistd.store.schema import epoch
from qdistd.store.tallies import Tally, line_of, split
from qdistd.store.timetable import SqliteTimetable
from qdistd.views import TaskView

PROMOTE_AT_ONCE = 1000
"""Scheduled tasks made ready in one transaction."""

_INSERT = """INSERT INTO task(id, name, queue, state, priority, run_at, at, payload, payload_check, timeout, retries,
backoff, key, mailbox, created, special) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(id) DO NOTHING"""

_CLAIM = "seq, id, attempt, name, queue, retries, backoff, failures, crashes, losses, cancel, mailbox"

_LINE = """SELECT * FROM (SELECT seq, priority, length(payload) AS size FROM task WHERE state = 1 AND queue = ?
ORDER BY priority, seq LIMIT ?)"""

_LEASE = f"""UPDATE task SET state = 2, attempt = attempt + 1, worker = ?, started = ? WHERE seq IN
(SELECT seq FROM (SELECT seq, sum(size) OVER (ORDER BY priority, seq ROWS UNBOUNDED PRECEDING) - size AS before FROM
(%s)) WHERE before < {LARGEST_LEASE})
RETURNING priority, {_CLAIM}, payload, timeout, payload_check, special"""

_LEASE_LINE = (
    _LEASE
    % """SELECT seq, priority, length(payload) AS size FROM task WHERE state = 1 AND queue = ?
ORDER BY priority, seq LIMIT ?"""
)

_END = """UPDATE task SET state = ?, run_at = coalesce(?, run_at), failures = ?, crashes = ?, losses = ?, outcome = ?,
started = ?, wall = ?, cpu = ?, rss = ?, finished = ?, value = ?, value_check = ?, output = ?, mailbox = ?
WHERE seq = ? AND attempt = ? AND state = 2"""

_KEEP_ATTEMPT = """INSERT INTO attempt SELECT seq, attempt, ?, worker, ?, ?, ?, ?, ?, ?, ? FROM task
WHERE seq = ? AND attempt = ? AND state = 2"""

_KEEP_LAST = """INSERT OR IGNORE INTO attempt SELECT seq, attempt, outcome, worker, coalesce(started, 0),
coalesce(wall, 0), coalesce(cpu, 0), coalesce(rss, 0), coalesce(value, x''), finished, output
FROM task WHERE seq = ? AND attempt > 0"""

_FRESH = """UPDATE task SET state = ?, run_at = ?, cancel = 0, failures = 0, crashes = 0, losses = 0,
finished = NULL, value = NULL, value_check = NULL, outcome = NULL, output = NULL WHERE seq = ?"""


class _Stand(NamedTuple):
    """Where a task is."""

    seq: int
    line: str
    state: State
    special: int
    key: str
    blockers: int


class SqliteStore:
    """A `Store` in the file at `path` (`:memory:` for one that nothing survives)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._db = connect(path)
        self.epoch = epoch(self._db)
        self._tally = Tally()
        self._load_tally()
        self.bonds = SqliteBonds(self._db, self._tally, self._change, self._cancel_row)
        self.notes = SqliteNotes(self._db, self._change)
        self.ends = SqliteEnds(self._db, self._tally, self._write, self.bonds.forget)
        self.timetable = SqliteTimetable(self._db, self._change)

    # -- transactions

    def begin(self) -> None:
        self._change("BEGIN IMMEDIATE")
        self._before = self._db.total_changes

    def seal(self) -> bool:
        changes = self._tally.changes()
        self._write("INSERT OR REPLACE INTO tally(queue, state, tasks) VALUES(?,?,?)", changes.tasks)
        self._write("DELETE FROM tally WHERE queue = ? AND state = ?", changes.no_tasks)
        self._write("INSERT OR REPLACE INTO place(queue, ckey, tasks) VALUES(?,?,?)", changes.places)
        self._write("DELETE FROM place WHERE queue = ? AND ckey = ?", changes.no_places)
        return self._db.total_changes != self._before

    def commit(self) -> None:
        # SQLITE_FULL comes of writing the log, before the sync: without its last frame the transaction never was
        self._change("COMMIT")

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._load_tally()

    def close(self) -> None:
        self._db.close()

    # -- the life of a task

    def insert(self, arrivals: Sequence[Arrival], now: float) -> int:
        new = 0
        for (queue, state), group in shape.grouped(arrivals).items():
            done = self._write(_INSERT, [shape.insert_row(arrival, now) for arrival in group])
            self._tally.add(queue, state, done)
            new += done
        return new + sum([self._insert_special(arrival, now) for arrival in arrivals if arrival.special])

    def _insert_special(self, arrival: Arrival, now: float) -> bool:
        rows = self._change(f"{_INSERT} RETURNING seq", shape.insert_row(arrival, now))
        if rows:
            task = arrival.task
            self._tally.add(line_of(task.queue, lane_of(task.requires)), arrival.state, 1, task.concurrency_key)
            self.bonds.insert(rows[0][0], arrival)
        return bool(rows)

    def lease(self, queue: str, count: int, worker: int, now: float, lanes: Sequence[str] = ("",)) -> list[Leased]:
        if len(lanes) == 1:
            rows = self._change(_LEASE_LINE, (worker, now, line_of(queue, lanes[0]), count))
        else:
            lines = " UNION ALL ".join([_LINE] * len(lanes[:MOST_LANES]))
            wanted = [value for lane in lanes[:MOST_LANES] for value in (line_of(queue, lane), count)]
            rows = self._change(_LEASE % f"{lines} ORDER BY priority, seq LIMIT ?", (worker, now, *wanted, count))
        rows.sort(key=lambda row: row[:2])  # RETURNING promises no order
        for line, tasks in Counter([row[5] for row in rows]).items():
            self._tally.shift(line, State.READY, State.LEASED, tasks)
        leased = [shape.leased(row) for row in rows]
        for one, row in zip(leased, rows, strict=True):
            if row[-1]:
                self.bonds.complete(one)
        return leased

    def unlease(self, leased: Leased) -> None:
        claim = leased.claim
        self._change("UPDATE task SET state = 1, attempt = attempt - 1 WHERE seq = ?", (claim.seq,))
        self._tally.shift(line_of(claim.queue, claim.requires), State.LEASED, State.READY, 1)

    def end(self, endings: Sequence[Ending], now: float) -> int:
        again = [ending for ending in endings if not ending.next.state.final]
        self._write(_KEEP_ATTEMPT, [shape.attempt_row(ending, now) for ending in again])
        done = self._write(_END, [shape.end_row(ending, now) for ending in endings])
        if done == len(endings):
            for (line, state, key), tasks in Counter([shape.move_of(ending) for ending in endings]).items():
                self._tally.shift(line, State.LEASED, state, tasks, key)
        else:
            self._recount()
        return done

    def promote(self, now: float) -> list[str]:
        rows = self._change(
            "UPDATE task SET state = iif(special = 2, 7, 1) WHERE seq IN (SELECT seq FROM task WHERE state = 0"
            " AND run_at <= ? ORDER BY run_at LIMIT ?) RETURNING queue, state, seq",
            (now, PROMOTE_AT_ONCE),
        )
        for (line, state), tasks in Counter([row[:2] for row in rows]).items():
            self._tally.shift(line, State.SCHEDULED, State(state), tasks)
        for line, state, seq in rows:
            if state == State.BLOCKED:
                self.bonds.hold(seq, split(line)[0], self.bonds.key(seq))
        return list({split(row[0])[0]: None for row in rows})

    def realign(self, ahead: float) -> None:
        change = "UPDATE task SET run_at = at + ? WHERE at IS NOT NULL AND attempt = 0 AND"
        self._change(f"{change} state = 0", (ahead,))
        if self.bonds.blocked():
            self._change(f"{change} state = 7 AND seq IN (SELECT seq FROM special WHERE blockers > 0)", (ahead,))

    def latest(self) -> float:
        # `started` is the master's time while the lease runs; then it is what the clock of a worker said, and that
        # must not set this master's. And no queue with a rate waits for what has begun in the future
        row = self._db.execute(
            "SELECT max(max(created, coalesce(finished, 0), iif(state = 2, started, 0))) FROM"
            " (SELECT created, finished, started, state FROM task ORDER BY seq DESC LIMIT ?)"
            " UNION ALL SELECT max(at) FROM begun",
            (PROMOTE_AT_ONCE,),
        ).fetchall()
        return max(float(latest or 0.0) for (latest,) in row)

    def cancel(self, ids: Iterable[bytes], now: float, value: bytes = b"") -> dict[bytes, State]:
        states: dict[bytes, State] = {}
        for task_id, stand in self._stands(ids):
            state = states[task_id] = stand.state
            if state == State.LEASED:
                self._change("UPDATE task SET cancel = 1 WHERE seq = ?", (stand.seq,))
            elif not state.final:
                self._cancel_row(stand.seq, task_id, now, value)
                self._tally.shift(stand.line, state, State.CANCELLED, 1, stand.key)
                if stand.special:
                    self.bonds.let_go(stand.seq)
                states[task_id] = State.CANCELLED
        return states

    def _cancel_row(self, seq: int, task_id: bytes, now: float, value: bytes) -> None:
        self._change(
            "UPDATE task SET state = 5, finished = ?, outcome = ?, value = ?, value_check = ? WHERE seq = ?",
            (now, Outcome.CANCELLED, value, crc32(value, crc32(task_id)), seq),
        )

    def retry(self, ids: Iterable[bytes], now: float) -> dict[bytes, State]:
        states: dict[bytes, State] = {}
        for task_id, stand in self._stands(ids):
            state = states[task_id] = stand.state
            if state.final and state != State.SUCCEEDED:
                states[task_id] = self._bring_back(stand, now)
        return states

    def _bring_back(self, stand: _Stand, now: float) -> State:
        state = State.BLOCKED if stand.blockers or stand.key else State.READY
        self._change(_KEEP_LAST, (stand.seq,))
        self._change(_FRESH, (state, now, stand.seq))
        self._tally.shift(stand.line, stand.state, state, 1, stand.key)
        if stand.special:
            self.bonds.renew(stand.seq)
        if stand.key and not stand.blockers:
            self.bonds.hold(stand.seq, split(stand.line)[0], stand.key)
        return state

    def states(self, ids: Iterable[bytes]) -> dict[bytes, State]:
        return {task_id: stand.state for task_id, stand in self._stands(ids)}

    def copy(self) -> FileCopy:
        return FileCopy(self._db, self._path)

    # -- reading

    def claims(self) -> list[tuple[int, Claim]]:
        rows = self._db.execute(f"SELECT worker, special, {_CLAIM} FROM task WHERE state = 2").fetchall()
        claims = [(worker, special, shape.claim(row)) for worker, special, *row in rows]
        for _, special, claim in claims:
            if special:
                self.bonds.complete_claim(claim)
        return [(worker, claim) for worker, _, claim in claims]

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
        return self._tally.counts()

    def ready(self, queue: str, labels: Collection[str] | None = None) -> int:
        return self._tally.count(queue, State.READY) if labels is None else self._tally.ready_for(queue, labels)

    def lanes(self, queue: str, labels: Collection[str]) -> Mapping[str, int]:
        return self._tally.lanes_for(queue, labels)

    def lines(self, most: int) -> Iterable[tuple[str, str, int]]:
        return self._tally.ready_lines(most)

    def count(self, queue: str, state: State) -> int:
        return self._tally.count(queue, state)

    def total(self, states: Iterable[State]) -> int:
        return sum(self._tally.totals[state] for state in states)

    def size(self) -> int:
        pages = self._db.execute("PRAGMA page_count").fetchone()[0]
        return int(pages * self._db.execute("PRAGMA page_size").fetchone()[0])

    # -- workers

    def worker(self, worker: WorkerRow, now: float) -> int:
        self._change(
            "INSERT INTO worker(token, name, host, pid, stock, since, epoch) VALUES(?,?,?,?,?,?,?)"
            " ON CONFLICT(token) DO UPDATE SET epoch = excluded.epoch WHERE epoch <> excluded.epoch",
            (worker.token, worker.name, worker.host, worker.pid, worker.stock, now, self.epoch),
        )
        row = self._db.execute("SELECT number FROM worker WHERE token = ?", (worker.token,)).fetchone()
        return int(row[0])

    def workers(self, numbers: Iterable[int]) -> dict[int, WorkerRow]:
        found = {}
        for number in numbers:
            token, name, host, pid, stock, leased_in = self._db.execute(
                "SELECT token, name, host, pid, stock, epoch FROM worker WHERE number = ?", (number,)
            ).fetchone()
            found[number] = WorkerRow(token, name, host, pid, bool(stock), former=leased_in != self.epoch)
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

    def _stands(self, ids: Iterable[bytes]) -> Iterator[tuple[bytes, _Stand]]:
        """Where each task stands that exists."""
        for task_id in ids:
            row = self._db.execute(
                "SELECT task.seq, queue, state, special, coalesce(ckey, ''), coalesce(blockers, 0) FROM task"
                " LEFT JOIN special ON special > 0 AND special.seq = task.seq WHERE id = ?",
                (task_id,),
            ).fetchone()
            if row:
                yield task_id, _Stand(row[0], row[1], State(row[2]), *row[3:])

    def _load_tally(self) -> None:
        tasks = self._db.execute("SELECT queue, state, tasks FROM tally").fetchall()
        self._tally.load(tasks, self._db.execute("SELECT queue, ckey, tasks FROM place"))

    def _recount(self) -> None:
        """Count from the rows: only where a guard did not hold, which no single master ever sees."""
        self._db.execute("DELETE FROM tally")
        self._db.execute("INSERT INTO tally SELECT queue, state, count(*) FROM task GROUP BY queue, state")
        self._db.execute("DELETE FROM place")
        self._db.execute(
            "INSERT INTO place SELECT substr(queue, 1, instr(queue || char(10), char(10)) - 1), ckey, count(*)"
            " FROM task JOIN special USING(seq)"
            " WHERE ckey <> '' AND state IN (1, 2) GROUP BY 1, 2"
        )
        self._load_tally()
