"""The connector: every master is tried, pauses grow, and what went wrong can be told."""

import asyncio
import itertools
import random
from typing import Any

from small_master import KEY

from qdistd import protocol as say
from qdistd.address import Address
from qdistd.client.connector import BASE_PAUSE, LONGEST_PAUSE, STEADY, Connector
from qdistd.errors import Unavailable
from qdistd.wire.network import AsyncioNetwork
from tests.simulation.world import World

HELLO = say.Hello("client", "test")


class Away(AsyncioNetwork):
    """Nobody is there. `tried`: who was called, and when."""

    def __init__(self) -> None:
        self.tried: list[tuple[float, Address]] = []

    async def connect(self, address: Address, factory: Any) -> Any:
        self.tried.append((asyncio.get_running_loop().time(), address))
        raise ConnectionRefusedError(111, "Connection refused")


def test_unavailable_names_every_address_and_why() -> None:
    addresses = [Address("one", 5000), Address(path="/run/qdist")]
    network, world = Away(), World(seed=5)
    connector = Connector(network, addresses, KEY, hello=HELLO, rng=world.rng)
    world.outside.start(connector.connect())
    world.run_until(lambda: len(network.tried) > 2, deadline=10.0)
    assert [address for _, address in network.tried[:3]] == [*addresses, addresses[0]]
    assert isinstance(connector.unavailable(), Unavailable)
    assert str(connector.unavailable()) == (
        "no master answers: one:5000 (Connection refused); unix:/run/qdist (Connection refused)"
    )


def test_pauses_between_rounds_grow_with_full_jitter_up_to_two_seconds() -> None:
    network, world = Away(), World(seed=5)
    connector = Connector(network, [Address("one", 5000)], KEY, hello=HELLO, rng=world.rng)
    world.outside.start(connector.connect())
    world.run_until(lambda: False, deadline=600.0)
    times = [when for when, _ in network.tried]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert times[0] == 0.0
    assert all(pause <= BASE_PAUSE * 2**number for number, pause in enumerate(pauses))
    assert max(pauses) <= LONGEST_PAUSE
    assert 0.8 < sum(pauses[10:]) / len(pauses[10:]) < 1.2  # half of the longest on average


def test_a_link_that_lived_is_replaced_at_once_and_one_that_did_not_with_growing_pauses() -> None:
    world = World(seed=5)
    connector = Welcomed(Away(), [Address("one", 5000)], KEY, hello=HELLO, rng=MostPatient())
    assert [time_to_connect(world, connector) for _ in range(4)] == [0.0, 0.05, 0.1, 0.2]
    world.run_until(lambda: False, deadline=world.now + STEADY + 1)
    assert time_to_connect(world, connector) == 0.05


class Welcomed(Connector):
    """Every master greets at once."""

    async def _greet(self, address: Address) -> Any:
        return None, None


class MostPatient(random.Random):
    """Draws the upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b


def time_to_connect(world: World, connector: Connector) -> float:
    began = world.now
    connecting = world.outside.start(connector.connect())
    world.run_until(connecting.done, deadline=began + 60.0)
    return round(world.now - began, 6)
