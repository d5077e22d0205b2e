"""A cgroup of a test's own, below the top of the kernel's version 2 tree: what `Delegate=yes` gives to a service."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from patience import until

from qdistd.cgroup import PROCESSES, Cgroup


@contextlib.contextmanager
def clearing() -> Iterator[Cgroup]:
    """An empty group; what lives in it at the end is killed."""
    if os.geteuid():
        pytest.skip("only root can make cgroups")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    [top, *_] = [Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"]
    group = Cgroup(top / f"qdist-test-{os.getpid()}").make()
    try:
        yield group
    finally:
        group.kill()
        until_gone(group)


def until_gone(group: Cgroup) -> None:
    """Wait until it is removed, by us or by somebody else: the kernel takes a moment to end what was killed."""
    until(group.remove, f"{group.path} is empty")


def inside(group: Cgroup, command: Sequence[str]) -> str:
    """Run `command` in the group, to its end; what it has printed."""
    line = ["sh", "-c", 'echo 0 >"$0" && exec "$@"', str(group.path / PROCESSES), *command]
    return subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout
