"""`qdist-master`."""

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import msgspec

from qdistd import lifecycle
from qdistd.address import Address
from qdistd.broker import QueueLimits, Retention, Settings
from qdistd.broker.schedules import Schedule
from qdistd.call import encode_call
from qdistd.config import MasterConfig, ScheduleConfig, load_master, master_keys
from qdistd.config.keys import ROLE_KEYS, renew
from qdistd.control import Request
from qdistd.daemon import Exit, run
from qdistd.errors import Refused, Unavailable
from qdistd.master import Host, Master, MasterSettings
from qdistd.master.commits import DiskCommits
from qdistd.master.faces import Compat
from qdistd.model import Task
from qdistd.programs.command import (
    SETTINGS,
    ask_to_reload,
    level_number,
    only_check,
    options_of,
    run_command,
    shared_options,
)
from qdistd.programs.sockets import ServiceNetwork, handed_over
from qdistd.protocol import Role
from qdistd.store import open_store
from qdistd.wire import plain
from qdistd.wire.keyring import Key, Keyring
from qdistd.wire.server import WireLimits
from qdistd.zones import zone

PROGRAM = "qdist-master"

AROUND_A_PAYLOAD = 4 * 1024
"""Bytes of a stock request beside the value that it puts."""

log = logging.getLogger("qdistd.master")


def main(arguments: Sequence[str]) -> int:
    """Run `qdist-master` with these arguments; its exit code."""
    return run_command(_command, PROGRAM, arguments)


@click.command(context_settings=SETTINGS)
@shared_options
@click.option(
    "--address-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the addresses that were really bound here, one a line (for port 0).",
)
def _command(file: Path | None, check: bool, again: bool, address_file: Path | None, **given: Any) -> Exit:
    """The manager daemon: keeps tasks and results, and hands tasks out to workers."""
    config = load_master(file)
    if check:
        return only_check(file or Path("/etc/qdist/master.toml"), lambda: settings_of(config))
    if again:
        return ask_to_reload(PROGRAM, ROLE_KEYS, lambda: settings_of(config), given)
    settings_of(config)  # reads the keys: what is wrong with them is said before anything starts
    options = options_of(PROGRAM, config.log.level, given)
    place = address_file and address_file.absolute()
    return run(options, lambda _: MasterService(file, config, place))


def settings_of(config: MasterConfig) -> MasterSettings:
    """What the configuration means to the master. ConfigError where a key file cannot be used."""
    limits, tasks = config.limits, config.tasks
    keys = [Key(key.secret, frozenset(map(Role, key.roles)), key.path.stem) for key in master_keys(config)]
    return MasterSettings(
        listen=config.listen,
        keyring=Keyring(keys),
        broker=Settings(
            lease=limits.lease,
            payload=limits.payload,
            retention=_retention(config),
            policy=lifecycle.Policy(crashes=tasks.crashes, losses=tasks.losses),
            queues={name: QueueLimits(**vars(queue)) for name, queue in config.queue.items()},
            queued=limits.queued,
        ),
        compat=Compat(
            queue=config.compat.queue,
            task=config.compat.task,
            limits=plain.Limits(bytes=max(limits.payload, limits.result) + AROUND_A_PAYLOAD),
        ),
        heartbeat=limits.heartbeat,
        result=limits.result,
        limits=WireLimits(
            handshake=limits.handshake,
            unauthenticated=limits.unauthenticated,
            stock=limits.payload + AROUND_A_PAYLOAD,
            min_digest="sha256" if config.keys.min_digest == "sha256" else "md5",
        ),
        connections=limits.connections,
        store_name=config.store,
        folder=_folder_of(config.store),
        free=limits.free,
        schedules=tuple(_schedule(name, schedule) for name, schedule in config.schedule.items()),
    )


def _schedule(name: str, config: ScheduleConfig) -> Schedule:
    """What the table of a schedule means. Its task gets an id of its own each time."""
    zone_name = config.calendar.zone or config.time_zone
    task = Task(
        bytes(16),
        config.task,
        encode_call(config.arguments, dict(config.keywords)),
        config.queue,
        priority=config.priority,
        timeout=config.timeout,
        retries=config.retries,
        expires=config.expires,
        unique="" if config.overlap else "running",
        unique_key="" if config.overlap else f"schedule:{name}",
    )
    return Schedule(
        name,
        config.calendar,
        zone(zone_name),
        rule=f"{config.calendar.text}\n{zone_name}",
        task=task,
        zone_name=zone_name,
        persistent=config.persistent,
        randomized_delay=config.randomized_delay,
    )


def _retention(config: MasterConfig) -> Retention:
    kept = config.retention
    return Retention(finished=kept.finished, failed=kept.failed, count=kept.count)


def _folder_of(store: str) -> Path | None:
    file = store.partition("://")[2]
    return Path(file).parent if file.startswith("/") else None


class MasterService:
    """A master as a service. Made on the event loop that it will run on."""

    def __init__(self, file: Path | None, config: MasterConfig, address_file: Path | None) -> None:
        self._file = file
        self._config = config
        self._address_file = address_file
        self._addresses: list[Address] = []
        loop = asyncio.get_running_loop()
        self._end: asyncio.Future[None] = loop.create_future()
        self._store = open_store(config.store)
        self._commits = DiskCommits(loop)
        self._network = ServiceNetwork(handed_over(os.environ))
        self._settings = self._settings_of(config)
        self._dissent = ""
        self._master = Master(
            self._settings,
            store=self._store,
            network=self._network,
            loop=loop,
            commits=self._commits,
            wall=time.time,
            rng=random.SystemRandom(),
            host=Host(version("qdistd"), socket.gethostname(), os.getpid()),
            broken=self._broken,
            log=log,
        )

    async def start(self) -> None:
        """See `daemon.Service`."""
        await self._network.give_up(but=self._settings.listen)
        self._note(await self._master.start())
        await self._compare()

    async def work(self) -> None:
        """See `daemon.Service`."""
        await self._end
        await self._master.stop()
        self._commits.close()
        self._store.close()

    async def reload(self, request: Request) -> None:
        """See `daemon.Service`."""
        renew(request.keys)
        config = load_master(self._file)
        if config.store != self._config.store:
            raise Refused("[master] store cannot change while the master runs: restart it instead")
        settings = self._settings_of(config)
        try:
            addresses = await self._master.reload(settings)
        except OSError:
            await self._master.reload(self._settings)
            raise
        self._config, self._settings = config, settings
        logging.getLogger().setLevel(level_number(config.log.level))
        self._note(addresses)
        await self._compare()

    def stop(self, _hurry: bool) -> float:
        """See `daemon.Service`. A master has nothing to drain: what arrived is committed and answered."""
        if not self._end.done():
            self._end.set_result(None)
        return 0.0

    def hang(self) -> str:
        """See `daemon.Service`."""
        return self._master.hang()

    def status(self) -> str:
        """See `daemon.Service`."""
        return f"{self._master.headline()}, listening on {', '.join(map(str, self._addresses))}{self._dissent}"

    def _settings_of(self, config: MasterConfig) -> MasterSettings:
        settings = settings_of(config)
        return msgspec.structs.replace(settings, listen=self._network.addresses(settings.listen))

    async def _compare(self) -> None:
        dissent = await self._network.dissent(self._config.listen)
        self._dissent = dissent and f"; {dissent}"
        if dissent:
            log.warning("%s", dissent)

    def _note(self, addresses: list[Address]) -> None:
        self._addresses = addresses
        log.info("listening on %s", ", ".join(map(str, addresses)))
        if self._address_file:
            self._address_file.write_text("".join(f"{address}\n" for address in addresses))

    def _broken(self, error: BaseException) -> None:
        """The store can promise nothing more: end at once, and come back with what is on the disk."""
        if not self._end.done():
            broken = Unavailable(f"the store is broken: {error}")
            broken.__cause__ = error
            self._end.set_exception(broken)
