"""Our own side of a native connection to a master.

    open ─► handshake ─► (None, "qdist", (VERSION,), {}) ─► ("#RETURN", VERSION) ─► call, call, call … ─► answers

Questions are pipelined: `call` never blocks, and all calls of one turn of the loop leave in one write. A call without
an answer in time ends the whole link, as does any break of the protocol: the calls under way then fail with
`Unavailable`, and whoever holds the link opens another one.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

import msgspec

from qdistd.address import Address
from qdistd.errors import Malformed, TooLarge, Unavailable, from_wire
from qdistd.protocol import BY_QUESTION, LARGEST_FRAME, UNREADABLE, UPGRADE, VERSION, Verb
from qdistd.wire import plain
from qdistd.wire.caller import ANSWER_DEADLINE, OPEN_DEADLINE, Caller, dial
from qdistd.wire.handshake import RandomBytes
from qdistd.wire.network import Network

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


class Link(Caller):
    """One native connection. Made by `Link.open`; `closed` is done, with the reason, when it has ended."""

    def __init__(self, address: Address, key: bytes, randbytes: RandomBytes) -> None:
        super().__init__(address, key, randbytes, "sha256")
        self.closed: asyncio.Future[str] = self._loop.create_future()
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
        return await dial(network, address, lambda: cls(address, key, randbytes), deadline)

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

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._heard = self._loop.time()
        super().data_received(data)

    def resume_writing(self) -> None:
        """Called by the transport."""
        super().resume_writing()
        self._let_go()

    def _ended(self) -> None:
        super()._ended()
        if self._alarm:
            self._alarm.cancel()
        self._let_go()
        if not self.closed.done():
            self.closed.set_result(self.reason)

    def _greeted(self) -> None:
        self._send(plain.encode((None, UPGRADE, (VERSION,), {})))
        self._reader.limit = _UPGRADE_LIMITS.bytes
        self._step = self._upgraded

    def _upgraded(self, frame: memoryview) -> None:
        match plain.decode(frame, _UPGRADE_LIMITS):
            case ("#RETURN", int()):
                self._reader.limit = LARGEST_FRAME
                self._step = self._answered
                self._ready()
            case _:
                raise Malformed("a plain BaseManager server listens there")

    def _answered(self, frame: memoryview) -> None:
        try:
            number, status, body = _ANSWER.decode(frame)
            future, verb, _ = self._pending.pop(number)
        except (*UNREADABLE, KeyError) as error:
            raise Malformed(f"no answer to anything that was asked: {error}") from None
        if future.done():
            return
        try:
            if status:
                future.set_exception(from_wire(*_ERROR.decode(body)))
            else:
                future.set_result(_DECODERS[verb.word].decode(body))
        except UNREADABLE as error:
            future.set_exception(Malformed(f"{self.address}: an answer to {verb.word!r} of another shape: {error}"))

    def _asked(self) -> Iterable[asyncio.Future[Any]]:
        pending, self._pending = self._pending, {}
        return [call.future for call in pending.values()]

    def _let_go(self) -> None:
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _wake_at(self, deadline: float) -> None:
        """One alarm for all calls, set to the earliest deadline: a timer for each would cost more than the call."""
        if self._alarm:
            if self._alarm.when() <= deadline:
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(deadline, self._check_deadlines)

    def _check_deadlines(self) -> None:
        self._alarm = None
        if not self._pending:
            return
        first = min(self._pending.values(), key=lambda call: call.deadline)
        if first.deadline <= self._loop.time():
            self.abort(f"no answer to {first.verb.word!r} in time")
        else:
            self._wake_at(first.deadline)
