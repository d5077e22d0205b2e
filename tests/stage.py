"""A worker on a stage: scripted master and pool, a real disk, real sockets, and a log that is heard.

@on_stage(Stage)
async def test_something(stage: Stage) -> None:
    await stage.running(1, 2)              a connected worker that has tasks 1 and 2
    stage.pool.finish(grant(1))
    await stage.until(lambda: stage.ends() == [(1, Outcome.SUCCEEDED)])
"""

import asyncio
import inspect
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar

from scripted import PATIENCE, POOL, WORK, Bell, Master, Pool

from qdistd.address import Address
from qdistd.model import Grant, Outcome, Settlement
from qdistd.wire.network import AsyncioNetwork
from qdistd.worker import Settings, Spool, Worker

LOG = logging.getLogger("test.worker")


class CountingNetwork(AsyncioNetwork):
    """The real one; `tries` counts the connections that were asked for. `bug` is raised instead of connecting."""

    def __init__(self, bell: Bell) -> None:
        self.tries = 0
        self.bug: Exception | None = None
        self._bell = bell

    async def connect(self, address: Address, factory: Callable[[], Any]) -> Any:
        self.tries += 1
        self._bell()
        if self.bug:
            raise self.bug
        return await super().connect(address, factory)


class Hasty(random.SystemRandom):
    """Draws pauses that no test has to wait for, and notes from which length they were to be drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.share = 0.001
        self.ceilings: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.ceilings.append(b)
        return a + (b - a) * self.share


class LoudSpool(Spool):
    """A spool that lets the test know what it keeps."""

    def __init__(self, path: Path, bell: Bell) -> None:
        super().__init__(path, LOG)
        self.kept = {(item.id[0], item.attempt) for item in self.unsent()}
        self._bell = bell

    def save(self, settlements: Iterable[Settlement]) -> bool:
        settlements = list(settlements)
        self.kept |= {(item.id[0], item.attempt) for item in settlements}
        self._bell()
        return super().save(settlements)

    def forget(self, settlements: Iterable[Settlement]) -> bool:
        settlements = list(settlements)
        self.kept -= {(item.id[0], item.attempt) for item in settlements}
        self._bell()
        return super().forget(settlements)


class Stage:
    """One worker, its pool, its folder, and a master that may come and go. `async with` clears it in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bell = Bell()
        self.until = self.bell.until
        self.master = Master(self.bell)
        self.network = CountingNetwork(self.bell)
        self.rng = Hasty()
        self.log: list[logging.LogRecord] = []
        self.pool: Pool
        self.spool: LoudSpool
        self.worker: Worker
        self.working: asyncio.Task[None]
        self.settings: Settings

    async def __aenter__(self) -> Self:
        self._ears = Ears(self)
        LOG.addHandler(self._ears)
        LOG.setLevel(logging.INFO)
        return self

    async def __aexit__(self, *_: object) -> None:
        LOG.removeHandler(self._ears)
        if hasattr(self, "working") and not self.working.done():
            await self.crash()
        self.master.stop()

    async def begin(self, *masters: Address, make_pool: Any = Pool, **changes: Any) -> None:
        """Start a worker: the first one, or the next incarnation."""
        whole = {
            "name": "1@host",
            "host": "host",
            "masters": masters,
            "key": WORK,
            "queues": ("default",),
            "pool": POOL,
        }
        self.settings = Settings(**whole | changes)
        self.spool = LoudSpool(self.folder / "spool.db", self.bell)
        self.worker = Worker(
            self.settings,
            network=self.network,
            pool=lambda settings, **calls: self._pool(make_pool(settings, **calls)),
            spool=self.spool,
            wall=time.time,
            rng=self.rng,
            log=LOG,
        )
        await self.worker.start()
        self.working = asyncio.ensure_future(self.worker.work())
        self.working.add_done_callback(lambda _: self.bell())

    async def connected(self) -> None:
        """Start a master, and a worker that has said hello and waits for tasks."""
        await self.begin(await self.master.start())
        await self.until(lambda: self.master.parked)

    async def running(self, *numbers: int) -> None:
        """Start a connected worker that has these tasks."""
        await self.connected()
        self.master.give(*map(grant, numbers))
        await self.until(lambda: len(self.pool.tasks) == len(numbers))

    @property
    def address(self) -> Address:
        """Where the worker looks for its master."""
        return self.settings.masters[0]

    def ends(self) -> list[tuple[int, Outcome]]:
        """The settlements that the master has heard."""
        return [(settlement.id[0], settlement.outcome) for settlement in self.master.settled]

    async def end(self, drain: float = 0.0) -> None:
        """Stop the worker, in order."""
        self.worker.stop(drain)
        await self.ended()

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.working

    async def crash(self) -> None:
        """The worker vanishes between two turns of its loop, as if killed. Its file is free again."""
        self.working.cancel()
        await asyncio.wait([self.working])

    def lines(self, level: int = logging.INFO) -> list[str]:
        """What the worker has written into its log."""
        return [record.getMessage() for record in self.log if record.levelno >= level]

    def _pool(self, pool: Any) -> Any:
        self.pool = pool
        pool.bell = self.bell
        return pool


class Ears(logging.Handler):
    """Hears what the worker logs."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        self._stage.log.append(record)
        self._stage.bell()


S = TypeVar("S", bound=Stage)


def on_stage(kind: type[S]) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Makes a test of a play: runs it on a stage of its own."""

    def made(play: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        def test(tmp_path: Path, **given: Any) -> None:
            async def whole() -> None:
                async with kind(tmp_path) as stage:
                    await play(stage, **given)

            asyncio.run(whole())

        _, *others = inspect.signature(play).parameters.values()
        folder = inspect.Parameter("tmp_path", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        test.__name__ = play.__name__
        test.__signature__ = inspect.Signature([folder, *others])  # type: ignore[attr-defined] # pytest reads it
        return test

    return made


def grant(number: int, attempt: int = 1) -> Grant:
    """A task for the scripted pool."""
    return Grant(bytes([number]) * 16, attempt, "square", b"payload")
