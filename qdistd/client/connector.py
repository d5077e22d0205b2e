"""The way to a master: the list of addresses, one after the other, with a longer pause after each round.

round 1 at once, then after 0..50 ms, 0..100 ms, 0..200 ms … 0..2 s
"""

import asyncio
import random
from collections.abc import Sequence

from qdistd.address import Address
from qdistd.errors import QdistError, Refused, Unavailable
from qdistd.protocol import Hello, Welcome
from qdistd.wire.backoff import Backoff
from qdistd.wire.link import Link
from qdistd.wire.network import Network

BASE_PAUSE = 0.05
"""Seconds the first pause may last at most: a restarting master is back within a few of them."""

LONGEST_PAUSE = 2.0
"""Seconds any pause may last at most: how late a client notices that the master is back."""

STEADY = 5.0
"""Seconds a link must have lived for its end to count as news, not as one more failure of the same kind."""

GREETING = 5.0
"""Seconds a master may take to open a connection, and as many to answer `Hello`."""


class Connector:
    """Finds a master that takes us."""

    def __init__(
        self,
        network: Network,
        addresses: Sequence[Address],
        key: bytes,
        *,
        hello: Hello,
        rng: random.Random,
    ) -> None:
        self._network = network
        self._addresses = addresses
        self._key = key
        self._hello = hello
        self._backoff = Backoff(rng, BASE_PAUSE, LONGEST_PAUSE)
        self._reached: float | None = None
        self._trouble: dict[Address, str] = {}

    async def connect(self) -> tuple[Link, Welcome]:
        """A link that has said hello, however long it takes. Refused (WrongKey, NotAllowed…): it would never work."""
        if self._reached is not None:
            if asyncio.get_running_loop().time() - self._reached > STEADY:
                self._backoff.reset()
            await self._pause()
        while True:
            for address in self._addresses:
                try:
                    greeted = await self._greet(address)
                except Refused:
                    raise
                except QdistError as error:
                    self._trouble[address] = str(error).removeprefix(f"{address}: ")
                else:
                    self._trouble.clear()
                    self._reached = asyncio.get_running_loop().time()
                    return greeted
            await self._pause()

    async def _greet(self, address: Address) -> tuple[Link, Welcome]:
        link = await Link.open(self._network, address, self._key, deadline=GREETING)
        try:
            return link, await link.call(self._hello, GREETING)
        except BaseException:
            link.abort("the greeting failed")
            raise

    async def _pause(self) -> None:
        await asyncio.sleep(self._backoff.draw())

    def unavailable(self) -> Unavailable:
        """What to say when somebody has waited long enough: every address, and why it failed."""
        reasons = [f"{address} ({self._trouble.get(address, 'no answer yet')})" for address in self._addresses]
        return Unavailable(f"no master answers: {'; '.join(reasons)}")
