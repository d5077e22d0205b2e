"""The original scripts of `originals/` as processes, on any interpreter, and what they print.

worker = Script(python, "task_worker.py", PORT="40001", PONDER="1")
worker.says("run task 7 ")      the next line that begins so
worker.tell("")                 a line on its standard input
worker.lines()                  all it has printed, once it has ended well
"""

import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path

from daemons import DEADLINE

FOLDER = Path(__file__).parent / "originals"


class Script:
    """One run of one script. It has a process group of its own, for a plain master is two processes."""

    def __init__(self, python: str, name: str, *arguments: str, **environ: str) -> None:
        self._name = name
        self._printed = b""
        self._read = 0
        self._process = subprocess.Popen(
            [python, str(FOLDER / name), *arguments],
            env={"PATH": os.environ["PATH"], **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def says(self, beginning: str) -> str:
        """The next line that begins so, as soon as it is printed."""
        while True:
            line = self._next_line()
            assert line is not None, f"{self._name} ended without saying {beginning!r}:\n{self._printed.decode()}"
            if line.startswith(beginning):
                return line

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def lines(self) -> list[str]:
        """Wait until it has ended, with success; all that it has printed."""
        while self._next_line() is not None:
            pass
        assert self._process.wait(DEADLINE) == 0, self._printed.decode()
        return self.heard()

    def heard(self) -> list[str]:
        """The lines that have been read of it so far."""
        return self._printed.decode().splitlines()

    def kill(self) -> None:
        """kill -9 of the whole group; gone when it returns."""
        os.killpg(self._process.pid, signal.SIGKILL)
        while self._next_line() is not None:
            pass
        self._process.wait()

    def close(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self.kill()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()

    def _next_line(self) -> str | None:
        end = time.monotonic() + DEADLINE
        while (stop := self._printed.find(b"\n", self._read)) < 0:
            if not self._read_more(end):
                return None
        line, self._read = self._printed[self._read : stop], stop + 1
        return line.decode()

    def _read_more(self, end: float) -> bool:
        """Wait for more of its output. False at the end of it."""
        assert self._process.stdout
        descriptor = self._process.stdout.fileno()
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{self._name} says nothing more in time:\n{self._printed.decode()}"
        more = os.read(descriptor, 65536)
        self._printed += more
        return bool(more)


def numbers_put(lines: list[str]) -> list[int]:
    """The numbers that a master or a submitter says it has put."""
    return [int(found[1]) for line in lines if (found := re.fullmatch(r"Put task (\d+)\.\.\.", line))]


def results_got(lines: list[str]) -> list[str]:
    """The results that it says it has got."""
    return [line.removeprefix("Result: ") for line in lines if line.startswith("Result: ")]


def squares(numbers: list[int]) -> list[str]:
    """What must come back for these numbers."""
    return [f"{n} * {n} = {n * n}" for n in numbers]
