"""`qdist-worker`."""

import functools
import logging
import os
import random
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from qdistd import succession, systemd
from qdistd.config import DEFAULT_INSTANCE, WorkerConfig, load_worker, own_key
from qdistd.config.keys import renew
from qdistd.config.loading import instances
from qdistd.control import Request
from qdistd.daemon import Bequeath, Exit, run
from qdistd.errors import Refused
from qdistd.model import Life
from qdistd.pool import Pool, claim
from qdistd.programs.command import (
    SETTINGS,
    ask_to_reload,
    level_number,
    only_check,
    options_of,
    run_command,
    shared_options,
)
from qdistd.protocol import Role
from qdistd.wire.keyring import Key
from qdistd.wire.network import AsyncioNetwork
from qdistd.worker import Settings, Spool, Worker, WorkerEstate

PROGRAM = "qdist-worker"

STATE_MODE = 0o700
"""The folder of an instance holds results, which are nobody else's business."""

log = logging.getLogger("qdistd.worker")


def main(arguments: Sequence[str]) -> int:
    """Run `qdist-worker` with these arguments; its exit code."""
    return run_command(_command, PROGRAM, arguments)


def _instances(context: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """What the shell offers: the instances that have settings of their own."""
    return [name for name in instances(context.params.get("file")) if name.startswith(typed)]


@click.command(context_settings=SETTINGS)
@click.argument("instance", required=False, shell_complete=_instances)
@click.option("--instance", "named", metavar="NAME", help=f"The same as INSTANCE (default: {DEFAULT_INSTANCE}).")
@click.option("--heir", type=int, hidden=True, help="Only say whether this program can take an estate of that version.")
@shared_options
def _command(
    instance: str | None, named: str | None, file: Path | None, check: bool, again: bool, heir: int | None, **given: Any
) -> Exit:
    """One worker instance: takes tasks from a master and runs them in child processes."""
    if instance and named and instance != named:
        raise click.UsageError(f"two names for one instance: {instance} and {named}")
    name = instance or named or DEFAULT_INSTANCE
    config = load_worker(file, name)
    if check:
        return only_check(file or Path("/etc/qdist/worker.toml"), lambda: settings_of(config))
    if again:
        return ask_to_reload(f"{PROGRAM}/{name}", ("work.key",), lambda: settings_of(config), given)
    settings_of(config)  # reads the key: what is wrong with it is said before anything starts
    if heir is not None:
        return _only_inherit(heir)
    options = options_of(f"{PROGRAM}@{name}", config.log.level, given)
    return run(options, lambda state: WorkerService(file, config, state))


def _only_inherit(version: int) -> Exit:
    """What --heir does, once all else is well: see `qdistd.succession`."""
    if version != succession.VERSION:
        raise Refused(f"the program on the disk cannot take over from this one (version {version}): restart it instead")
    return Exit.OK


def settings_of(config: WorkerConfig) -> Settings:
    """What the configuration means to the worker. ConfigError where its key file cannot be used."""
    key = Key(own_key(config), frozenset({Role.WORK}), config.key.stem)
    life = Life(systemd.machine(), systemd.boot(), systemd.invocation(os.environ))
    return Settings.of(config, key, socket.gethostname(), life)


class WorkerService:
    """A worker as a service. Made on the event loop that it will run on. `state`: what an earlier image has left."""

    def __init__(self, file: Path | None, config: WorkerConfig, state: bytes = b"") -> None:
        self._file = file
        self._config = config
        config.folder.mkdir(mode=STATE_MODE, parents=True, exist_ok=True)
        pool_log = logging.getLogger("qdistd.pool")
        ground = claim(pool_log)
        if config.limits.pids and not (ground and "pids" in ground.controllers):
            pool_log.warning("[limits] pids holds for nobody here: there is no cgroup to divide that counts processes")
        estate = msgspec.msgpack.decode(state, type=WorkerEstate) if state else None
        pool_estate = estate.pool if estate else None
        self._worker = Worker(
            settings_of(config),
            network=AsyncioNetwork(),
            pool=functools.partial(Pool, wall=time.time, log=pool_log, ground=ground, estate=pool_estate),
            spool=Spool(config.folder / "spool.db", log),
            wall=time.time,
            rng=random.SystemRandom(),
            log=log,
            estate=estate,
        )

    async def start(self) -> None:
        """See `daemon.Service`."""
        await self._worker.start()

    async def work(self) -> None:
        """See `daemon.Service`."""
        await self._worker.work()

    async def reload(self, request: Request) -> Bequeath | None:
        """See `daemon.Service`. A worker of a plain server stays the image it is: nobody else can take up a `get`."""
        renew(request.keys)
        config = load_worker(self._file, self._config.instance)
        for name in ("state", "protocol"):
            if getattr(config, name) != getattr(self._config, name):
                raise Refused(f"[worker] {name} cannot change while the worker runs: restart it instead")
        settings = settings_of(config)
        await self._worker.rehearse(settings)
        if not settings.plain_task:
            return self._bequeath
        self._worker.reload(settings)
        self._config = config
        logging.getLogger().setLevel(level_number(config.log.level))
        return None

    async def _bequeath(self) -> tuple[bytes, list[int]]:
        estate = await self._worker.bequeath()
        return msgspec.msgpack.encode(estate), estate.pool.descriptors()

    def stop(self, hurry: bool) -> float:
        """See `daemon.Service`."""
        drain = 0.0 if hurry else self._config.drain
        self._worker.stop(drain)
        return drain + self._config.limits.grace

    def hang(self) -> str:
        """See `daemon.Service`."""
        return self._worker.hang()

    def status(self) -> str:
        """See `daemon.Service`."""
        return self._worker.status()
