"""A master and two workers of one's own, for as long as one looks.

temporary folder: key, configuration, socket, store, logs
    master ──Unix socket── worker 1, worker 2          each a process; all ended, and removed with the folder
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import tomli_w

from qdistd.cli.key import make_key
from qdistd.client.client import Client
from qdistd.errors import Unavailable
from qdistd.protocol import Status

INSTANCES = ("1", "2")

READY_SECONDS = 20.0
"""Seconds the master has to answer: it takes less than one, but the machine may be busy."""

LOOK_SECONDS = 0.5
"""Seconds between two looks at whether the daemons still live, until the master answers."""

FAREWELL = 5.0
"""Seconds a daemon has to end before it is killed."""

LONGEST_FOLDER = 64
"""Characters in the path that our folder goes into: the kernel takes 107 for a whole socket."""

FOREIGN = ("QDIST_", "LISTEN_", "NOTIFY_", "WATCHDOG_", "JOURNAL_", "CREDENTIALS_")
"""Environment that ties a process to a configuration or to a service manager. These daemons have neither."""

Tables = Mapping[str, Mapping[str, Any]]


class PrivateCluster:
    """The daemons in their folder."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:{folder}/master.sock"
        self._folder = folder
        self._key = folder / "qdist.key"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start everything. The workers wait for the master by themselves."""
        make_key(self._key)
        key, folder = str(self._key), self._folder
        self._spawn(
            "master",
            {
                "master": {"listen": [self.address], "store": f"sqlite://{folder}/qdist.db"},
                "keys": {role: [key] for role in ("admin", "work", "submit")},
            },
        )
        own = {"masters": [self.address], "key": key, "processes": 1, "state": str(folder / "worker")}
        for name in INSTANCES:
            self._spawn("worker", {"worker": own}, name)

    def _spawn(self, kind: str, settings: Tables, *instance: str) -> None:
        name = "-".join((kind, *instance))
        config = self._folder / f"{name}.toml"
        config.write_text(tomli_w.dumps(settings))
        with self._log(name).open("wb") as log:
            self._daemons[name] = subprocess.Popen(
                [sys.executable, "-m", "qdistd", kind, "-c", str(config), *instance],
                env={name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for us; they hear of it from `end`
            )

    def client(self) -> Client:
        """A client of the master, once that answers. Unavailable, with the last words of a daemon, when one is dead."""
        client = Client(self.address, self._key, timeout=READY_SECONDS)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            self._refuse_the_dead()
            try:
                client.ask(Status(), LOOK_SECONDS)
            except (Unavailable, TimeoutError):
                if time.monotonic() > deadline:
                    raise
            else:
                return client

    def _refuse_the_dead(self) -> None:
        for name, daemon in self._daemons.items():
            if daemon.poll() is not None:
                words = self._log(name).read_text(errors="replace").splitlines()[-1:]
                raise Unavailable(f"the private {name} ended with exit code {daemon.returncode}: {' '.join(words)}")

    def end(self) -> None:
        """End all daemons, the master last."""
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in reversed(self._daemons.values()):
            try:
                daemon.wait(FAREWELL)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


@contextlib.contextmanager
def private_cluster() -> Iterator[PrivateCluster]:
    """Start one; end and remove all of it, also on Ctrl-C, SIGTERM and the end of the terminal."""
    with _signals_raise(), tempfile.TemporaryDirectory(prefix="qdist-demo-", dir=_short_folder()) as folder:
        cluster = PrivateCluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            # A second Ctrl-C must not leave processes behind; the farewell is short.
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            cluster.end()
            signal.signal(signal.SIGINT, before)


def _short_folder() -> str | None:
    """Where the folder goes: /tmp if the usual place has too long a path for a socket."""
    return "/tmp" if len(tempfile.gettempdir()) > LONGEST_FOLDER else None  # noqa: S108 - mkdtemp picks the name


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Have the signals that would end us at once end us in order instead."""
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
