"""One connection that carries frames, as both sides and both protocols need it.

    socket ──► data_received ──► FrameReader ──► _received(frame)      until _halted
    socket ◄── the first frame of a turn of the loop at once, all others in one write ◄── _send(body)

`asyncio.Protocol` and not streams: a stream costs a task, a future and a copy for every read.
"""

import asyncio

from qdistd.errors import Malformed, TooLarge, WrongKey
from qdistd.wire.frames import FrameReader, framed
from qdistd.wire.network import reset_on_close, tcp_socket, why

JOIN = 256 * 1024
"""Bytes that are joined before they are written without waiting for the end of this turn of the loop."""

HIGH_WATER = 1024 * 1024
"""Bytes the transport may hold for a peer that does not read before the connection stops being writable."""

ENDED = "the other side closed the connection"


class Channel(asyncio.Protocol):
    """Base of `Peer`, `Link` and the stock conversation, which say what a frame means to them.

    `writable`: the peer reads what it is sent. `_halted`: leave further frames alone for now. `_over`: the end has
    begun, nothing more is sent or read. `reason`: why it has ended, for people.
    """

    _transport: asyncio.Transport

    def __init__(self, limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(limit)
        self._out: list[bytes] = []
        self._waiting = 0
        self._sent = False
        self._halted = False
        self._over = False
        self._finished = False
        self.writable = True
        self.reason = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._tcp = tcp_socket(transport)
        transport.set_write_buffer_limits(HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._reader.feed(data)
        self._pump()

    def eof_received(self) -> None:
        """Called by the transport, which then closes: the other side has ended the connection in order (FIN)."""
        self._flush()
        self._finished = self._over = True
        self.reason = self.reason or ENDED

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the transport: nothing comes or goes any more."""
        self._over = True
        self.reason = self.reason or (why(error) if error else ENDED)
        self._ended()

    def pause_writing(self) -> None:
        """Called by the transport: too much is waiting to be read by the other side."""
        self.writable = False

    def resume_writing(self) -> None:
        """Called by the transport: the other side reads again."""
        self.writable = True

    def _pump(self) -> None:
        """Hand out all whole frames, as long as somebody wants them."""
        reader = self._reader
        while not (self._halted or self._over):
            try:
                frame = reader.next()
                if frame is None:
                    return
                self._received(frame)
            except (Malformed, TooLarge, WrongKey) as error:
                self._offended(error)

    def _received(self, frame: memoryview) -> None:
        raise NotImplementedError

    def _ended(self) -> None:
        """The connection is gone; called once."""
        raise NotImplementedError

    def _offended(self, error: Malformed | TooLarge | WrongKey) -> None:
        """The other side broke the protocol."""
        raise NotImplementedError

    def _send(self, body: bytes) -> None:
        """Send a frame: the first one of a turn of the loop at once, the others together at the end of the turn.

        A lone answer is not kept waiting for the turn, and many leave in two writes.
        """
        if self._over:
            return
        if not self._sent:
            self._sent = True
            self._loop.call_soon(self._end_turn)
            self._transport.write(framed(body))
            return
        self._out.append(framed(body))
        self._waiting += len(body)
        if self._waiting > JOIN:
            self._flush()

    def _write(self, body: bytes) -> None:
        """Send a frame at once, where no other can be waiting."""
        if not self._over:
            self._transport.write(framed(body))

    def _end_turn(self) -> None:
        self._sent = False
        self._flush()

    def _flush(self) -> None:
        if self._over or not self._out:
            return
        joined = b"".join(self._out)
        self._out.clear()
        self._waiting = 0
        self._transport.write(joined)

    def _close(self) -> None:
        """Send what is waiting, then end the connection in order (FIN)."""
        if not self._over:
            self._flush()
            self._over = True
            self._transport.close()

    def _reset(self) -> None:
        """End the connection at once and visibly out of order (RST)."""
        self._over = True
        if self._tcp:
            reset_on_close(self._tcp)
        self._transport.abort()
