"""Writing to a pipe without ever waiting for its reader."""

import asyncio
import os


class Outlet:
    """Keeps what the pipe does not take yet, and writes it as soon as there is room. Owns `descriptor`.

    `unsent`: what another one has left (`bequeath`).
    """

    def __init__(self, descriptor: int, loop: asyncio.AbstractEventLoop, unsent: bytes | None = b"") -> None:
        self._descriptor = descriptor
        self._loop = loop
        self._unsent = bytearray()
        self._closed = unsent is None
        if unsent:
            self.write(unsent)

    def write(self, data: bytes) -> None:
        """Send `data` after all that was written before."""
        if self._closed:
            return
        first = not self._unsent
        self._unsent += data
        if first:
            self._push()
            if self._unsent:
                self._loop.add_writer(self._descriptor, self._push)

    def retract(self) -> bytes:
        """Take back what is still here."""
        if self._closed:
            return b""  # and the number of our descriptor may be somebody else's by now
        unsent, self._unsent = bytes(self._unsent), bytearray()
        self._loop.remove_writer(self._descriptor)
        return unsent

    def bequeath(self) -> bytes | None:
        """What is left to write for who goes on with this pipe; None: it is closed."""
        return None if self._closed else self.retract()

    def close(self) -> None:
        """The reader finds the end. May be said twice."""
        if not self._closed:
            self.retract()
            self._closed = True
            os.close(self._descriptor)

    def _push(self) -> None:
        try:
            sent = os.write(self._descriptor, self._unsent)
        except BlockingIOError:
            return
        except BrokenPipeError:
            sent = len(self._unsent)  # the reader is dead, and whoever looks after it will hear of that
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._descriptor)
