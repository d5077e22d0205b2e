"""A pool with real children for a test, and what one waits for at its side.

@at_the_pool(processes=2)
async def test_something(side: Poolside) -> None:
    task = side.give("hold", side.news, "a", side.gate)
    await side.hears("a")              the task runs
    side.open_gate()
    settlement = await side.end(task)
"""

import asyncio
import inspect
import logging
import os
import select
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec

from qdistd.call import decode_failure, decode_value, encode_call
from qdistd.cgroup import Cgroup
from qdistd.model import Failure, Grant, Outcome, Settlement
from qdistd.pool import Pool, PoolEstate, PoolSettings
from qdistd.pool.cgroups import Ground

DEADLINE = 30.0
"""Seconds after which a test that waits has failed."""

TASKS = PoolSettings(processes=1, modules=("task_samples",), path=(str(Path(__file__).parent),), result=1 << 20)


class Poolside:
    """The other side of a pool: gives it tasks, hears from them, sees them end."""

    def __init__(self, folder: Path, settings: PoolSettings, home: Cgroup | None = None) -> None:
        self.folder = folder
        self.home = home
        self.news, self.gate = str(folder / "news"), str(folder / "gate")
        os.mkfifo(self.news)
        os.mkfifo(self.gate)
        self.settled: list[Settlement] = []
        self.rooms: list[int] = []
        """What `room()` was each time the pool said that it had grown."""
        self.heard: list[str] = []
        self.log = Log()
        self._settings = settings
        self.pool = self._make()
        self._given = 0
        self._bell = asyncio.Event()
        self._ear = os.open(self.news, os.O_RDWR | os.O_NONBLOCK)
        self._gatekeeper = os.open(self.gate, os.O_RDWR)
        self._unheard = b""
        asyncio.get_running_loop().add_reader(self._ear, self._listen)
        self.log.bell = self._bell.set

    def _make(self, estate: PoolEstate | None = None) -> Pool:
        ground = Ground(self.home) if self.home else None
        calls = {"wall": time.time, "done": self._done, "room": self._room}
        return Pool(self._settings, **calls, log=self.log.logger, ground=ground, estate=estate)

    async def hand_over(self, change: Callable[[dict[str, Any]], None] = lambda estate: None) -> None:
        """Go on with a fresh pool, as after an exec, once somebody has changed what was written down for it."""
        await self.pool.calm()
        estate = msgspec.msgpack.decode(msgspec.msgpack.encode(self.pool.bequeath()), strict=False)
        change(estate)
        self.pool = self._make(msgspec.convert(estate, PoolEstate, strict=False))
        await self.pool.start()

    async def close(self) -> None:
        await self.pool.close()
        asyncio.get_running_loop().remove_reader(self._ear)
        os.close(self._ear)
        self.open_gate()

    def grant(self, name: str, *args: object, timeout: float = 0.0, **kwargs: object) -> Grant:
        self._given += 1
        payload = encode_call(args, kwargs)
        return Grant(self._given.to_bytes(16, "big"), 1, name, payload, timeout=timeout)

    def give(self, name: str, *args: object, timeout: float = 0.0, **kwargs: object) -> Grant:
        grant = self.grant(name, *args, timeout=timeout, **kwargs)
        self.pool.give([grant])
        return grant

    def open_gate(self) -> None:
        """Let all tasks go on that wait at the gate, now and later."""
        if self._gatekeeper >= 0:
            (self.folder / "open").touch()
            (self.folder / "open").replace(self.gate)
            os.close(self._gatekeeper)
            self._gatekeeper = -1

    async def until(self, true: Callable[[], Any]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not true():
                self._bell.clear()
                await self._bell.wait()

    async def hears(self, *words: str) -> None:
        """Wait until the tasks have said these words, in whatever order."""
        await self.until(lambda: set(words) <= set(self.heard))

    def reads_before_the_pool(self) -> str:
        """The next word of a task, heard while the pool hears nothing."""
        select.select([self._ear], [], [], DEADLINE)
        self._listen()
        return self.heard[-1]

    async def end(self, grant: Grant) -> Settlement:
        await self.until(lambda: any(settlement.id == grant.id for settlement in self.settled))
        [settlement] = [settlement for settlement in self.settled if settlement.id == grant.id]
        assert settlement.attempt == grant.attempt
        return settlement

    async def result(self, grant: Grant) -> Any:
        settlement = await self.end(grant)
        assert settlement.outcome is Outcome.SUCCEEDED, decode_failure(settlement.value)
        return decode_value(settlement.value)

    async def gone(self, pid: int) -> None:
        """Wait until a child is gone."""
        async with asyncio.timeout(DEADLINE):
            while pid in children():
                await self.run("pid")

    async def failure(self, grant: Grant, outcome: Outcome = Outcome.FAILED) -> Failure:
        settlement = await self.end(grant)
        assert settlement.outcome is outcome
        return decode_failure(settlement.value)

    async def run(self, name: str, *args: object, **kwargs: object) -> Any:
        return await self.result(self.give(name, *args, **kwargs))

    async def teach(self, name: str, *args: object) -> None:
        """Have the pool know that tasks of this name are short, and forget that they ran."""
        await self.run(name, *args)
        while self.pool.room() < 20:  # the machine was busy with something else for a moment
            await self.run(name, *args)
        self.settled.clear()

    async def say(self, name: str, *args: object) -> Any:
        """The result of a task, or else the message of its failure."""
        settlement = await self.end(self.give(name, *args))
        if settlement.outcome is Outcome.SUCCEEDED:
            return decode_value(settlement.value)
        return decode_failure(settlement.value).message

    def _done(self, settlement: Settlement) -> None:
        self.settled.append(settlement)
        self._bell.set()

    def _room(self) -> None:
        self.rooms.append(self.pool.room())
        self._bell.set()

    def _listen(self) -> None:
        *lines, self._unheard = (self._unheard + os.read(self._ear, 65536)).split(b"\n")
        self.heard += [line.decode() for line in lines]
        self._bell.set()


class Log(logging.Handler):
    """What the pool logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.records: list[logging.LogRecord] = []
        self.bell: Callable[[], None] = lambda: None
        self.logger = logging.Logger("pool")
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.records.append(record)
        self.bell()


def settings(**changes: Any) -> PoolSettings:
    """Those of a pool for tests: one child that runs `task_samples`."""
    return msgspec.structs.replace(TASKS, **changes)


Scene = Callable[..., Awaitable[None]]
Place = Callable[[], AbstractContextManager[Cgroup | None]]


def at_the_pool(place: Place = nullcontext, **changes: Any) -> Callable[[Scene], Callable[..., None]]:
    """Makes a test of a coroutine that needs a started pool; `changes` are to its settings.

    `place`: what makes a cgroup in which the children get theirs.
    """

    def made(scene: Scene) -> Callable[..., None]:
        def test(tmp_path: Path, **given: Any) -> None:
            async def whole(home: Cgroup | None) -> None:
                side = Poolside(tmp_path, settings(**changes), home)
                await side.pool.start()
                try:
                    await scene(side, **given)
                finally:
                    await side.close()

            with place() as home:
                asyncio.run(whole(home))

        _, *others = inspect.signature(scene).parameters.values()
        folder = inspect.Parameter("tmp_path", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        test.__name__ = scene.__name__
        test.__signature__ = inspect.Signature([folder, *others])  # type: ignore[attr-defined] # pytest reads it
        return test

    return made


def children() -> list[int]:
    """The processes, dead ones that nobody has buried too, that the pools of this process have."""
    pids = Path("/proc/thread-self/children").read_text().split()
    return [int(pid) for pid in pids if Path(f"/proc/{pid}/comm").read_text() == "qdist-child\n"]
