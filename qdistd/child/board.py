"""The latest progress of a child's task, in a page of memory that it shares with its pool.

    task ──progress()──> page <──a look every second── pool

So a task may report as often as it likes: it costs it a microsecond, and nobody else anything. Who reads may find a
page that is half written; the checksum tells, and the next look finds it whole.
"""

import fcntl
import mmap
import os
import struct
import zlib

from qdistd.model import Progress

PAGE = 4096

HEAD = struct.Struct("=IQddH")
"""Checksum of all that follows; ticket of the task; done, total; bytes of the note, which is the rest."""

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""It keeps its length, on which who reads or maps it counts: a task may truncate all that it finds open."""

CHECKSUM = struct.Struct("=I")

LONGEST_NOTE = 500
"""Characters, as in `model.Progress`; in UTF-8 they fit into the page."""


def make() -> int:
    """The descriptor of a fresh page, which a child can inherit. OSError where there is no memory."""
    descriptor = os.memfd_create("qdist-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, PAGE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor


def read(descriptor: int) -> tuple[int, Progress] | None:
    """The ticket and the progress that stand there; None where there is nothing that makes sense."""
    data = os.pread(descriptor, PAGE, 0)
    checksum, ticket, done, total, length = HEAD.unpack_from(data)
    end = HEAD.size + length
    if not ticket or end > PAGE or zlib.crc32(data[CHECKSUM.size : end]) != checksum:
        return None
    return ticket, Progress(done, total, data[HEAD.size : end].decode(errors="replace")[:LONGEST_NOTE])


class Board:
    """The page as its child writes it. It is mapped, as a task may close every descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, PAGE)
        os.close(descriptor)

    def write(self, ticket: int, done: float, total: float, note: str) -> None:
        """Have this stand there."""
        text = note[:LONGEST_NOTE].encode(errors="backslashreplace")[: PAGE - HEAD.size]
        page = bytearray(HEAD.pack(0, ticket, done, total, len(text)) + text)
        CHECKSUM.pack_into(page, 0, zlib.crc32(page[CHECKSUM.size :]))
        self._page[: len(page)] = bytes(page)
