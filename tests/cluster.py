"""A master, its workers and its clients, all real, in a folder and on a port of their own.

cluster.master.kill()            kill -9, gone when it returns
cluster.master.start()           again, on the same port; returns when it serves
cluster.workers[0].stop()        SIGTERM: drains; the exit code
cluster.add_worker("gpu", worker={"queues": ["gpu"]})
with cluster.client() as q: q.submit("square", 7).result(timeout=10)
"""

import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from daemons import Daemon, python

import qdistd

ROLES = ("admin", "work", "submit")

Table = Mapping[str, Any]
Tables = Mapping[str, Table | list[Table]]
"""What a TOML file has: tables, and lists of tables as [[share]]."""


class Cluster:
    """One master and its workers. Nothing runs before `start`; `folder` holds all they keep."""

    def __init__(self, folder: Path, *, workers: int = 2, master: Tables | None = None, worker: Tables | None = None):
        self.folder = folder
        self._port = reserve_port()
        self.address = f"127.0.0.1:{self._port.getsockname()[1]}"
        self.keys = {role: make_key(folder / f"{role}.key") for role in ROLES}
        self._master_tables, self._worker_tables = master or {}, worker or {}
        self.configure_master()
        self.master = Daemon("master", self._command("master", "-c", str(folder / "master.toml")), folder)
        self.workers: list[Daemon] = []
        for number in range(workers):
            self.add_worker(f"w{number + 1}")

    @property
    def daemons(self) -> list[Daemon]:
        """The master, then the workers."""
        return [self.master, *self.workers]

    def start(self) -> "Cluster":
        """Start all daemons; they serve when it returns."""
        for daemon in self.daemons:
            daemon.spawn()
        for daemon in self.daemons:
            daemon.wait_for("READY=1")
        return self

    def configure_master(self, **tables: Mapping[str, Any]) -> None:
        """Write `master.toml` anew, with these tables over those it began with: `limits={"payload": "1 KiB"}`."""
        common = {
            "master": {"listen": [self.address], "store": f"sqlite://{self.folder}/qdist.db"},
            "keys": {role: [str(path)] for role, path in self.keys.items()},
        }
        write_toml(self.folder / "master.toml", common, self._master_tables, tables)

    def configure_worker(self, name: str, **tables: Table | list[Table]) -> Path:
        """Write `NAME.toml` anew, with these tables over those that every worker of this cluster has."""
        common = {
            "worker": {
                "masters": [self.address],
                "key": str(self.keys["work"]),
                "processes": 1,
                "state": str(self.folder / "worker"),
            }
        }
        file = self.folder / f"{name}.toml"
        write_toml(file, common, self._worker_tables, tables)
        return file

    def add_worker(self, name: str, **tables: Table | list[Table]) -> Daemon:
        """One more worker, not yet started."""
        file = self.configure_worker(name, **tables)
        worker = Daemon(name, self._command("worker", "-c", str(file), "--instance", name), self.folder)
        self.workers.append(worker)
        return worker

    def client(self, role: str = "submit", **options: Any) -> qdistd.Client:
        """A client of this master with the key of `role`."""
        return qdistd.Client(self.address, key=self.keys[role], **options)

    def close(self) -> None:
        """End whatever still runs."""
        for daemon in self.daemons:
            daemon.close()
        self._port.close()

    def _command(self, *arguments: str) -> list[str]:
        return python("-m", "qdistd", *arguments)


def reserve_port() -> socket.socket:
    """A port that stays ours while nobody listens: bound, never listening, so that a restart finds it free.

    Without it a connection attempt to the dead master could be given that very port by the kernel.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


def make_key(path: Path) -> Path:
    """A fresh key, readable for nobody else."""
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32) + "\n")
    return path


def write_toml(path: Path, *layers: Tables) -> None:
    """Write tables; a key of a later layer replaces that of an earlier one, and so does a list of tables."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for table, keys in layer.items():
            if isinstance(keys, list):
                merged[table] = keys
            else:
                merged.setdefault(table, {}).update(keys)
    path.write_text(tomli_w.dumps(merged))
