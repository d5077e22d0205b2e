"""What goes over the pipes between the pool and a child: fixed heads in native byte order, then bytes.

Both ends are the same machine and the same version, so there is nothing to negotiate.
"""

import enum
import struct

import msgspec

TASK = struct.Struct("=IIQB")
"""Length of all that follows the head; length of the name at its beginning; ticket; `Care`. The payload is the rest."""

TICKET = struct.Struct("=Q")
"""The number of a task, counted from 1 by the pool for each child. Small enough to be read and written whole."""

RESULT = struct.Struct("=IBQdddQ")
"""Length of the value; `Outcome`; ticket; started (wall clock), wall and cpu in seconds; rss in KiB."""

SAID, LOGGED = 255, 254
"""Instead of an outcome: no result, but what the task has printed, lines whole or in part, or one record of `logging`.
Where a result has its rss, these have a level of `logging`."""

MOST_SAID = 32 * 1024
"""Bytes of one such frame: a longer text comes in several, or ends there where it is a record."""

READY = 0
"""The ticket of the first result, which says that the child stands. Its value is an encoded `Ready`."""

CUT_OFF = 213
"""The exit status of a child that finds its pipe of results closed, or another file in its place."""

UNFIT = 214
"""The exit status of a child that a task has changed for good, and that says why in its last words."""

READ_SIZE = 1 << 16
"""Bytes asked of a pipe at once: what it holds by default (pipe(7))."""


class Care(enum.IntEnum):
    """What is to be done for a task, where the child has a cgroup."""

    NONE = 0
    TIDY = 1
    """It has limits of its own, and so must leave nothing running."""
    APART = 2
    """And it is expected to take long, so that it is worth some milliseconds to count its memory apart."""


class Setup(msgspec.Struct, frozen=True):
    """How a child is to be: its descriptors, where its tasks are and what it may use."""

    tasks: int
    tickets: int
    results: int
    life: int
    modules: tuple[str, ...]
    path: tuple[str, ...] = ()
    """Directories that are searched for the modules first."""
    memory: int = 0
    """Bytes of private memory; 0: no limit of ours."""
    result: int = 0
    """Bytes of an encoded result; 0: no limit."""
    cell: str = ""
    """The folder of its own cgroup, where it has one."""
    shares: dict[str, str] = {}
    """Where the shares of the worker are, by their names."""


class Ready(msgspec.Struct, frozen=True):
    """The child stands. `broken`: the modules it could not import, and why."""

    broken: dict[str, str]


def task_frame(ticket: int, name: bytes, payload: bytes, care: Care = Care.NONE) -> bytes:
    """One task on its way to the child."""
    return TASK.pack(len(name) + len(payload), len(name), ticket, care) + name + payload
