"""Starts a child: a clean new program that inherits pipes, a page of memory and nothing else of the worker.

It is executed, not forked off: neither keys nor connections nor locks of the worker exist in its memory.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from qdistd.child import board
from qdistd.child.frames import Setup
from qdistd.pool.cgroups import Cell, Ground
from qdistd.pool.settings import PoolSettings

BOOT = """\
import sys
sys.path.insert(0, sys.argv[1])
from qdistd.child.main import main
del sys.path[0]
main(sys.argv[2])
"""
"""Unlike `-m` this takes the very qdistd that is running, from wherever that was imported."""

HOME = str(Path(__file__).parents[2])

OURS = ("QDIST_KEY", "LISTEN_", "WATCHDOG_", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY")
"""Variables, by their beginning, that are between the worker and its service manager."""


class Spawned(NamedTuple):
    """A process that was started, and our ends of its pipes. `tickets_back` is the child's end of `tickets`."""

    pid: int
    exited: int
    """A pidfd: readable when the process has ended."""
    tasks: int
    tickets: int
    tickets_back: int
    results: int
    life: int
    voice: int
    """What it, and what it has started, write to descriptors 1 and 2."""
    board: int
    """The page with its progress, see `child.board`."""
    cell: Cell | None = None
    """Its cgroup."""

    @property
    def descriptors(self) -> dict[str, int]:
        """All of them, by name."""
        return {name: value for name, value in self._asdict().items() if name not in ("pid", "cell")}

    @property
    def kept(self) -> tuple[int, ...]:
        """The descriptors that are to be closed when the process is gone; `life` before then kills it."""
        return self.exited, self.tickets_back, self.results, self.life, self.voice, self.board


def spawn(settings: PoolSettings, ground: Ground | None = None) -> Spawned:
    """Start a child, on `ground` where there is some. OSError where the system has no more of what it takes."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        tasks_end, tasks = _pipe(theirs, ours)
        tickets_end, tickets = _pipe(theirs, ours)
        tickets_back = _opened_anew(tickets_end)
        ours.callback(os.close, tickets_back)
        results, results_end = _pipe(ours, theirs)
        life_end, life = _pipe(theirs, ours)
        voice, voice_end = _pipe(ours, theirs)
        page = board.make()
        ours.callback(os.close, page)
        for descriptor in (tasks, tickets, tickets_end, results, voice):
            os.set_blocking(descriptor, False)
        cell = ground.cell(settings.memory, settings.pids) if ground else None
        if cell:
            ours.callback(cell.remove)
        setup = Setup(
            *(tasks_end, tickets_end, results_end, life_end, page),
            modules=settings.modules,
            path=settings.path,
            memory=0 if cell and cell.limits_memory else settings.memory,
            result=settings.result,
            cell=cell.folder if cell else "",
            shares=settings.shares,
        )
        pid = _execute(setup, voice_end, _through(cell.door) if cell else [])
        exited = os.pidfd_open(pid)
        ours.pop_all()
        return Spawned(pid, exited, tasks, tickets, tickets_back, results, life, voice, page, cell)


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe, each end to be closed by its keeper."""
    ends = os.pipe()
    reader.callback(os.close, ends[0])
    writer.callback(os.close, ends[1])
    return ends


def _opened_anew(reader: int) -> int:
    """The same end of a pipe, for us alone: a task may make that of its child blocking, and we must never wait."""
    return os.open(f"/proc/self/fd/{reader}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _through(door: str) -> list[str]:
    """A command that goes on with its arguments inside of a cgroup.

    So nothing of Python runs outside, not even what users have hung into its start.
    """
    return ["/bin/sh", "-c", 'echo 0 >"$0" && exec "$@"', door]


def _execute(setup: Setup, voice: int, first: list[str]) -> int:
    process = subprocess.Popen(
        [*first, sys.executable, "-P", "-c", BOOT, HOME, msgspec.json.encode(setup).decode()],
        stdin=subprocess.DEVNULL,
        stdout=voice,
        stderr=voice,
        pass_fds=(setup.tasks, setup.tickets, setup.results, setup.life, setup.board),
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if not name.startswith(OURS)},
    )
    process.returncode = 0  # for `subprocess` it is over: `deaths.reap` waits for it, maybe in a later image of ours
    return process.pid
