"""The child's ends of the pipes."""

import errno
import os
import select
import sys
import threading
from typing import NamedTuple

from qdistd.child.frames import CUT_OFF, READ_SIZE, READY, RESULT, TASK, TICKET, Care, Setup

_CARES = tuple(Care)
"""By their numbers: asking the enumeration for one takes ten times as long."""


class Assignment(NamedTuple):
    """One task whose ticket we hold."""

    ticket: int
    name: str
    payload: bytearray
    care: Care
    take: int
    soft: float
    """Seconds after which it is warned; 0: never."""
    details: bytearray
    """See `frames.details_of`."""


class Conveyor:
    """Takes tasks from the pool and puts results to it. The pool must have made `tickets` non-blocking."""

    def __init__(self, setup: Setup) -> None:
        self._tasks, self._tickets, self._results = setup.tasks, setup.tickets, setup.results
        self._pipe = _identity(self._results)
        self._arrival = select.poll()
        self._arrival.register(self._tickets, select.POLLIN)
        self._ahead = bytearray()
        self._at = 0
        self._ticket = READY
        """Of the task that runs, or ran last."""
        self._turn = threading.RLock()  # threads of a task may talk all at once

    def take(self) -> Assignment | None:
        """The next task, as soon as there is one; None when the pool wants no more of us."""
        ticket = self._take_ticket()
        while ticket:
            assignment = self._next_task()
            if assignment.ticket == ticket:
                self._ticket = ticket
                return assignment
        return None

    def put(self, ticket: int, outcome: int, value: bytes, started: float, wall: float, cpu: float, rss: int) -> None:
        """Write one result, at once, `outcome` with its marks. The exit status tells where the pipe was closed."""
        try:
            self._write(RESULT.pack(len(value), outcome, ticket, started, wall, cpu, rss) + value)
        except OSError:
            os._exit(CUT_OFF)

    def say(self, kind: int, level: int, text: bytes) -> None:
        """Pass on what the present task says. OSError where it has closed the pipe."""
        self._write(RESULT.pack(len(text), kind, self._ticket, 0.0, 0.0, 0.0, level) + text)

    def _write(self, frame: bytes) -> None:
        rest = memoryview(frame)
        with self._turn:
            if _identity(self._results) != self._pipe:  # what a task has opened in its place is not to be written to
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            while rest:
                rest = rest[os.write(self._results, rest) :]

    def _take_ticket(self) -> int:
        """The next ticket; 0 at the end. The pool may take it back while we wait, hence no blocking read."""
        while True:
            try:
                data = os.read(self._tickets, TICKET.size)
            except BlockingIOError:
                self._arrival.poll()
                continue
            return int.from_bytes(data, sys.byteorder)

    def _next_task(self) -> Assignment:
        self._read_ahead(TASK.size)
        length, name_length, details_length, ticket, care, take, soft = TASK.unpack_from(self._ahead, self._at)
        self._read_ahead(TASK.size + length)
        ahead, name_at = self._ahead, self._at + TASK.size
        details_at = name_at + name_length
        payload_at = details_at + details_length
        self._at = end = name_at + length
        name, details, payload = ahead[name_at:details_at].decode(), ahead[details_at:payload_at], ahead[payload_at:end]
        return Assignment(ticket, name, payload, _CARES[care], take, soft, details)

    def _read_ahead(self, size: int) -> None:
        """Have at least `size` bytes of what comes next. EOFError when the pool is gone."""
        while len(self._ahead) - self._at < size:
            del self._ahead[: self._at]
            self._at = 0
            data = os.read(self._tasks, READ_SIZE)
            if not data:
                raise EOFError("the pool has closed the tasks in the middle of one")
            self._ahead += data


def _identity(descriptor: int) -> tuple[int, int]:
    """What makes it this file and no other. OSError where there is none."""
    file = os.fstat(descriptor)
    return file.st_dev, file.st_ino
