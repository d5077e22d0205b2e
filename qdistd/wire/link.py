"""Our own side of a native connection to a master.

    open ─► handshake ─► (None, "qdist", (VERSION,), {}) ─► ("#RETURN", VERSION) ─► call, call, call … ─► answers

Questions are pipelined: `call` never blocks, and all calls of one turn of the loop leave in one write. A call without
an answer in time ends the whole link, as does any break of the protocol: the calls under way then fail with
`Unavailable`, and whoever holds the link opens another one.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import msgspec

from qdistd.address import Address
from qdistd.errors import Malformed, QdistError, TooLarge, Unavailable, WrongKey, from_wire
from qdistd.protocol import BY_QUESTION, LARGEST_FRAME, UPGRADE, VERSION, Verb
from qdistd.wire import plain
from qdistd.wire.channel import Channel
from qdistd.wire.handshake import LONGEST, RandomBytes, greet
from qdistd.wire.network import Network

OPEN_DEADLINE = 5.0
"""Seconds for connecting and the handshake together."""

ANSWER_DEADLINE = 10.0
"""Seconds an answer may take, on top of those that the question itself asks to wait."""

_UPGRADE_LIMITS = plain.Limits(bytes=4096, nodes=16, depth=4)
"""The answer to the upgrade is two values; a stock server sends a traceback of some lines instead."""

_ENCODE = msgspec.msgpack.Encoder().encode
_ANSWER = msgspec.msgpack.Decoder(tuple[int, int, msgspec.Raw])
_ERROR = msgspec.msgpack.Decoder(tuple[str, str])
_DECODERS: Mapping[str, msgspec.msgpack.Decoder[Any]] = {
    verb.word: msgspec.msgpack.Decoder(verb.answer) for verb in BY_QUESTION.values()
}


class _Pending(NamedTuple):
    future: asyncio.Future[Any]
    verb: Verb
    deadline: float


class Link(Channel):
    """One native connection. Made by `Link.open`; `closed` is done, with the reason, when it has ended."""

    def __init__(self, address: Address, key: bytes, randbytes: RandomBytes) -> None:
        super().__init__(LONGEST)
        self.address = address
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._handshake = greet(key, randbytes)
        self._step = self._shake
        self._pending: dict[int, _Pending] = {}
        self._number = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._drained: list[asyncio.Future[None]] = []
        self._heard = self._loop.time()

    @classmethod
    async def open(
        cls,
        network: Network,
        address: Address,
        key: bytes,
        *,
        deadline: float = OPEN_DEADLINE,
        randbytes: RandomBytes = os.urandom,
    ) -> Self:
        """A link that is ready for its first call, after at most `deadline` seconds.

        Unavailable: no master there, with the reason; WrongKey: the master does not take `key`, or has another one.
        """
        link: Self | None = None
        try:
            async with asyncio.timeout(deadline):
                link = await network.connect(address, lambda: cls(address, key, randbytes))
                await link._opened
        except TimeoutError:
            raise Unavailable(f"{address}: no answer within {deadline:g} s") from None
        except OSError as error:
            raise Unavailable(f"{address}: {error.strerror or error}") from error
        finally:
            if link is not None and not link._is_open():
                link.abort("not opened")
        return link

    def call(self, question: msgspec.Struct, timeout: float | None = None) -> asyncio.Future[Any]:
        """Ask, and get the answer's struct as a future.

        It fails with the error that the master names, or with `Unavailable` when the link ends before. With no answer
        within `timeout` seconds the link ends (default: the `seconds` of the question and 10 more).
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        verb = BY_QUESTION[type(question)]
        number = self._number = self._number + 1
        body = _ENCODE((number, verb.word, question))
        if self._over:
            future.set_exception(Unavailable(f"{self.address}: {self.reason}"))
        elif len(body) > LARGEST_FRAME:
            future.set_exception(TooLarge(f"{verb.word}: {len(body)} bytes, at most {LARGEST_FRAME} go at once"))
        else:
            if timeout is None:
                timeout = getattr(question, "seconds", 0.0) + ANSWER_DEADLINE
            deadline = self._loop.time() + timeout
            self._pending[number] = _Pending(future, verb, deadline)
            self._wake_at(deadline)
            self._send(body)
        return future

    def drained(self) -> asyncio.Future[None]:
        """Done when the master has read enough of what was sent, or the link has ended."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self.writable or self._over:
            future.set_result(None)
        else:
            self._drained.append(future)
        return future

    def idle(self) -> float:
        """Seconds since the last byte came from the master."""
        return self._loop.time() - self._heard

    def close(self) -> None:
        """End the link in order, after what was called has been sent. Calls under way fail."""
        self.reason = self.reason or "the link was closed"
        self._close()

    def abort(self, reason: str) -> None:
        """End the link at once, and so that the master sees a fault and not the end of a process."""
        if not self._over:
            self.reason = reason
            self._reset()

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._heard = self._loop.time()
        super().data_received(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        super().connection_made(transport)
        next(self._handshake)  # the master speaks first

    def _ended(self) -> None:
        if self._alarm:
            self._alarm.cancel()
        self._fail(Unavailable, self.reason)
        self._let_go()
        if not self.closed.done():
            self.closed.set_result(self.reason)

    def resume_writing(self) -> None:
        """Called by the transport."""
        super().resume_writing()
        self._let_go()

    def _is_open(self) -> bool:
        return self._opened.done() and not self._opened.cancelled() and self._opened.exception() is None

    def _received(self, frame: memoryview) -> None:
        self._step(frame)

    def _shake(self, frame: memoryview) -> None:
        try:
            self._send(self._handshake.send(bytes(frame)))
        except StopIteration as end:
            self._send(end.value)
            self._send(plain.encode((None, UPGRADE, (VERSION,), {})))
            self._reader.limit = _UPGRADE_LIMITS.bytes
            self._step = self._upgraded

    def _upgraded(self, frame: memoryview) -> None:
        match plain.decode(frame, _UPGRADE_LIMITS):
            case ("#RETURN", int()):
                self._reader.limit = LARGEST_FRAME
                self._step = self._answered
                if not self._opened.done():
                    self._opened.set_result(None)
            case _:
                raise Malformed("a plain BaseManager server listens there, not a qdist master")

    def _answered(self, frame: memoryview) -> None:
        try:
            number, status, body = _ANSWER.decode(frame)
            future, verb, _ = self._pending.pop(number)
        except (msgspec.MsgspecError, KeyError) as error:
            raise Malformed(f"no answer to anything that was asked: {error}") from None
        if future.done():
            return
        try:
            if status:
                future.set_exception(from_wire(*_ERROR.decode(body)))
            else:
                future.set_result(_DECODERS[verb.word].decode(body))
        except msgspec.MsgspecError as error:
            future.set_exception(Malformed(f"{self.address}: the answer to {verb.word!r} has no such shape: {error}"))

    def _offended(self, error: Malformed | TooLarge | WrongKey) -> None:
        if isinstance(error, WrongKey):
            self._fail(WrongKey, str(error))
        self.abort(f"does not speak qdist's protocol: {error}")

    def _fail(self, kind: type[QdistError], reason: str) -> None:
        pending, self._pending = self._pending, {}
        for future in (self._opened, *(call.future for call in pending.values())):
            if not future.done():
                future.set_exception(kind(f"{self.address}: {reason}"))

    def _let_go(self) -> None:
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _wake_at(self, deadline: float) -> None:
        """One alarm for all calls, set to the earliest deadline it knew: a timer for each would cost more than it."""
        if self._alarm:
            if self._alarm.when() <= deadline:
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(deadline, self._check_deadlines)

    def _check_deadlines(self) -> None:
        self._alarm = None
        if not self._pending:
            return
        next_one = min(self._pending.values(), key=lambda call: call.deadline)
        if next_one.deadline <= self._loop.time():
            self.abort(f"no answer to {next_one.verb.word!r} in time")
        else:
            self._wake_at(next_one.deadline)
