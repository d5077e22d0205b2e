"""What a child says: sent to the worker with the ticket of the task that says it.

    print, sys.stdout, sys.stderr ──line by line──┐
    logging, where nobody else has set it up ─────┴──frames between results──> worker
    subprocesses, code in C, other copies of us ──descriptors 1 and 2──> a pipe of its own ──> worker

A task that says nothing pays nothing. Only Python code knows for sure in which task it runs: the rest is heard as
said by whatever task runs when it is heard.
"""

import contextlib
import io
import logging
import os
import sys

from qdistd.child.conveyor import Conveyor
from qdistd.child.frames import LOGGED, MOST_SAID, SAID

STREAMS = {"stdout": (1, logging.INFO), "stderr": (2, logging.INFO)}
"""Name in `sys`, descriptor, level."""

ENCODING = "utf-8"


class Stream(io.RawIOBase):
    """The bottom of `sys.stdout` or `sys.stderr`. Of a copy that a task has forked off it is the plain descriptor."""

    def __init__(self, conveyor: Conveyor, descriptor: int, level: int) -> None:
        super().__init__()
        self._conveyor = conveyor
        self._descriptor = descriptor
        self._level = level
        self._process = os.getpid()

    def writable(self) -> bool:
        """It is for nothing else."""
        return True

    def fileno(self) -> int:
        """For programs that are to inherit it."""
        return self._descriptor

    def write(self, data: "bytes | memoryview", /) -> int:  # type: ignore[override] # typeshed wants any buffer
        """Send as much as one frame holds."""
        if os.getpid() != self._process:
            return os.write(self._descriptor, data)
        piece = bytes(data[:MOST_SAID])
        with contextlib.suppress(OSError):  # a task has closed our pipes: nobody hears us any more
            self._conveyor.say(SAID, self._level, piece)
        return len(piece)


class Records(logging.Handler):
    """Sends each record whole, with its level."""

    def __init__(self, conveyor: Conveyor) -> None:
        super().__init__()
        self._conveyor = conveyor
        self._process = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            self._send(record.levelno, self.format(record).encode(errors="backslashreplace")[:MOST_SAID])
        except Exception:  # noqa: BLE001 - the door: what a record is made of is user's code
            self.handleError(record)

    def _send(self, level: int, text: bytes) -> None:
        if os.getpid() == self._process:
            self._conveyor.say(LOGGED, level, text)
        else:
            os.write(STREAMS["stderr"][0], text + b"\n")


class Voice:
    """Takes the place of `sys.stdout` and `sys.stderr`, and listens to `logging`."""

    def __init__(self, conveyor: Conveyor) -> None:
        self._conveyor = conveyor
        self._streams = {name: self._open(name) for name in STREAMS}
        self.settle()
        records = Records(conveyor)
        records.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[records])

    def settle(self) -> None:
        """The modules of the tasks are imported: what they have put into the place of our streams is to stay there."""
        self._shown = {name: getattr(sys, name) for name in STREAMS}

    def end(self) -> None:
        """A task has ended: what it has said of its last line was all of it, and the next one finds what it found."""
        for name, stream in tuple(self._streams.items()):
            if not _usable(stream):
                self._shown[name] = self._streams[name] = self._open(name)
            elif getattr(sys, name, None) is not self._shown[name]:
                setattr(sys, name, self._shown[name])

    def _open(self, name: str) -> io.TextIOWrapper:
        raw = Stream(self._conveyor, *STREAMS[name])
        buffer = io.BufferedWriter(raw)  # type: ignore[type-var] # typeshed wants more of a raw stream than is used
        text = io.TextIOWrapper(buffer, ENCODING, "backslashreplace", line_buffering=True)
        setattr(sys, name, text)
        return text


def _usable(stream: io.TextIOWrapper) -> bool:
    """Whether it is as we have made it."""
    try:
        stream.flush()
    except ValueError:  # closed, or taken apart
        return False
    return stream.encoding == ENCODING
