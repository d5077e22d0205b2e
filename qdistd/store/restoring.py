"""Putting a backup in the place of a store, while no master has that open.

    backup ──checked──> copied beside the store, marked, on the disk ──renamed──> the store
    store  ──locked, its log folded in──> a second name, STORE.replaced-N: nothing is lost

The mark makes the next master begin a new epoch, whatever kind of copy this was. A log that stayed behind would be
taken for one of the new file, so none stays.
"""

import contextlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qdistd.durable import sync_folder
from qdistd.errors import Refused
from qdistd.store.checking import Checked, check
from qdistd.store.schema import APPLICATION_ID_AT, BACKUP_ID

MODE = 0o600
"""Of a store: it has the arguments and results of everybody."""


class Restored(NamedTuple):
    """What has become of it. `aside`: where the former store is now, if there was one."""

    checked: Checked
    aside: Path | None


def restore(backup: Path, store: Path) -> Restored:
    """Make `backup` the store. Refused, with everything as it was, where it is not whole or a master is at work."""
    if not store.parent.is_dir():
        raise Refused(f"{store.parent} is no folder; make it, or name another place ([master] store)")
    if store.exists() and backup.samefile(store):
        raise Refused(f"{backup} is the store itself; name the file that `qdist backup` has written")
    if _log_of(backup).exists() and _log_of(backup).stat().st_size:
        raise Refused(f"{backup}: is the file of a store in use, as its log stands beside it; expected a backup")
    checked = check(backup)
    part = store.with_name(f".{store.name}.{secrets.token_hex(4)}.part")
    try:
        _copy(backup, part)
        with _held(store):
            aside = _set_aside(store)
            part.rename(store)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(store.parent)
    return Restored(checked, aside)


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _copy(backup: Path, part: Path) -> None:
    """A copy that belongs to whom the folder belongs to, marked as one and on the disk."""
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    with open(descriptor, "r+b") as file, backup.open("rb") as source:  # noqa: PTH123 - a descriptor, not a path
        shutil.copyfileobj(source, file)
        file.seek(APPLICATION_ID_AT)
        file.write(BACKUP_ID.to_bytes(4, "big"))
        file.flush()
        owner = part.parent.stat()
        if os.geteuid() == 0:
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        os.fsync(file.fileno())


@contextlib.contextmanager
def _held(store: Path) -> Iterator[None]:
    """Keep every master away, and fold the log of the store into its file. One that is damaged stays as it is."""
    if not store.exists():
        yield
        return
    with contextlib.closing(sqlite3.connect(store, timeout=1.0, isolation_level=None)) as db:
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
            db.execute("BEGIN EXCLUSIVE")
            db.execute("COMMIT")
            db.execute("PRAGMA journal_mode = DELETE").fetchall()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Refused(f"{store}: a master has it open; stop that first (systemctl stop qdist-master)") from None
        yield


def _set_aside(store: Path) -> Path | None:
    """Give the former store, and a log that it could not take in, a second name."""
    if not store.exists():
        return None
    number = 1
    while (aside := store.with_name(f"{store.name}.replaced-{number}")).exists():
        number += 1
    if _log_of(store).exists():
        _log_of(store).rename(_log_of(aside))
    store.with_name(f"{store.name}-shm").unlink(missing_ok=True)
    os.link(store, aside)
    return aside
