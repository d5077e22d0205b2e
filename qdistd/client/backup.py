"""Bringing a backup of the master's store to this host, whole or not at all.

master ──pieces──> .NAME.part beside it ──on the disk, checked──> renamed to FILE
                        └── anything goes wrong, or Ctrl-C ──> removed
"""

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qdistd.durable import sync_folder
from qdistd.errors import Refused
from qdistd.store.checking import Checked, check
from qdistd.upkeep import Backup, Piece

GLANCE = 1.0
"""Seconds between two words of the master about how far its copy is."""

MODE = 0o600
"""Of the file: it has the arguments and results of everybody."""

Told = Callable[[int, int], None]
"""Called with how much is done of how much: the copy at the master is one half, the way to us the other."""


def fetch(ask: Callable[[Any], Any], path: Path, *, overwrite: bool, told: Told) -> Checked:
    """Write a backup to `path`. Refused where there is something already, unless `overwrite`.

    Raises what the master answers, OSError, and Refused where what came is not whole. Then there is no file.
    """
    _refuse_to_replace(path, overwrite)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        _write(part, _pieces(ask, told))
        checked = check(part)
        _refuse_to_replace(path, overwrite)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)
    return checked


def _refuse_to_replace(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise Refused(f"{path} is a folder; name the file that the backup is to be")
    if os.path.lexists(path) and not overwrite:
        raise Refused(f"{path} is there already; it is replaced only with --force (overwrite=True)")


def _pieces(ask: Callable[[Any], Any], told: Told) -> Iterator[bytes]:
    at = 0
    while True:
        piece: Piece = ask(Backup(at, GLANCE))
        if piece.complete and not piece.data:
            return
        yield piece.data
        at += len(piece.data)
        told(piece.done + at, 2 * piece.size)


def _write(part: Path, pieces: Iterator[bytes]) -> None:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
