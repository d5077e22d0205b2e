"""A storm of new connections, each with the whole handshake of a plain client.

    with storming(lab, host, 5000, key_file) as storm:
        host.systemctl("restart", "qdist-master")
    assert storm.failures == []

It blows in a process in the network of the lab (`python -m tests.hosts.storm HOST PORT KEYFILE`) until its input ends.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

from tests.hosts.host import Host
from tests.hosts.lab import Lab

THREADS = 8

BLOWING = "blowing\n"

FEW = 0.005
"""Seconds between two connections of a thread: some hundred a second are a storm, and leave the machine to others."""


@contextmanager
def storming(lab: Lab, host: Host, port: int, key: Path) -> Iterator["Storm"]:
    """A storm around what is done meanwhile; its figures are there afterwards."""
    command = [sys.executable, "-m", "tests.hosts.storm", host.ip, str(port), str(key)]
    blowing = lab.popen(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    storm = Storm()
    try:
        assert blowing.stdout is not None
        assert blowing.stdout.readline() == BLOWING
        yield storm
    finally:
        told, _ = blowing.communicate()
    storm.__dict__.update(json.loads(told))


class Storm:
    """`failures` and `slowest` so far, in `tried` connections."""

    def __init__(self) -> None:
        self.tried, self.slowest = 0, 0.0
        self.failures: list[str] = []
        self._over = threading.Event()

    def blow(self, host: str, port: int, key: bytes) -> None:
        """Connect until standard input ends, and tell how it went."""
        threads = [threading.Thread(target=self._connect, args=((host, port), key)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        sys.stdout.write(BLOWING)
        sys.stdout.flush()
        sys.stdin.read()
        self._over.set()
        for thread in threads:
            thread.join()
        print(json.dumps({"tried": self.tried, "failures": self.failures, "slowest": self.slowest}))

    def _connect(self, address: tuple[str, int], key: bytes) -> None:
        while not self._over.wait(FEW):
            began = time.monotonic()
            try:
                Client(address, authkey=key).close()
            except (OSError, EOFError, AuthenticationError) as error:
                self.failures.append(f"{error!r} after {time.monotonic() - began:.3f} s")
            self.tried += 1
            self.slowest = max(self.slowest, time.monotonic() - began)


if __name__ == "__main__":
    Storm().blow(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).read_bytes().removesuffix(b"\n"))
