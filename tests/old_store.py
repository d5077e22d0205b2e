"""A store as the version before wrote it: schema version 2, with tasks in every state. Frozen: never to be changed.

    write(path, tasks=5000)         closed in order, all in the file
    names of tasks: what they are ("ready", "leased"…), so that a test finds them

Times are seconds after `NOW`. Worker 1 (`TOKEN`) holds what is leased.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

NOW = 1_000_000.0
TOKEN = b"o" * 16
OUTPUT = b"a line\n"

SCHEMA = """
CREATE TABLE worker(
    number INTEGER PRIMARY KEY,
    token BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    stock INTEGER NOT NULL,
    since REAL NOT NULL
) STRICT;

CREATE TABLE task(
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    queue TEXT NOT NULL,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    run_at REAL NOT NULL,
    at REAL,  -- the time of day that a person asked for; `run_at` is the same moment by the master's clock
    payload BLOB NOT NULL,
    payload_check INTEGER NOT NULL,
    timeout REAL NOT NULL,
    retries INTEGER NOT NULL,
    backoff REAL NOT NULL,
    key TEXT NOT NULL,
    mailbox INTEGER NOT NULL,
    created REAL NOT NULL,
    cancel INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    worker INTEGER,
    outcome INTEGER,
    started REAL,
    finished REAL,
    wall REAL,
    cpu REAL,
    rss INTEGER,
    value BLOB,
    value_check INTEGER
) STRICT;

CREATE INDEX task_ready ON task(queue, priority, seq) WHERE state = 1;
CREATE INDEX task_scheduled ON task(run_at) WHERE state = 0;
CREATE INDEX task_leased ON task(worker) WHERE state = 2;
CREATE INDEX task_mailbox ON task(finished, seq) WHERE mailbox = 1 AND state = 3;

