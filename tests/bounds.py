"""Bounds around what a test is about to let loose, so that it cannot harm the machine: made, and shown to hold, first.

Where the kernel's version 2 tree has the controllers, they are set in the group itself; else a group of each version 1
tree is made, to be entered as well.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from patience import until

from qdistd.cgroup import PROCESSES, Cgroup

V1 = {"pids": ("pids", "pids.max"), "memory": ("memory", "memory.limit_in_bytes")}
V2 = {"pids": "pids.max", "memory": "memory.max"}
"""Where a limit is written, by controller."""

PROBE = """
import os, sys, time
started = 0
try:
    for _ in range(int(sys.argv[1])):
        if not os.fork():
            time.sleep(100)
        started += 1
except BlockingIOError:
    print(started)
os.killpg(0, 9)
"""
"""Forks a bounded number of times, and says how far it came where it was refused."""


@contextlib.contextmanager
def bounds(group: Cgroup, pids: int, memory: int) -> Iterator[list[Path]]:
    """Limit `group`, or make groups that do; all to be entered. AssertionError where they do not hold."""
    limits = {"pids": pids, "memory": memory}
    top = Cgroup(group.path.parent)
    with contextlib.ExitStack() as stack:
        others = [
            stack.enter_context(_first_version(name, limit))
            for name, limit in limits.items()
            if not (top.enable(name) and _write(group.path / V2[name], limit))
        ]
        _probe([group.path, *others], pids)
        yield [group.path, *others]


def reached(groups: list[Path]) -> bool:
    """Whether somebody was refused a process."""
    return any(Cgroup(group).count("pids.events", "max") > 0 for group in groups)


@contextlib.contextmanager
def _first_version(name: str, limit: int) -> Iterator[Path]:
    tree, file = V1[name]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    [top, *_] = [Path(mount[1]) for mount in mounts if mount[2] == "cgroup" and tree in mount[3].split(",")]
    group = Cgroup(top / f"qdist-test-{os.getpid()}").make()
    try:
        assert _write(group.path / file, limit)
        yield group.path
    finally:
        until(group.remove, f"{group.path} is empty")


def _write(file: Path, limit: int) -> bool:
    file.write_text(str(limit))
    return int(file.read_text()) == limit


def _probe(groups: list[Path], pids: int) -> None:
    """Fails unless a process in these groups is refused what is beyond the limit."""
    enter = "".join(f'echo 0 >"{group / PROCESSES}" && ' for group in groups)
    line = ["sh", "-c", f'{enter}exec "$@"', "sh", sys.executable, "-c", PROBE, str(pids + 10)]
    said = subprocess.run(line, stdout=subprocess.PIPE, text=True, start_new_session=True, check=False).stdout
    assert said and int(said) < pids, "no limit of processes holds here"
    for group in groups:
        until(lambda group=group: not Cgroup(group).count("pids.current"), f"{group} is empty again")  # type: ignore[misc]
