"""Whether a file is a whole store, looked at and left as it is."""

import contextlib
import sqlite3
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from qdistd.errors import Refused
from qdistd.store.schema import APPLICATION_ID, BACKUP_ID, STEPS


class Checked(NamedTuple):
    """What a sound store has."""

    tasks: int
    size: int
    backup: bool
    """Whether it was made by a backup, and nobody has opened it since."""


def check(path: Path) -> Checked:
    """Read all of the file. Refused, naming it and what is wrong, where it is not a whole store that we can open.

    OSError where it cannot be read. It must not be in use: its log is not looked at.
    """
    with path.open("rb"):
        pass  # says in the words of the system why not
    try:
        with contextlib.closing(_opened(path)) as db:
            return Checked(_sound(db, path), path.stat().st_size, _id(db) == BACKUP_ID)
    except sqlite3.DatabaseError as error:
        raise Refused(f"{path}: is no whole database: {error}") from error


def _opened(path: Path) -> sqlite3.Connection:
    """`immutable`: no lock, no log, nothing written beside it (https://sqlite.org/uri.html)."""
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True)


def _sound(db: sqlite3.Connection, path: Path) -> int:
    """How many tasks it has."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if _id(db) not in (APPLICATION_ID, BACKUP_ID) or version == 0:
        raise Refused(f"{path}: this is no store of qdist; expected a file that `qdist backup` has written")
    if version > len(STEPS):
        raise Refused(f"{path}: it is of a newer qdist (schema version {version}, this one knows {len(STEPS)})")
    (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise Refused(f"{path}: is damaged: {verdict}")
    return int(db.execute("SELECT coalesce(sum(tasks), 0) FROM tally").fetchone()[0])


def _id(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA application_id").fetchone()[0])
