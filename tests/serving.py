"""A master inside the test's own event loop, on a real socket, and the two kinds of clients that talk to it."""

import asyncio
import gc
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

from qdistd import protocol as say
from qdistd.address import Address
from qdistd.call import encode_call
from qdistd.master import Host, Master, MasterSettings
from qdistd.master.commits import DiskCommits
from qdistd.model import Grant, Held, IdMaker, Outcome, Settlement, Task
from qdistd.protocol import Role
from qdistd.store import open_store
from qdistd.wire.keyring import Key, Keyring
from qdistd.wire.link import Link
from qdistd.wire.network import AsyncioNetwork

ALL = Key(b"k" * 32, frozenset({Role.SUBMIT, Role.WORK, Role.ADMIN}), "all")
SUBMIT = Key(b"s" * 32, frozenset({Role.SUBMIT}), "submit")
WORK = Key(b"w" * 32, frozenset({Role.WORK}), "work")

new_id = IdMaker(time.time, random.Random(5).randbytes)


class Served:
    """A running master and how to reach it."""

    def __init__(self, master: Master, address: Address, broken: list[BaseException]) -> None:
        self.master = master
        self.address = address
        self.broken = broken

    async def link(self, key: Key = ALL) -> Link:
        return await Link.open(AsyncioNetwork(), self.address, key.secret)

    async def worker(self, token: str = "t", name: str = "w", held: tuple[Held, ...] = (), key: Key = WORK) -> Link:
        link = await self.link(key)
        await link.call(say.Hello("worker", name, token=token.encode() * 16, queues=["default"], held=list(held)))
        return link

    def manager(self, key: Key = ALL) -> BaseManager:
        return stock_manager(self.address, key)


@asynccontextmanager
async def serving(
    folder: Path, *, rng: random.Random | None = None, wall: Callable[[], float] = time.time, **settings: Any
) -> AsyncIterator[Served]:
    """A master with its store in `folder`; opened again there it goes on where it was."""
    loop = asyncio.get_running_loop()
    commits = DiskCommits(loop)
    store = open_store(f"sqlite://{folder}/qdist.db")
    broken: list[BaseException] = []
    settings.setdefault("listen", (Address("127.0.0.1", 0),))
    master = Master(
        MasterSettings(keyring=Keyring([ALL, SUBMIT, WORK]), **settings),
        store=store,
        network=AsyncioNetwork(),
        loop=loop,
        commits=commits,
        wall=wall,
        rng=rng or random.SystemRandom(),
        host=Host("test", "here", 1),
        broken=broken.append,
        log=logging.getLogger("master"),
    )
    try:
        (address,) = await master.start()
        yield Served(master, address, broken)
    finally:
        await master.stop()
        commits.close()
        store.close()


def stock_manager(address: Address, key: Key) -> BaseManager:
    """A plain client of the two queues, as in the tutorial."""

    class QueueManager(BaseManager):
        pass

    QueueManager.register("get_task_queue")
    QueueManager.register("get_result_queue")
    manager = QueueManager(address=(address.host, address.port), authkey=key.secret)
    manager.connect()
    return manager


def task(*args: object, **options: Any) -> Task:
    return Task(new_id(), options.pop("name", "square"), encode_call(args, {}), **options)


def settled(grant: Grant, outcome: Outcome = Outcome.SUCCEEDED, value: bytes = b"v") -> Settlement:
    return Settlement(grant.id, grant.attempt, outcome, value)


def run(scenario: Callable[[], Any]) -> None:
    """Run an async test with a bound on its time.

    No garbage is collected meanwhile: a plain proxy that is part of a cycle says goodbye when it is, and if that were
    in the thread of the loop, where the master it calls should answer, both would wait for ever.
    """

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario()

    gc.disable()
    try:
        asyncio.run(bounded())
    finally:
        gc.enable()
