"""Where tasks come from and results go to: what the two protocols of a worker have in common."""

import asyncio
from typing import Protocol

from qdistd.address import Address


class Conversation(Protocol):
    """What is said on one connection, from its first word to its end. Nothing of it outlives the connection."""

    @property
    def closed(self) -> "asyncio.Future[str]":
        """Done, with the reason, when the connection has ended."""

    def turn(self, now: float) -> float:
        """Take in what came and say what there is to say; the loop time by which another turn is due."""

    def due(self) -> float:
        """The loop time by which there is an answer or the connection has ended; infinite while nothing is asked."""

    def over(self) -> None:
        """The connection has ended: take in what still came."""

    async def farewell(self, *, clean: bool) -> None:
        """End it on purpose. `clean`: every result is where it belongs."""

    def abort(self, reason: str) -> None:
        """End it, to connect anew: the other side shall think of a fault of the network."""

    def drop(self) -> None:
        """End it at once and without a word, as a process that dies."""


class Source(Protocol):
    """One protocol."""

    def recover(self) -> None:
        """Once, before the first connection: take up what an earlier run of this worker has left."""

    async def greet(self, address: Address) -> Conversation:
        """Connect and say hello. Unavailable: nobody there; Refused: they do not take us."""
