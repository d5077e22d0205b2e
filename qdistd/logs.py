"""Where log records go: the journal or a file, through a thread, so that logging never blocks the event loop.

any thread ──put──> bounded queue ──thread──> journal (native fields)          stderr is the journal
                      │                   └─> `time level logger message key=value`   stderr, or a file
                      └ full: drop and count; the count is logged when the line moves again
"""

import contextlib
import copy
import logging
import logging.handlers
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from qdistd.events import Event, told
from qdistd.systemd import JournalHandler, fields_of, stderr_is_journal

BACKLOG = 10_000
"""Records that may wait for a slow reader: about 5 MB, and ten busy seconds."""

KEPT_FREE = 10
"""One place in so many is for warnings and errors only: what is told for its own sake crowds out no trouble."""

FAREWELL = 2.0
"""Seconds that the end of the program waits for the last records to be written."""


class LineFormatter(logging.Formatter):
    """`time level logger message key=value …`, with a traceback on the lines below."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        fields = "".join(f" {key.lower()}={value}" for key, value in fields_of(record).items())
        line = f"{when} {record.levelname.lower()} {record.name} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Relay(logging.handlers.QueueHandler):
    """Hands records to `target` from a thread of its own; drops new ones while `backlog` records wait."""

    def __init__(self, target: logging.Handler, backlog: int = BACKLOG) -> None:
        self._line: queue.Queue[logging.LogRecord | None] = queue.Queue(backlog)
        super().__init__(self._line)
        self._target = target
        self._dropped = 0
        self._closed_line = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record with its text made: its arguments may change before the thread sees them."""
        record = copy.copy(record)
        record.msg, record.args = record.getMessage(), None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue the record, or count it as dropped. `logging` holds the lock of this handler meanwhile."""
        if (
            record.levelno < logging.WARNING
            and self._line.qsize() >= self._line.maxsize - self._line.maxsize // KEPT_FREE
        ):
            self._dropped += 1
            return
        try:
            self._line.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, for at most `FAREWELL` seconds: a journal that hangs must not hold up the end."""
        super().close()
        if self._closed_line:  # `logging` closes every handler once more when the interpreter ends
            return
        self._closed_line = True
        with contextlib.suppress(queue.Full):
            self._line.put(None, timeout=FAREWELL)
            self._thread.join(FAREWELL)

    def _run(self) -> None:
        while (record := self._line.get()) is not None:
            self._target.handle(record)
            if dropped := self._take_dropped():
                self._target.handle(_confession(dropped))
        self._target.close()

    def _take_dropped(self) -> int:
        self.acquire()
        dropped, self._dropped = self._dropped, 0
        self.release()
        return dropped


@contextlib.contextmanager
def relayed(
    program: str, environ: Mapping[str, str], *, level: int = logging.INFO, file: Path | None = None
) -> Iterator[Callable[[], None]]:
    """Meanwhile all log records of this process go to `file`, or else to the journal or stderr.

    What it gives writes the last of them, for a process that does not come to the end of this.
    """
    relay = Relay(_target(program, environ, file))
    root = logging.getLogger()
    root.addHandler(relay)
    root.setLevel(level)
    try:
        yield relay.close
    finally:
        root.removeHandler(relay)
        relay.close()


def _target(program: str, environ: Mapping[str, str], file: Path | None) -> logging.Handler:
    if file is None and stderr_is_journal(environ):
        return JournalHandler(program)
    # watched: a rotated file is opened anew by itself
    target = logging.handlers.WatchedFileHandler(file) if file else logging.StreamHandler(sys.stderr)
    target.setFormatter(LineFormatter())
    return target


def _confession(dropped: int) -> logging.LogRecord:
    text = "%d log records were dropped: the log was not read fast enough"
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (dropped,), None)
    record.__dict__ |= told(Event.RECORDS_DROPPED)  # as `extra` does
    return record
