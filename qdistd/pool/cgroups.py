"""Every child in a cgroup of its own, where the service manager has given us one to divide (`Delegate=yes`).

    home/                  the unit's own
      supervisor/          the worker
      child-1/             limits, what was used, and the end of all that the child has started
        run-1/             where the child lives; a task with limits of its own may get the next, see `child.cell`
      child-2/ …

Without one, and on kernels without version 2, process groups and rlimits do what they can.
"""

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from qdistd.cgroup import PROCESSES, Cgroup

SUPERVISOR = "supervisor"
"""Our own group: with controllers in force, the kernel wants processes in the leaves."""

CHILD = "child-"

FIRST_RUN = "run-1"

WANTED = ("memory", "pids", "cpu")
"""Controllers; a child is accounted, limited and scheduled by those of them that there are."""

MARKS = ("user.delegate", "trusted.delegate")
"""Attributes that systemd gives to a group that it leaves to its service."""

FIRST_LOOK = 0.01
LAST_LOOK = 10.0
"""Seconds until a group is empty whose processes were killed: soon, or when the kernel lets go of a broken disk."""


class NotOurs(Exception):
    """There is no group that we may divide, for this reason."""


class Remains(NamedTuple):
    """What is known of a child when all is over."""

    cpu: float
    """Seconds of processor time from its birth, with all it has started."""
    peak: int
    """Peak memory with all it has started, KiB; 0: not counted."""
    starved: bool
    """Whether the kernel killed in there for want of memory."""
    limit: int
    """Bytes, where it was its own limit that was reached; else 0."""


class Cell:
    """The group of one child. `limits_memory`: whether it has a limit that holds for all in it."""

    def __init__(self, group: Cgroup, *, limits_memory: bool = False) -> None:
        self.folder = str(group.path)
        """Enough to find it again: see `Ground.adopt`."""
        self.limits_memory = limits_memory
        self._group = group

    @property
    def door(self) -> str:
        """The file that a process writes 0 to, to live here."""
        return str(self._group.path / FIRST_RUN / PROCESSES)

    def kill(self) -> None:
        """End all that lives in it."""
        with contextlib.suppress(OSError):  # a child that stands can be ended without
            self._group.kill()

    def remains(self) -> Remains:
        """What it says of a child that is dead."""
        group = self._group
        limited = group.count("memory.events.local", "oom") > 0
        limit = group.count("memory.max") if limited else 0
        return Remains(group.cpu(), group.peak(), group.count("memory.events", "oom_kill") > 0, limit)

    def remove(self) -> bool:
        """End what is left in it, and remove it; False where something has not ended yet."""
        self.kill()
        return self._group.remove()

    def vanish(self, loop: asyncio.AbstractEventLoop, pause: float = FIRST_LOOK) -> None:
        """Remove it now or as soon as possible."""
        if not self.remove():
            loop.call_later(pause, self.vanish, loop, min(pause * 2, LAST_LOOK))


class Ground:
    """The group that is ours to divide. `claim` finds it."""

    def __init__(self, home: Cgroup) -> None:
        self.controllers = frozenset(name for name in WANTED if home.enable(name))
        self._home = home
        self._numbers = itertools.count(1)

    def cell(self, memory: int = 0, pids: int = 0) -> Cell:
        """A new one, where `memory` bytes and so many processes are the limits (0: none), where they can be kept.

        OSError where the kernel makes no more.
        """
        group = self._fresh()
        if pids and "pids" in self.controllers:
            group.write("pids.max", str(pids))
        limited = bool(memory) and "memory" in self.controllers
        if limited:
            _limit_memory(group, memory)
        if "memory" in self.controllers:
            group.enable("memory")  # so that a task can be weighed in a group of its own
        group.below(FIRST_RUN).make()
        return Cell(group, limits_memory=limited)

    def adopt(self, folder: str) -> Cell:
        """The cell of a child that is older than this program."""
        return Cell(Cgroup(Path(folder)), limits_memory=Cgroup(Path(folder)).count("memory.max") > 0)

    def sweep(self, loop: asyncio.AbstractEventLoop, keep: Collection[str] = ()) -> None:
        """End what an earlier worker has left here, but for the cells in these folders."""
        for path in self._home.path.glob(f"{CHILD}*"):
            if str(path) not in keep:
                Cell(Cgroup(path)).vanish(loop)

    def _fresh(self) -> Cgroup:
        while True:
            group = self._home.below(f"{CHILD}{next(self._numbers)}")
            with contextlib.suppress(FileExistsError):  # of a child that we have adopted
                group.path.mkdir()
                return group


def _limit_memory(group: Cgroup, limit: int) -> None:
    group.write("memory.max", str(limit))
    group.write("memory.oom.group", "1")  # a child without its helpers, or they without it, are of no use
    with contextlib.suppress(OSError):  # a kernel without swap has no such file
        group.write("memory.swap.max", "0")


def claim(log: logging.Logger) -> Ground | None:
    """Move into a corner of the group that was delegated to us, and divide the rest; None where there is none."""
    try:
        home = _home(_own())
        home.below(SUPERVISOR).make().enter()
        ground = Ground(home)
    except (NotOurs, OSError) as why:
        log.info("children run in process groups, with rlimits: %s", why)
        return None
    counted = ", ".join(sorted(ground.controllers)) or "no controllers"
    log.info("each child runs in a cgroup of its own below %s (%s)", home.path, counted)
    return ground


def _own() -> Cgroup:
    """The group that we live in."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = Path(next((line[3:] for line in lines if line.startswith("0::")), ".."))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        root, point = mount.split(" ")[3:5]
        if kind.startswith("cgroup2 ") and path.is_relative_to(root) and ".." not in path.parts:
            return Cgroup(Path(point) / path.relative_to(root))
    raise NotOurs("there is no cgroup version 2 in sight")


def _home(own: Cgroup) -> Cgroup:
    """The group that we may divide: the one we live in, or the one above, where a worker has divided it before."""
    home = Cgroup(own.path.parent) if own.path.name == SUPERVISOR else own
    if not _delegated(home.path):
        raise NotOurs(f"{home.path} is not delegated to us")
    if {*home.processes(), *home.below(SUPERVISOR).processes()} - {os.getpid()}:
        raise NotOurs(f"others live in {home.path}")
    return home


def _delegated(path: Path) -> bool:
    """Whether somebody gave it to us. Who may write to others' groups, too, needs it in words.

    That is root, and whoever was started by a service manager of his own, which has its groups from him.
    """
    files = (path, path / PROCESSES, path / "cgroup.subtree_control")
    if not all(os.access(file, os.W_OK) for file in files):
        return False
    everywhere = os.geteuid() == 0 or any(part.startswith("user@") for part in path.parts)
    return not everywhere or any(_mark(path, name) for name in MARKS)


def _mark(path: Path, name: str) -> bool:
    try:
        return os.getxattr(path, name) == b"1"
    except OSError:
        return False
