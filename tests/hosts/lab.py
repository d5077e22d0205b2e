"""Hosts on one bridge, gone with the `with`.

    with Lab() as lab:
        m, w1 = lab.up(m=base("bookworm"), w1=base("trixie"))      both boot at the same time
        m.run("systemctl", "start", "qdist-master")
        w1.cut()

Every host knows the others by name, and the lab as `lab`. What a killed test-suite left behind goes with the next lab.
"""

import os
import re
import shutil
import subprocess
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.hosts.host import Host, cgroup2, remove_cgroup
from tests.hosts.images import CACHE, Image
from tests.hosts.network import NAMESPACES, SUBNET4, Network, remove_namespaces
from tests.patience import until

NUMBERS = count(1)

NAME = re.compile(r"qdist-(\d+)-\d+")
"""Labs are named by the process that made them, so that others know when nobody can want them any more."""

FIRST = 2
"""The number of the first host: the lab itself is 1."""


class Lab:
    """Some hosts and the bridge between them."""

    def __init__(self) -> None:
        sweep()
        self.name = f"qdist-{os.getpid()}-{next(NUMBERS)}"
        self.hosts: dict[str, Host] = {}
        self.address = f"{SUBNET4}1"
        """Of the lab's own end of the bridge, where `run` and `popen` are."""
        self._folder = CACHE / "labs" / self.name
        self._network = Network(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts.values():
            host.kill()
        self._network.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def up(self, **images: Image) -> list[Host]:
        """Boot hosts of these names, all at once; every name of a host of the lab stands in their /etc/hosts."""
        first = FIRST + len(self.hosts)
        numbers = {name: number for number, name in enumerate(images, first)}
        known = {host.name: host.number for host in self.hosts.values()} | numbers
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost", f"{self.address} lab"]
        lines += [f"{SUBNET4}{number} {name}" for name, number in known.items()]
        for name, image in images.items():
            text = "\n".join(lines) + "\n"
            self.hosts[name] = Host(name, numbers[name], self._network, image, self._folder / name, text)
            self.hosts[name].power_on()
        for name in images:
            self.hosts[name].wait_until_up()
        return [self.hosts[name] for name in images]

    def heal(self) -> None:
        """Take the faults from all cables."""
        for host in self.hosts.values():
            host.heal()

    def command(self, *command: str) -> list[str]:
        """What runs `command` in the network of the lab, at `address`, when it is run here."""
        return self._network.command(command)

    def run(self, *command: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine in the network of the lab. CalledProcessError where it fails."""
        return subprocess.run(
            self.command(*command), **{"check": True, "capture_output": True, "text": True, **options}
        )  # type: ignore[call-overload]

    def popen(self, *command: str, **options: object) -> subprocess.Popen[str]:
        """A command of this machine in the network of the lab, in the background."""
        return subprocess.Popen(self.command(*command), **options)  # type: ignore[call-overload]


def sweep() -> None:
    """Take away what is left of labs whose process is gone."""
    for cgroup in cgroup2().glob("qdist-*-*"):
        if abandoned(cgroup):
            (cgroup / "cgroup.kill").write_text("1")
            until(lambda here=cgroup: "populated 0" in (here / "cgroup.events").read_text(), f"the end of {cgroup}")
            remove_cgroup(cgroup)
    for space in NAMESPACES.glob("qdist-*-*"):
        if abandoned(space) and "." not in space.name:
            remove_namespaces(space.name)
    for folder in (CACHE / "labs").glob("qdist-*-*"):
        if abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def abandoned(trace: Path) -> bool:
    """Whether the process that made this lab, whose name starts the name of `trace`, is gone."""
    found = NAME.match(trace.name)
    return found is not None and not Path(f"/proc/{found[1]}").exists()
