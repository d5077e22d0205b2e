"""What goes over the pipes between the pool and a child: fixed heads in native byte order, then bytes.

Both ends are the same machine and the same version, so there is nothing to negotiate.
"""

import enum
import struct
from typing import NamedTuple

import msgspec

from qdistd.model import Grant

TASK = struct.Struct("=IHIQBBd")
"""Length of all that follows the head; lengths of the name and the details at its beginning; ticket; `Care`; `TAKES`;
seconds after which it is warned, 0 for never. The payload is the rest."""

DETAILS = struct.Struct("=16sIdH")
"""What few tasks ask for: id; attempt; seconds that it may run, 0 for any; length of the queue, which comes next. The
rest are its inputs."""

TAKES = ("", "args", "list")
"""What becomes of the inputs, by its number: see `model.Task.take`."""

TICKET = struct.Struct("=Q")
"""The number of a task, counted from 1 by the pool for each child. Small enough to be read and written whole."""

RESULT = struct.Struct("=IBQdddQ")
"""Length of the value; `Outcome` and marks; ticket; started (wall clock), wall and cpu in seconds; rss in KiB."""

TOLD = 0x40
"""A mark beside an outcome: a SIGTERM came while this task ran, and the child has taken it and goes on."""

ASKED = 0x20
"""A mark beside an outcome: the value begins with `WAIT`."""

OUTCOME = 0x1F
"""The outcome without its marks."""

WAIT = struct.Struct("=d")
"""The seconds that a task which raised `Retry` wants to wait, negative where it has no wish."""

SAID, LOGGED, PARTIAL = 255, 254, 253
"""Instead of an outcome: no result, but what the task has printed, lines whole or in part, or one record of `logging`,
or one encoded value of `partial`. Where a result has its rss, the first two have a level of `logging`."""

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
    board: int
    """Memory for `child.board`."""
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


class Details(NamedTuple):
    """See `DETAILS`. `inputs` as `Grant` has them."""

    id: bytes
    attempt: int
    limit: float
    queue: str
    inputs: tuple[bytes, ...]


def task_frame(ticket: int, grant: Grant, care: Care = Care.NONE, limit: float = 0.0, soft: float = 0.0) -> bytes:
    """One task on its way to the child. `limit`, `soft`: seconds after which it is killed and warned; 0: never."""
    name, queue, payload = grant.name.encode(), grant.queue.encode(), grant.payload
    details = DETAILS.pack(grant.id, grant.attempt, limit, len(queue)) + queue
    take = 0
    if grant.take:
        take = TAKES.index(grant.take)
        details += _encode(grant.inputs)
    length = len(name) + len(details) + len(payload)
    return TASK.pack(length, len(name), len(details), ticket, care, take, soft) + name + details + payload


def details_of(data: bytes | bytearray) -> Details:
    """What `task_frame` has made of them."""
    task_id, attempt, limit, length = DETAILS.unpack_from(data)
    end = DETAILS.size + length
    inputs = msgspec.msgpack.decode(data[end:], type=tuple[bytes, ...]) if len(data) > end else ()
    return Details(task_id, attempt, limit, data[DETAILS.size : end].decode(), inputs)


_encode = msgspec.msgpack.encode
