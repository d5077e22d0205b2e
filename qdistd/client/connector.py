"""The way to a master: the list of addresses, one after the other, with full-jitter exponential backoff between rounds.

    round 1 at once, then after 0..50 ms, 0..100 ms, 0..200 ms … 0..5 s

Full jitter spreads the clients of a restarted master over the whole interval (M. Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015).
"""

import asyncio
import random
from collections.abc import Sequence

from qdistd.address import Address
from qdistd.errors import QdistError, Refused, Unavailable
from qdistd.protocol import Hello, Welcome
from qdistd.wire.link import Link
from qdistd.wire.network import Network

BASE_PAUSE = 0.05
"""Seconds the first pause may last at most: a restarting master is back within a few of them."""

LONGEST_PAUSE = 5.0
"""Seconds any pause may last at most: how late a client notices that the master is back."""

DOUBLINGS = 10
"""Rounds after which the pause has long reached its longest; keeps the power small."""

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
        self._rng = rng
        self._rounds = 0
        self._reached: float | None = None
        self._trouble: dict[Address, str] = {}

    async def connect(self) -> tuple[Link, Welcome]:
        """A link that has said hello, however long it takes. Refused (WrongKey, NotAllowed…): it would never work."""
        self._calm_down()
        while True:
            await asyncio.sleep(self._pause())
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

    async def _greet(self, address: Address) -> tuple[Link, Welcome]:
        link = await Link.open(self._network, address, self._key, deadline=GREETING)
        try:
            return link, await link.call(self._hello, GREETING)
        except BaseException:
            link.abort("the greeting failed")
            raise

    def _calm_down(self) -> None:
        if self._reached is not None and asyncio.get_running_loop().time() - self._reached > STEADY:
            self._rounds = 1

    def _pause(self) -> float:
        rounds = self._rounds
        self._rounds += 1
        if rounds == 0:
            return 0.0
        return self._rng.uniform(0, min(LONGEST_PAUSE, BASE_PAUSE * 2 ** min(rounds - 1, DOUBLINGS)))

    def unavailable(self) -> Unavailable:
        """What to say when somebody has waited long enough: every address, and why it failed."""
        reasons = [f"{address} ({self._trouble.get(address, 'no answer yet')})" for address in self._addresses]
        return Unavailable(f"no master answers: {'; '.join(reasons)}")
