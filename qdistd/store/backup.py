"""A copy of the store while it serves: consistent, and gone when the process is.

    store ──some pages, then a pause──> a file of its folder, without a name ──> read in pieces
      └── a commit meanwhile also goes into those pages that are copied already (SQLite's backup API)

The one connection there is holds the store, so the copy goes through it, in a thread: a step waits for a transaction to
end, and a statement for a step. The copy is marked as one, so that whoever opens it begins a new epoch.
"""

import os
import sqlite3
import time
from pathlib import Path
from uuid import uuid4

from qdistd.errors import Overloaded, Refused
from qdistd.store.schema import APPLICATION_ID_AT, BACKUP_ID

STEP_PAGES = 32
"""128 KiB, well under a millisecond: so long a statement may have to wait."""

PAUSE = 0.001
"""Seconds between two steps at least, and as long as the step has taken: the store belongs to its users."""

FLUSH_PAGES = 1024
"""4 MiB, after which the copy is put on the disk: what has gathered for long would hold up a commit."""

SPARE_BYTES = 64 * 1024 * 1024
"""Bytes of the disk that a copy leaves: the store and its log grow meanwhile."""

SUFFIX = ".copying-"
"""Of the name that a copy has for a moment, before it has none."""


class _Unwanted(Exception):
    """The copy was dropped while it was made."""


class FileCopy:
    """A copy of the database of `source`, whose file is at `path`. Refused where it has none; Overloaded: no space."""

    def __init__(self, source: sqlite3.Connection, path: str) -> None:
        if path == ":memory:":
            raise Refused("this store is in memory alone: there is nothing that a backup could replace")
        self._source = source
        self._folder = Path(path).parent
        self._unwanted = False
        (self._page,) = source.execute("PRAGMA page_size").fetchone()
        (self._pages,) = source.execute("PRAGMA page_count").fetchone()
        self._copied = self._flushed = 0
        self._check_space(self._pages * self._page + SPARE_BYTES)
        self._began = 0.0
        """When the step under way began."""
        self._file, self._target = _nameless(Path(f"{path}{SUFFIX}{uuid4().hex}"))

    def make(self) -> None:
        """See `Copy.make`."""
        self._began = time.monotonic()
        try:
            self._source.backup(self._target, pages=STEP_PAGES, progress=self._stepped, sleep=PAUSE)
            self._target.close()
            os.pwrite(self._file, BACKUP_ID.to_bytes(4, "big"), APPLICATION_ID_AT)
        except (_Unwanted, sqlite3.OperationalError, OSError) as error:
            raise Overloaded(f"the copy of the store in {self._folder} is not complete: {error}") from error

    def share(self) -> tuple[int, int]:
        """See `Copy.share`."""
        return self._copied * self._page, self._pages * self._page

    def read(self, at: int, most: int) -> bytes:
        """See `Copy.read`."""
        return os.pread(self._file, most, at)

    def drop(self) -> None:
        """See `Copy.drop`."""
        self._unwanted = True

    def close(self) -> None:
        """See `Copy.close`."""
        self._target.close()
        os.close(self._file)

    def _stepped(self, _status: int, left: int, pages: int) -> None:
        """Called by SQLite after each step, with no lock held."""
        if self._unwanted:
            raise _Unwanted("nobody wants it any more")
        self._pages, self._copied = pages, pages - left
        if self._copied - self._flushed >= FLUSH_PAGES:
            self._flushed = self._copied
            os.fdatasync(self._file)
            self._check_space(left * self._page + SPARE_BYTES // 2)
        time.sleep(max(PAUSE, time.monotonic() - self._began))
        self._began = time.monotonic()

    def _check_space(self, wanted: int) -> None:
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize
        if free < wanted:
            needs, has = f"{wanted >> 20:,} MiB", f"{free >> 20:,} MiB"
            raise Overloaded(f"a backup needs {needs} more in {self._folder} for a while, and {has} are free")


def _nameless(path: Path) -> tuple[int, sqlite3.Connection]:
    """A new file that is gone with its last descriptor, open for us and as a database."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Overloaded(f"{path.parent}: no copy can be made here: {error.strerror}") from error
    try:
        target = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
            target.execute(f"PRAGMA {pragma}").fetchall()
    finally:
        path.unlink()
    return file, target


def sweep(path: str) -> None:
    """Remove what a backup or a restore that died in the wrong moment has left beside the store."""
    store = Path(path)
    for pattern in (f"{store.name}{SUFFIX}*", f".{store.name}.*.part"):
        for left in store.parent.glob(pattern):
            left.unlink(missing_ok=True)
