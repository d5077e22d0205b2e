"""A program that goes on as a fresh image of itself: the same process with the same children, and new code.

    old image                                                  new image
    "could you go on here?" ──`… --heir VERSION`──> exit 0, or why not
    an `Estate` ──> memory file ──exec──> the same number ──>  `Succession.estate`
    descriptors, stay open                                     are its own again
    signals, blocked ………………………… pending ………………………………………  let in once somebody hears them

The old image asks the very command line that it will execute. Where the exec fails all the same it takes its own
estate over, with the settings it had.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path

import msgspec

from qdistd.errors import Refused

VERSION = 2
"""Of an `Estate` and of all that is written in it: an image can go on only where the one before has the same."""

VARIABLE = "QDIST_ESTATE"
"""For whom, and in which descriptor: `pid:number`."""

ANSWER = 20.0
"""Seconds in which the program on the disk must have read its configuration, however busy the machine is."""

UNKNOWN = 64
"""The exit code of a program that knows no such option."""

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that must not be lost on the way."""


class Estate(msgspec.Struct):
    """What one image leaves to the next."""

    state: bytes
    """What the service has written."""
    descriptors: list[int]
    """Those that belong to this state."""
    requests: list[tuple[int, dict[str, bytes]]]
    """Who asked for a reload: connection (-1: nobody waits) and keys. The first is to be answered."""
    lock: list[int] = []
    """The descriptor that locks the PID file, if any."""
    problem: str = ""
    """Why there is no new image: then this one goes on."""

    def open(self) -> list[int]:
        """All descriptors that must stay open."""
        return [*self.descriptors, *self.lock, *(number for number, _ in self.requests if number >= 0)]

    def keep(self) -> None:
        """Have nobody inherit them any more."""
        for number in self.open():
            os.set_inheritable(number, False)


class Succession:
    """How this image came to be, and how it leaves. `environ`: the variable is taken out of it."""

    def __init__(self, environ: MutableMapping[str, str], folder: Path) -> None:
        self.estate = _inherited(environ)
        """What is to be taken over; None at a first start."""
        self.program = [sys.executable, *sys.orig_argv[1:]]
        self.lock: list[int] = []
        """The descriptor that locks the PID file, if any."""
        self.flush: Callable[[], None] = _nothing
        """To be done last."""
        self._folder = folder

    def take(self) -> Estate | None:
        """What is to be taken over, once."""
        estate, self.estate = self.estate, None
        return estate

    async def ask(self) -> None:
        """Refused, with the reason, where the program on the disk could not go on with what this one leaves."""
        process = await asyncio.create_subprocess_exec(
            *self.program,
            f"--heir={VERSION}",
            cwd=self._folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(ANSWER):
                _, said = await process.communicate()
        except TimeoutError:
            process.kill()
            raise Refused(f"the program on the disk says nothing within {ANSWER:g} seconds") from None
        if process.returncode:
            raise Refused(_reason(process.returncode, said.decode(errors="replace").strip()))

    def go(self, estate: Estate) -> None:
        """Execute the program anew. Returns only where that failed: then there is an estate to be taken over here."""
        estate.lock = self.lock
        self.flush()
        try:
            self._execute(estate)
        except OSError as problem:
            estate.problem = f"{self.program[0]} cannot be executed: {problem.strerror}"
        estate.keep()
        self.estate = estate

    def _execute(self, estate: Estate) -> None:
        """Does not return. OSError where there is no memory or no descriptor left, or no such program."""
        with os.fdopen(_written(estate), "rb") as memory:
            for number in (memory.fileno(), *estate.open()):
                os.set_inheritable(number, True)
            os.chdir(self._folder)
            os.execve(  # noqa: S606 - our own command line, without a shell
                self.program[0], self.program, {**os.environ, VARIABLE: f"{os.getpid()}:{memory.fileno()}"}
            )


def _nothing() -> None:
    """There is no log yet."""


def block() -> None:
    """Have signals wait, in this image or in the next."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)


def unblock() -> None:
    """Take signals, those that have waited first."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)


def _inherited(environ: MutableMapping[str, str]) -> Estate | None:
    pid, _, number = environ.pop(VARIABLE, "").partition(":")
    if pid != str(os.getpid()):
        return None
    with os.fdopen(int(number), "rb") as memory:
        estate = msgspec.msgpack.decode(memory.read(), type=Estate)
    estate.keep()
    return estate


def _written(estate: Estate) -> int:
    """A file in memory with the estate, read from its beginning."""
    memory = os.memfd_create("qdist-estate", os.MFD_CLOEXEC)
    with os.fdopen(memory, "wb", closefd=False) as file:
        file.write(msgspec.msgpack.encode(estate))
    os.lseek(memory, 0, os.SEEK_SET)
    return memory


def _reason(code: int, said: str) -> str:
    if code == UNKNOWN:
        return f"the program on the disk cannot go on from this one ({said}): restart it instead"
    return said or f"the program on the disk ends with exit code {code}"
