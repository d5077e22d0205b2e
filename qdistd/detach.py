"""`--daemon` and `--pidfile`: the classic way into the background, for hosts without systemd.

    shell ── caller ──fork──> DaemonContext (python-daemon forks twice) ──> the daemon
               │ waits                                                        │
               └─<───────────── pipe: exit code and a sentence ───────────────┘ when it serves, or cannot

So the command returns when the daemon serves, with exit code 0, or says why it does not. The PID file is
locked (flock) for as long as the daemon lives: the file of one that died, however it died, is simply taken over.
"""

import fcntl
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from qdistd.errors import Unavailable

UMASK = 0o027
"""python-daemon's own default would let everybody write what the daemon makes."""

LOG_MODE = 0o640

END = b"\0"
"""Closes a verdict: the pipe itself may live on in children of the daemon."""


class PidFile:
    """A locked file with the number of the process that runs. `path` None: no file, no lock.

    `fd`: the lock, where an earlier image of this process has taken it.
    """

    def __init__(self, path: Path | None, fd: int = -1) -> None:
        self._path = path
        self._fd = fd

    @property
    def fds(self) -> list[int]:
        """The descriptors that hold the lock: it goes with whoever inherits them."""
        return [self._fd] if self._fd >= 0 else []

    def take(self) -> None:
        """Lock the file. Unavailable where another process holds it."""
        while self._path is not None and self._fd < 0:
            self._fd = _lock(self._path)

    def write(self) -> None:
        """Put in the number of this process."""
        if self._fd >= 0:
            os.truncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def drop(self) -> None:
        """Remove the file, then let go of the lock."""
        if self._path is not None and self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def _lock(path: Path) -> int:
    """A locked descriptor of `path`, or -1 where the file was removed while we opened it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        raise Unavailable(f"already running (pid {owner or 'unknown'}): it holds {path}") from None
    if path.exists() and path.stat().st_ino == os.fstat(fd).st_ino:
        return fd
    os.close(fd)
    return -1


class Herald:
    """How the start went, told once to the command that waits. In the foreground nobody waits."""

    def __init__(self, pipe: int = -1) -> None:
        self._pipe = pipe

    def tell(self, code: int, sentence: str = "") -> None:
        """Release the waiting command with this exit code and sentence. What is told later is not heard."""
        if self._pipe < 0:
            return
        os.write(self._pipe, f"{code} {sentence}".encode(errors="backslashreplace") + END)
        os.close(self._pipe)
        self._pipe = -1


def detach(keep: Sequence[int], log: Path) -> Herald:
    """Go on in the background; the caller's process ends in here. `keep`: descriptors to take along.

    Everything else (threads, event loop, database) must come later: only this thread and `keep` survive.
    """
    # before the first fork: a log that cannot be written is said at once
    output = os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, LOG_MODE), "a")
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        _leave(reader, log)
    os.close(reader)
    import daemon  # only here: on a host with systemd it is never needed

    daemon.DaemonContext(
        detach_process=True,
        umask=UMASK,
        prevent_core=False,  # the limit would reach the tasks as well
        stdout=output,
        stderr=output,
        files_preserve=[writer, *keep],
        signal_map={},
    ).open()
    return Herald(writer)


def _leave(reader: int, log: Path) -> None:
    """Wait for the verdict, pass it on, and end this process."""
    message = b""
    while not message.endswith(END) and (more := os.read(reader, 4096)):
        message += more
    code, _, sentence = message.removesuffix(END).decode(errors="replace").partition(" ")
    if not message.endswith(END):
        code, sentence = "1", f"it died before it was ready: see {log}"
    if sentence:
        sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
    os._exit(int(code))  # no clean-up here: lock, files and sockets belong to the daemon now
