"""The way to a master, and the one place that says in the log how it stands.

             greeted                    closed
    NEW ───────────────> CONNECTED ───────────────> AWAY ──┐ every try in silence,
     └─ nobody answers ─────────────────────────────> │ <──┘ 0..0.1 s, 0..0.2 s … 0..2 s apart
     └─ key refused ────> BARRED (0..1 s … 0..30 s apart) <─┘

One line in the log for each change of state, however many tries lie between two of them.
"""

import asyncio
import enum
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from qdistd.address import Address
from qdistd.errors import QdistError, Refused
from qdistd.events import Event, told
from qdistd.wire.backoff import Backoff
from qdistd.worker.source import Conversation

QUICK_BASE, QUICK_CAP = 0.1, 2.0
"""Seconds between two tries while nobody answers: a restarted master is found soon, a dead one costs little. With
what is left of a try that lost its packets, work goes on within 5 s of the repair of a network."""

SLOW_BASE, SLOW_CAP = 1.0, 30.0
"""Seconds between two tries while we are refused: only a person can change that."""

HEALTHY = 1.0
"""Seconds a connection must have lived for its end to be news: one that always breaks at once is backed off from."""

LONGEST_GREETING = 15.0
"""Seconds by which a greeting has ended, well or not: it has deadlines of its own, which come to less."""

Greet = Callable[[Address], Awaitable[Conversation]]


class Standing(enum.Enum):
    """How the worker stands with its masters."""

    NEW = "not connected yet"
    CONNECTED = "ok"
    AWAY = "away"
    BARRED = "refused"


class Connector:
    """Finds a master that takes us: the addresses one after the other, then a pause."""

    def __init__(self, masters: Callable[[], Sequence[Address]], greet: Greet, rng: random.Random, log: logging.Logger):
        self._masters = masters
        self._greet = greet
        self._log = log
        self._quick = Backoff(rng, QUICK_BASE, QUICK_CAP)
        self._slow = Backoff(rng, SLOW_BASE, SLOW_CAP)
        self._pause = 0.0
        self._hurry = asyncio.Event()
        self._since = 0.0
        self.due = float("inf")
        """Loop time by which the present step has ended; infinite while there is a conversation."""
        self._standing = Standing.NEW
        self._master: Address | None = None
        self._trouble = ""

    async def connect(self) -> Conversation:
        """A conversation with the first master that takes us, however long that takes."""
        while True:
            await self._rest()
            conversation = await self._round()
            if conversation is not None:
                return conversation

    def lost(self, reason: str) -> None:
        """The conversation that `connect` gave has ended."""
        if asyncio.get_running_loop().time() - self._since >= HEALTHY:
            self._quick.reset()
        self._pause = self._quick.draw()
        self._allow(0.0)
        self._become(Standing.AWAY, reason)

    def hurry(self) -> None:
        """Something has changed: try at once."""
        self._quick.reset()
        self._slow.reset()
        self._hurry.set()

    def status(self) -> str:
        """A few words for a person."""
        if self._standing is Standing.CONNECTED:
            return f"master {self._master} ok"
        return f"no master ({self._trouble or self._standing.value})"

    def _allow(self, seconds: float) -> None:
        self.due = asyncio.get_running_loop().time() + seconds

    async def _rest(self) -> None:
        self._allow(self._pause)
        try:
            async with asyncio.timeout(self._pause):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    async def _round(self) -> Conversation | None:
        """One try of every master. With none of them, what went wrong is noted and the next pause is set."""
        troubles: list[QdistError] = []
        for address in self._masters():
            self._allow(LONGEST_GREETING)
            try:
                conversation = await self._greet(address)
            except QdistError as error:
                troubles.append(error)
            else:
                self._greeted(address)
                return conversation
        self._turned_away(troubles)
        return None

    def _greeted(self, address: Address) -> None:
        self.due = float("inf")
        self._since = asyncio.get_running_loop().time()
        self._master = address
        self._slow.reset()
        self._become(Standing.CONNECTED, "")

    def _turned_away(self, troubles: list[QdistError]) -> None:
        barred = any(isinstance(error, Refused) for error in troubles)
        self._pause = (self._slow if barred else self._quick).draw()
        self._become(Standing.BARRED if barred else Standing.AWAY, "; ".join(map(str, troubles)))

    def _become(self, standing: Standing, trouble: str) -> None:
        before, self._standing = self._standing, standing
        self._trouble = trouble
        if standing is before:
            return
        if standing is Standing.CONNECTED:
            self._log.info("connected to the master %s", self._master, extra=told(Event.MASTER_FOUND))
        elif standing is Standing.BARRED:
            text, extra = "no master takes this worker (%s): trying again now and then", told(Event.WORKER_REFUSED)
            self._log.error(text, trouble, extra=extra)
        elif before is Standing.CONNECTED:
            text, extra = "lost the master %s (%s): trying again", told(Event.MASTER_LOST)
            self._log.warning(text, self._master, trouble, extra=extra)
        else:
            self._log.warning("no master answers (%s): trying again", trouble, extra=told(Event.MASTER_LOST))
