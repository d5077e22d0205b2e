"""The side that connects, whatever it says afterwards: reach an address, pass the handshake, fail with reasons."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from qdistd.address import Address
from qdistd.errors import Malformed, QdistError, TooLarge, Unavailable, WrongKey
from qdistd.wire.channel import Channel
from qdistd.wire.handshake import LONGEST, Digest, RandomBytes, greet
from qdistd.wire.network import Network, why

OPEN_DEADLINE = 5.0
"""Seconds for connecting and the handshake together."""

ANSWER_DEADLINE = 10.0
"""Seconds an answer may take, on top of those that the question itself asks to wait."""


class Caller(Channel):
    """Base of `Link` and of the stock conversation. `opened` is done when the first question may be asked."""

    def __init__(self, address: Address, key: bytes, randbytes: RandomBytes, min_digest: Digest) -> None:
        super().__init__(LONGEST)
        self.address = address
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._handshake = greet(key, randbytes, min_digest)
        self._step: Callable[[memoryview], None] = self._shake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        super().connection_made(transport)
        next(self._handshake)  # the server speaks first

    def close(self) -> None:
        """End the connection in order, after what was asked has been sent. Questions without an answer fail."""
        self.reason = self.reason or "the connection was closed on this side"
        self._close()

    def abort(self, reason: str) -> None:
        """End the connection at once, and so that the other side sees a fault and not the end of a process."""
        if not self._over:
            self.reason = reason
            self._reset()

    def _received(self, frame: memoryview) -> None:
        self._step(frame)

    def _shake(self, frame: memoryview) -> None:
        try:
            self._send(self._handshake.send(bytes(frame)))
        except StopIteration as end:
            self._send(end.value)
            self._greeted()

    def _greeted(self) -> None:
        """The handshake is over: set the next step and limit."""
        raise NotImplementedError

    def _asked(self) -> Iterable[asyncio.Future[Any]]:
        """The questions without an answer; they are forgotten here."""
        raise NotImplementedError

    def _ready(self) -> None:
        if not self.opened.done():
            self.opened.set_result(None)

    def _ended(self) -> None:
        self._fail(Unavailable, self.reason)

    def _offended(self, error: Malformed | TooLarge | WrongKey) -> None:
        if isinstance(error, WrongKey):
            self._fail(WrongKey, str(error))
        self.abort(f"does not speak the protocol of a master: {error}")

    def _fail(self, kind: type[QdistError], reason: str) -> None:
        for future in (self.opened, *self._asked()):
            if not future.done():
                future.set_exception(kind(f"{self.address}: {reason}"))


C = TypeVar("C", bound=Caller)


async def dial(network: Network, address: Address, factory: Callable[[], C], deadline: float) -> C:
    """A caller that is ready for its first question, after at most `deadline` seconds.

    Unavailable: no server there, with the reason; WrongKey: it does not take our key, or has another one.
    """
    caller: C | None = None
    try:
        async with asyncio.timeout(deadline):
            caller = await network.connect(address, factory)
            await caller.opened
            return caller
    except TimeoutError:
        raise Unavailable(f"{address}: no answer within {deadline:g} s") from None
    except OSError as error:
        raise Unavailable(f"{address}: {why(error)}") from error
    finally:
        if caller and not _is_ready(caller.opened):
            caller.abort("not opened")


def _is_ready(opened: asyncio.Future[None]) -> bool:
    return opened.done() and not opened.cancelled() and opened.exception() is None