CREATE TABLE attempt(
    seq INTEGER NOT NULL,
    number INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    worker INTEGER,
    started REAL NOT NULL,
    wall REAL NOT NULL,
    cpu REAL NOT NULL,
    rss INTEGER NOT NULL,
    value BLOB NOT NULL,
    ended REAL NOT NULL,
    PRIMARY KEY(seq, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE tally(
    queue TEXT NOT NULL,
    state INTEGER NOT NULL,
    tasks INTEGER NOT NULL,
    PRIMARY KEY(queue, state)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 1;
PRAGMA application_id = 0x71646973;

ALTER TABLE task ADD COLUMN output BLOB;  -- of the last attempt that ended; NULL where it has printed nothing
ALTER TABLE attempt ADD COLUMN output BLOB;
PRAGMA user_version = 2;
"""

FAILURE = msgspec.msgpack.encode({"kind": "exception", "message": "no", "type": "ValueError", "traceback": ""})

_BEGUN = {"attempt": 1, "worker": 1, "started": NOW - 20}
_ENDED = {"wall": 1.5, "cpu": 0.5, "rss": 2048, "output": OUTPUT, "finished": NOW - 10} | _BEGUN

KINDS: dict[str, dict[str, Any]] = {
    "ready": {"state": 1},
    "urgent": {"state": 1, "priority": -5},
    "delayed": {"state": 0, "run_at": NOW + 100},
    "timed": {"state": 0, "run_at": NOW + 200, "at": NOW + 200},
    "leased": {"state": 2} | _BEGUN,
    "cancelling": {"state": 2, "cancel": 1} | _BEGUN,
    "retrying": {"state": 0, "run_at": NOW + 50, "failures": 1} | _BEGUN,
    "back": {"state": 1, "losses": 1} | _BEGUN,
    "succeeded": {"state": 3, "outcome": 0, "value": b"\x80\x04K1."} | _ENDED,
    "mailed": {"state": 3, "outcome": 0, "mailbox": 1, "value": b"\x80\x04K1."} | _ENDED,
    "failed": {"state": 4, "outcome": 1, "failures": 2, "value": FAILURE} | _ENDED | {"attempt": 2},
    "cancelled": {"state": 5, "finished": NOW - 10, "value": b""},
    "quarantined": {"state": 6, "outcome": 2, "crashes": 2, "value": FAILURE} | _ENDED | {"attempt": 2},
}
"""The columns of a task that are not as those of a new one."""

STATE_OF = {kind: columns["state"] for kind, columns in KINDS.items()}
EARLIER = {"retrying": 1, "back": 1, "failed": 1, "quarantined": 1}
"""Attempts of a kind that stand in the table of attempts."""

_OUTCOME = {"retrying": 1, "back": 4, "failed": 1, "quarantined": 2}


def id_of(kind: str, number: int) -> bytes:
    """The id of a task."""
    return hashlib.blake2b(f"{kind} {number}".encode(), digest_size=16).digest()


def payload_of(number: int) -> bytes:
    """The payload of a task."""
    return b"payload %d" % number


def write(path: Path, tasks: int = 1300) -> None:
    """Write the store: so many tasks, the kinds in turn, in the queues "default" and "other"."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(f"BEGIN; {SCHEMA} COMMIT;")
        db.execute("BEGIN")
        db.execute("INSERT INTO worker VALUES(1, ?, 'w1@host', 'host', 42, 0, ?)", (TOKEN, NOW - 1000))
        rows = list(_rows(tasks))
        names = ", ".join(rows[0])
        marks = ", ".join("?" * len(rows[0]))
        db.executemany(f"INSERT INTO task({names}) VALUES({marks})", [tuple(row.values()) for row in rows])
        earlier = [row for row in rows if row["name"] in EARLIER]
        attempts = [
            (row["seq"], 1, _OUTCOME[row["name"]], 1, NOW - 90, 2.5, 0.5, 1024, FAILURE, NOW - 80, OUTPUT)
            for row in earlier
        ]
        db.executemany("INSERT INTO attempt VALUES(?,?,?,?,?,?,?,?,?,?,?)", attempts)
        tally = Counter((row["queue"], row["state"]) for row in rows)
        db.executemany("INSERT INTO tally VALUES(?,?,?)", [(*key, count) for key, count in tally.items()])
        db.execute("COMMIT")


def kinds(tasks: int) -> Iterator[tuple[str, int]]:
    """What `write` writes: kind and number of each task."""
    names = list(KINDS)
    for number in range(tasks):
        yield names[number % len(names)], number


def queue_of(number: int) -> str:
    """The queue of a task."""
    return "other" if number % 5 == 4 else "default"


def _rows(tasks: int) -> Iterator[dict[str, Any]]:
    for kind, number in kinds(tasks):
        task_id, payload = id_of(kind, number), payload_of(number)
        row: dict[str, Any] = {
            "seq": number + 1,
            "id": task_id,
            "name": kind,
            "queue": queue_of(number),
            "priority": 0,
            "run_at": NOW - 100,
            "at": None,
            "payload": payload,
            "payload_check": crc32(payload, crc32(task_id)),
            "timeout": 9.0,
            "retries": 3,
            "backoff": 2.0,
            "key": "",
            "mailbox": 0,
            "created": NOW - 100,
            **dict.fromkeys(("cancel", "attempt", "failures", "crashes", "losses"), 0),
            **dict.fromkeys(("worker", "outcome", "started", "finished", "wall", "cpu", "rss", "value", "output")),
            **KINDS[kind],
        }
        value = row["value"]
        yield row | {"value_check": None if value is None else crc32(value, crc32(task_id))}


SPOOL = """
CREATE TABLE unsent (id BLOB, attempt INTEGER, body BLOB NOT NULL, sum INTEGER NOT NULL, PRIMARY KEY (id, attempt));
CREATE TABLE taken (id BLOB PRIMARY KEY, body BLOB NOT NULL, sum INTEGER NOT NULL);
PRAGMA user_version = 1;
"""
"""The file in which a worker keeps results."""
