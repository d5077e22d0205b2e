"""What must outlive this process, in one small SQLite file: results nobody has acknowledged, and tasks taken from a
plain queue server, which forgets a task the moment it hands it out.

    unsent   id, attempt → Settlement     written when a master is away or slow, deleted when one has it
    taken    id          → Grant          written before such a task runs, deleted after its result was put

Every transaction is on the disk before it returns (WAL, synchronous=FULL), and so blocks the loop for one fsync: with
a qdist master that happens in trouble alone. The file has one owner and one connection. A file that cannot be read
is set aside; a write that fails is logged once, and told to the caller, who still has it all in memory.
"""

import logging
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from qdistd.errors import ConfigError, Unavailable
from qdistd.model import Grant, Settlement

VERSION = 1
"""Of the two tables (`PRAGMA user_version`)."""

LOCK_SECONDS = 2.0
"""How long to wait for the former owner of the file, who may be about to end."""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_PRIMARY = 0xFF
"""The part of an SQLite error code that names the kind of error (https://sqlite.org/rescode.html)."""

_TABLES = f"""
BEGIN;
CREATE TABLE unsent (id BLOB, attempt INTEGER, body BLOB NOT NULL, sum INTEGER NOT NULL, PRIMARY KEY (id, attempt));
CREATE TABLE taken (id BLOB PRIMARY KEY, body BLOB NOT NULL, sum INTEGER NOT NULL);
PRAGMA user_version = {VERSION};
COMMIT;
"""

T = TypeVar("T")
Row = tuple[bytes, int]


class _Unreadable(Exception):
    """The file is there, and is no spool that this version can read."""


class Spool:
    """ConfigError: the file cannot be used, and why; Unavailable: not just now (the disk is full)."""

    def __init__(self, path: Path, log: logging.Logger, *, patience: float = LOCK_SECONDS) -> None:
        self._path = path
        self._log = log
        self._patience = patience
        self._failing = False
        self._db = self._opened()

    def save(self, settlements: Iterable[Settlement]) -> bool:
        """Keep results, each with the token of the incarnation that leased its task. Whether they are on the disk."""
        rows = [(item.id, item.attempt, *_sealed(item)) for item in settlements]
        return self._write("INSERT OR REPLACE INTO unsent VALUES (?, ?, ?, ?)", rows)

    def forget(self, settlements: Iterable[Settlement]) -> bool:
        """Results that the master has."""
        rows = [(item.id, item.attempt) for item in settlements]
        return self._write("DELETE FROM unsent WHERE id = ? AND attempt = ?", rows)

    def unsent(self) -> list[Settlement]:
        """Every result kept, oldest task first."""
        rows = self._db.execute("SELECT body, sum FROM unsent ORDER BY id, attempt")
        return self._readable(rows.fetchall(), Settlement)

    def take(self, grant: Grant) -> bool:
        """Keep a task that nobody else has any more. Whether it is on the disk."""
        return self._write("INSERT OR REPLACE INTO taken VALUES (?, ?, ?)", [(grant.id, *_sealed(grant))])

    def drop(self, ids: Iterable[bytes]) -> bool:
        """Tasks whose result was put, or that will have none."""
        return self._write("DELETE FROM taken WHERE id = ?", [(task_id,) for task_id in ids])

    def taken(self) -> list[Grant]:
        """Every task kept, oldest first."""
        return self._readable(self._db.execute("SELECT body, sum FROM taken ORDER BY id").fetchall(), Grant)

    def close(self) -> None:
        """Give the file to its next owner."""
        self._db.close()

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> bool:
        """One transaction."""
        try:
            with self._db:
                self._db.executemany(statement, rows)
        except sqlite3.Error as error:
            self._failed(error)
            return False
        self._failing = False
        return True

    def _failed(self, error: sqlite3.Error) -> None:
        if not self._failing:
            self._log.error("cannot write %s (%s): what it should keep is in memory alone", self._path, error)
        self._failing = True

    def _readable(self, rows: Sequence[Row], kind: type[T]) -> list[T]:
        whole = [body for body, sum_ in rows if zlib.crc32(body) == sum_]
        if damaged := len(rows) - len(whole):
            self._log.error("%s: %d damaged entries are left out: their tasks will run again", self._path, damaged)
        return [msgspec.msgpack.decode(body, type=kind) for body in whole]

    def _opened(self) -> sqlite3.Connection:
        try:
            return _connected(self._path, self._patience)
        except _Unreadable as error:
            self._set_aside(str(error))
        return _connected(self._path, self._patience)

    def _set_aside(self, why: str) -> None:
        """Move the file and its log out of the way, where a person can look at them."""
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.damaged-{number}")).exists():
            number += 1
        for suffix in ("", "-wal", "-shm"):
            _rename_if_there(Path(f"{self._path}{suffix}"), Path(f"{aside}{suffix}"))
        self._log.error("%s cannot be read (%s) and now is %s: its results are lost", self._path, why, aside)


def _rename_if_there(old: Path, new: Path) -> None:
    if old.exists():
        old.rename(new)


def _connected(path: Path, patience: float) -> sqlite3.Connection:
    """The database, checked, with its tables. _Unreadable: it is none of ours."""
    db: sqlite3.Connection | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        db = sqlite3.connect(path, patience)
        _prepare(db)
    except (sqlite3.Error, OSError, _Unreadable) as error:
        if db is not None:
            db.close()
        raise _explained(path, error) from error
    return db


def _prepare(db: sqlite3.Connection) -> None:
    for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("BEGIN EXCLUSIVE")  # one owner: the lock taken here stays with the connection
    db.execute("COMMIT")
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _Unreadable(verdict)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(_TABLES)
    elif version != VERSION:
        raise _Unreadable(f"its version is {version}, expected {VERSION}")


def _explained(path: Path, error: Exception) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    if isinstance(error, _Unreadable) or code in _DAMAGED:
        return _Unreadable(str(error))
    if code in _LOCKED:
        return ConfigError(f"{path} is in use by another worker: give every instance its own state folder")
    if code == sqlite3.SQLITE_FULL:
        return Unavailable(f"{path} cannot be opened: {error}")
    return ConfigError(f"{path} cannot be opened ({error}): expected a folder that this worker may write to")


def _sealed(value: Settlement | Grant) -> Row:
    body = msgspec.msgpack.encode(value)
    return body, zlib.crc32(body)
