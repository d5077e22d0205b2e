"""What a task may ask, and tell, while it runs: `qdistd.current`, `qdistd.progress`, `qdistd.partial`.

    def convert(paths: list[str]) -> int:
        for number, path in enumerate(paths):
            qdistd.progress(number, len(paths), path)
            qdistd.partial(convert_one(path))
        return len(paths)

Elsewhere, as in a test of such a function, `progress` and `partial` do nothing but to check what they are given.
"""

import math
import os
import time

from qdistd.call import encode_value
from qdistd.child.conveyor import Assignment
from qdistd.child.frames import MOST_SAID, PARTIAL, details_of
from qdistd.child.stage import STAGE
from qdistd.errors import Refused
from qdistd.model import id_text

PARTIALS_A_SECOND, BYTES_A_SECOND = 50.0, 64 * 1024.0
"""What a task may stream, in its first second twice: one that is faster waits, so that nothing of it is lost."""

BURST = 1.0
"""Seconds by which a task may be ahead of that."""


class Context:
    """The task that runs."""

    __slots__ = ("_task", "attempt", "deadline", "id", "name", "queue")

    def __init__(self, task: Assignment, started: float) -> None:
        details = details_of(task.details)
        self._task = task
        self.id = id_text(details.id)
        """As the client that has submitted it knows it."""
        self.attempt = details.attempt
        """1 at first; more where an earlier attempt has failed, or its worker was lost."""
        self.name = task.name
        self.queue = details.queue
        self.deadline = started + details.limit if details.limit else None
        """When it will be killed, in seconds since 1970 by the clock of this host; None: never."""

    @property
    def cancelled(self) -> bool:
        """Whether it is to end now, or has ended: for who has caught `Cancelled`, and for other threads."""
        return STAGE.told or STAGE.task is not self._task

    def __repr__(self) -> str:
        return f"<qdistd task {self.name} {self.id}, attempt {self.attempt}>"


def current() -> Context:
    """The task that runs in this process, asked from within it. Refused where none does."""
    if STAGE.task is None:
        raise Refused("qdistd.current() was called outside of a task: only a function that a worker runs is one")
    return Context(STAGE.task, STAGE.started)


def progress(done: float, total: float = 0.0, note: str = "") -> None:
    """Say how far the task is: `done` of `total` (0: nobody knows), and in words what it does just now.

    It is shown within some two seconds, the latest one only; to call it often costs nearly nothing. Refused for
    numbers that are none.
    """
    if not (_counts(done) and _counts(total) and isinstance(note, str)):
        raise Refused(f"progress({done!r}, {total!r}, {note!r}) will not do; expected two finite numbers and a text")
    if STAGE.task and STAGE.board:
        STAGE.board.write(STAGE.task.ticket, done, total, note)


def partial(value: object) -> None:
    """Hand out a piece of the result before the end: plain data of 32 KiB at most, encoded.

    They arrive in order, about once a second, with those of this attempt alone; a result is still what the task
    returns. Refused for what is no plain data, TooLarge, and Refused in another process than that of the task.
    """
    data = encode_value(value, MOST_SAID)
    if STAGE.task is None or STAGE.conveyor is None:
        return
    if os.getpid() != STAGE.process:
        raise Refused("qdistd.partial() was called in another process than that of its task: return the value to it")
    time.sleep(STAGE.due(max(1 / PARTIALS_A_SECOND, len(data) / BYTES_A_SECOND), BURST))
    STAGE.conveyor.say(PARTIAL, 0, data)


def _counts(number: object) -> bool:
    return isinstance(number, _NUMBERS) and math.isfinite(number)


_NUMBERS = (int, float)
"""Made once: `int | float` would make a type at every call."""
