"""A file that keeps whoever counts its lines waiting: `count_lines(gate.path)` runs until the test lets it go.

It is a named pipe: a reader waits for a writer, and after the last line for the writer to leave.
"""

import errno
import os
from pathlib import Path

from patience import until


class Gate:
    """One named pipe."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._writer = -1

    def reached(self) -> None:
        """Return when somebody counts its lines."""
        self._writer = until(self._open, f"a reader of {self.path}") - 1

    def let_go(self, lines: int) -> None:
        """Let the one who counts, or who will count where that one has died, find so many lines."""
        until(lambda: self._write(b"a line\n" * lines), f"a reader of {self.path}")
        os.close(self._writer)

    def _open(self) -> int:
        """One more than the descriptor, so that it is true; 0 where nobody reads."""
        try:
            return os.open(self.path, os.O_WRONLY | os.O_NONBLOCK) + 1
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return 0

    def _write(self, text: bytes) -> bool:
        try:
            return os.write(self._writer, text) == len(text)
        except BrokenPipeError:
            return False
