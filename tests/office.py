"""A real master in a thread of its own, and a worker of a few lines: for tests of the blocking client.

    with Office(folder) as office, office.client() as q:
        q.submit("square", 7).result()            tasks of the queue "default" run; those of other queues just wait
        office.stop(); office.start()             the same store, the same port

A task is `square`, `fail`, `kill`, `echo`, or any function of the standard library by its name.
"""

import asyncio
import contextlib
import importlib
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from cluster import reserve_port
from serving import ALL, SUBMIT, serving

import qdistd
from qdistd import protocol as say
from qdistd.address import Address
from qdistd.broker import Settings
from qdistd.call import decode_call, decode_value, encode_failure, encode_value
from qdistd.errors import Unavailable
from qdistd.lifecycle import Policy
from qdistd.model import Failure, Grant, Outcome, Settlement

PATIENCE = 20.0
"""Seconds after which something that a test waits for will not happen any more."""

TASKS: dict[str, Callable[..., Any]] = {
    "square": lambda n: f"{n} * {n} = {n * n}",
    "echo": lambda *args, **kwargs: [args, kwargs],
    "fail": lambda: 1 // 0,
}


class Office:
    """Runs a master; made with `with`, or by `start`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self._settings = {"broker": Settings(policy=Policy(crashes=1)), **settings}
        self._port = reserve_port()
        self.address = Address(*self._port.getsockname())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._port.close()

    def start(self) -> None:
        """Serve. Returns when it does."""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def stop(self) -> None:
        """Stop serving; the store stays. May be called twice."""
        with contextlib.suppress(RuntimeError):  # it has stopped before
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE)

    def client(self, **options: Any) -> qdistd.Client:
        """A client of this master."""
        return qdistd.Client(str(self.address), SUBMIT.secret, **options)

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with serving(self.folder, listen=(self.address,), **self._settings) as served:
            working = asyncio.create_task(_work(await served.worker(key=ALL)))
            self._ready.set()
            await self._over.wait()
            working.cancel()
        await asyncio.wait([working])


async def _work(worker: Any) -> None:
    with contextlib.suppress(Unavailable):
        while True:
            granted: say.Granted = await worker.call(say.Lease(["default"], 1000, 20.0))
            await worker.call(say.Report([_run_one(grant) for grant in granted.grants]))


def _run_one(grant: Grant) -> Settlement:
    if grant.name == "kill":
        failure = encode_failure(Failure("signal", "killed by signal 9", number=9))
        return Settlement(grant.id, grant.attempt, Outcome.CRASHED, failure)
    try:
        args, kwargs = decode_call(grant.payload)
        if grant.take:
            inputs = [decode_value(value) if value else None for value in grant.inputs]
            args = (inputs, *args) if grant.take == "list" else (*inputs, *args)
        value = encode_value((TASKS.get(grant.name) or _by_name(grant.name))(*args, **kwargs))
        return Settlement(grant.id, grant.attempt, Outcome.SUCCEEDED, value)
    except Exception as error:  # noqa: BLE001 - a task may raise anything
        failed = Failure("exception", str(error), type(error).__name__, traceback.format_exc())
        return Settlement(grant.id, grant.attempt, Outcome.FAILED, encode_failure(failed))


def _by_name(name: str) -> Callable[..., Any]:
    module, _, function = name.rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
