"""Cuts a stream of bytes into frames: a length of four bytes, big-endian, then as many bytes.

Stock and native frames look the same. (The stock side announces 2 GiB and more with a length of -1: far over any
limit, so it needs no reading.)
"""

import struct

from qdistd.errors import Malformed, TooLarge

LARGEST_ANNOUNCED = 0x7FFFFFFF
"""Bytes that the signed length of a stock frame can announce."""

_LENGTH = struct.Struct("!I")
_NOTHING = memoryview(b"")


def framed(body: bytes) -> bytes:
    """The body with its length before it."""
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """`feed` it what the socket gave, then call `next` until it gives None.

    A frame is a view into the chunk it came in: nothing is copied unless a frame spans chunks. `limit` (bytes) may be
    changed between frames.
    """

    __slots__ = ("_at", "_chunks", "_discard", "_have", "_need", "_view", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._view = _NOTHING
        self._at = 0
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 0
        self._discard = 0

    @property
    def held(self) -> int:
        """Bytes taken in and not yet given out."""
        return self._have + len(self._view) - self._at

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._at < len(self._view):
            self._keep(0)
        self._chunks.append(chunk)
        self._have += len(chunk)
        if self._have >= self._need:
            self._load()

    def next(self) -> memoryview | None:
        """The next whole frame, or None until more is fed.

        TooLarge: one over the limit was announced; its bytes are dropped as they come, and the frame after it can be
        read. Malformed: a length that no frame can have; the stream is lost.
        """
        if self._have or (self._discard and not self._dropped()):
            return None
        start = self._at + _LENGTH.size
        if start > len(self._view):
            self._keep(_LENGTH.size)
            return None
        (size,) = _LENGTH.unpack_from(self._view, self._at)
        if size > self.limit:
            self._refuse(start, size)
        end = start + size
        if end > len(self._view):
            self._keep(_LENGTH.size + size)
            return None
        self._at = end
        return self._view[start:end]

    def _load(self) -> None:
        """Make one view of all chunks: called when they hold at least what is needed next."""
        chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._view, self._at = memoryview(chunk), 0
        self._chunks = []
        self._have = 0

    def _keep(self, need: int) -> None:
        """Put the rest of the view aside until `need` bytes, counted from its start, are there."""
        if self._at < len(self._view):
            self._chunks = [bytes(self._view[self._at :])]
            self._have = len(self._chunks[0])
        self._view, self._at, self._need = _NOTHING, 0, need

    def _refuse(self, start: int, size: int) -> None:
        if size > LARGEST_ANNOUNCED:
            raise Malformed(f"a frame of {size} bytes was announced; none has more than {LARGEST_ANNOUNCED}")
        self._at, self._discard = start, size
        raise TooLarge(f"a message of {size} bytes is over the limit of {self.limit} bytes")

    def _dropped(self) -> bool:
        """Drop what is there of a refused frame; whether that was all of it."""
        gone = min(self._discard, len(self._view) - self._at)
        self._at += gone
        self._discard -= gone
        if self._discard:
            self._keep(0)
        return not self._discard
