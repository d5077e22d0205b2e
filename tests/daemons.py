"""Real daemons for tests: each a process of its own, watched through a notify socket that belongs to the test.

    test ──start/kill/stop/reload──> Daemon ──spawns──> process ──READY=1, STATUS=…──> the socket we wait on

Nothing here sleeps or polls: a wait ends with the event, with the end of the process, or at its deadline.
"""

import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

DEADLINE = 20.0
"""Seconds within which whatever a test waits for must come, on the slowest machine we know."""


class Daemon:
    """One daemon of a test. Its log is `log`, and what it told the service manager is `notices`."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, **environ: str) -> None:
        self.name = name
        self.command = list(command)
        self.log_file = folder / f"{name}.log"
        self.notices: list[str] = []
        self._folder = folder
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0qdist-test-{secrets.token_hex(8)}")

    @property
    def pid(self) -> int:
        """The number of the process that runs now, or of the last one."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All it has written so far, over all its lives."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def children(self) -> list[int]:
        """The processes that it has started and not yet reaped."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]

    def start(self, seconds: float = DEADLINE, pass_fds: Sequence[int] = ()) -> "Daemon":
        """Start it and return when it is ready."""
        self.spawn(pass_fds)
        self.wait_for("READY=1", seconds)
        return self

    def spawn(self, pass_fds: Sequence[int] = ()) -> None:
        """Start it without waiting for anything."""
        assert not self.alive, f"{self.name} runs already"
        self._drain()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self._folder,
                env={**clean_environ(), "NOTIFY_SOCKET": "@" + self._socket.getsockname()[1:].decode()} | self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
            )
        self._pidfd = os.pidfd_open(self._process.pid)

    def wait_for(self, line: str, seconds: float = DEADLINE) -> str:
        """The next notice with a line that starts with `line`, e.g. `READY=1` or `STATUS=draining`."""
        end = time.monotonic() + seconds
        while (notice := self._next_notice(end)) is not None:
            if any(part.startswith(line) for part in notice.splitlines()):
                return notice
        raise AssertionError(f"{self.name} ended ({self.wait()}) before it said {line}\n{self.log}")

    def wait(self, seconds: float = DEADLINE) -> int:
        """Its exit code, once it has ended; negative: the signal that ended it."""
        assert self._process is not None, f"{self.name} was never started"
        end = time.monotonic() + seconds
        while self._pidfd >= 0 and self._next_notice(end) is not None:
            pass
        code = self._process.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self, seconds: float = DEADLINE) -> int:
        """SIGTERM; its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def reload(self, seconds: float = DEADLINE) -> str:
        """SIGHUP; the notice that says it is over."""
        self._drain()
        self.signal(signal.SIGHUP)
        return self.wait_for("READY=1", seconds)

    def close(self) -> None:
        """End it if it still runs. A stopped (SIGSTOP) one as well."""
        if self.alive:
            self.kill()
        elif self._process is not None:
            self.wait()
        self._socket.close()

    def _next_notice(self, end: float) -> str | None:
        """The next thing it says, or None when it has ended."""
        readable, _, _ = select.select([self._socket, self._pidfd], [], [], max(0, end - time.monotonic()))
        if self._socket in readable:
            self.notices.append(self._socket.recv(65536).decode())
            return self.notices[-1]
        if not readable:
            raise AssertionError(f"{self.name} did not get there in time\n{self.log}")
        return None

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.notices.append(self._socket.recv(65536, socket.MSG_DONTWAIT).decode())


def clean_environ() -> Mapping[str, str]:
    """The environment without what would tie a daemon to the service manager, or to the person, that runs the tests."""
    ours = ("QDIST_", "LISTEN_", "WATCHDOG_", "NOTIFY_", "JOURNAL_", "CREDENTIALS_", "STATE_", "RUNTIME_")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}


def python(*arguments: str) -> list[str]:
    """A command line for the Python that runs the tests."""
    return [sys.executable, *arguments]
