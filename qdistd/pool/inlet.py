"""Reading results from a pipe without ever waiting for its writer."""

import fcntl
import os
from collections.abc import Iterator

from qdistd.child.frames import READ_SIZE, RESULT

SLACK = 1 << 17
"""Bytes by which a failure, with its traceback, may be larger than any result."""

MOST_BYTES = 1 << 32
"""What the head of a result can announce at most: the limit where there is none."""


Frame = tuple[int, int, float, float, float, int, bytes]
"""One result: outcome, ticket, started, wall, cpu, rss, value. Plain tuples, as there are many."""


class Garbled(Exception):
    """What came is no result: a task has written into a pipe that is not its own."""


class Inlet:
    """`limit`: bytes of a result; 0: any. `unread`: what came before, with a result that is not complete."""

    def __init__(self, descriptor: int, limit: int, unread: bytes = b"") -> None:
        self.ended = False
        """Whether the writer has closed its end."""
        self._descriptor = descriptor
        self._limit = limit + SLACK if limit else MOST_BYTES
        self._unread = bytearray(unread)

    @property
    def unread(self) -> bytes:
        """What came of a result that is not complete."""
        return bytes(self._unread)

    def read(self) -> Iterator[Frame]:
        """The results that are complete after one mouthful. Garbled, after the good ones, where they make no sense."""
        self._fill()
        return self._frames()

    def read_all(self) -> Iterator[Frame]:
        """All that a dead writer has left: what a pipe holds. Who has escaped with its end may write for ever."""
        left = fcntl.fcntl(self._descriptor, fcntl.F_GETPIPE_SZ)
        while left > 0 and (size := self._fill()):
            left -= size
        return self._frames()

    def _fill(self) -> int:
        """How many bytes came."""
        try:
            data = os.read(self._descriptor, READ_SIZE)
        except BlockingIOError:
            return 0
        self.ended = not data
        self._unread += data
        return len(data)

    def _frames(self) -> Iterator[Frame]:
        at, size = 0, len(self._unread)
        try:
            while size - at >= RESULT.size:
                length, outcome, ticket, started, wall, cpu, rss = RESULT.unpack_from(self._unread, at)
                if length > self._limit:
                    raise Garbled(f"a result of {length} bytes was announced; the limit is {self._limit}")
                start, end = at + RESULT.size, at + RESULT.size + length
                if end > size:
                    break
                at = end
                yield outcome, ticket, started, wall, cpu, rss, bytes(self._unread[start:end])
        finally:
            del self._unread[:at]
