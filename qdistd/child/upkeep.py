"""Puts back what a task has changed of its child, so that the next task finds it as the first one did.

    at once          folder, umask, environment, modules, signals, alarm, depth of recursion, niceness
    after a long one limits of the process, descriptors 1 and 2, the number of processes that it may have
    never            what stands in modules: that is where programs keep what they want to keep; and threads

What cannot be put back makes the child unfit: it says why and ends, and the worker starts another one.
"""

import contextlib
import importlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from qdistd.child.scale import Scale

LONG = 0.001
"""Seconds. After a shorter task only that is looked at which costs no more than a microsecond to look at."""

_HANDLED = [
    int(number)
    for number in (
        *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
        *(signal.SIGPIPE, signal.SIGALRM, signal.SIGTERM, signal.SIGCHLD),
    )
]
"""Signals whose handlers are put back, as numbers."""

_MOVES = frozenset({"os.chdir", "os.putenv", "os.unsetenv"})
"""What Python says to those who listen (PEP 578) when folder or environment change. To look at both after each short
task would cost as much as all the rest; what code in C does behind Python's back is seen after the next long one."""

_signal = importlib.import_module("_signal")
"""What `signal` calls: that makes enumerations of it all, which takes ten times as long."""

_handler_of: Callable[[int], Any] = _signal.getsignal
_set_mask: Callable[[int, Any], Any] = _signal.pthread_sigmask

_LIMITS = sorted({number for name, number in vars(resource).items() if name.startswith("RLIMIT_")})


class Upkeep:
    """Remembers the process as it is now: it stands, and no task has run. `scale`: see `Scale.full`."""

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._folder = _folder()
        self._environ, self._variables = os.environ, dict(os.environb)
        self._modules, self._imported = sys.modules, dict(sys.modules)
        self._handlers = list(map(_handler_of, _HANDLED))
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._depth = sys.getrecursionlimit()
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._limits = list(map(resource.getrlimit, _LIMITS))
        self._voice = list(_files())
        self._moved = False
        sys.addaudithook(self._listen)

    def restore(self, seconds: float) -> str:
        """A task that took so long is over. Why there can be no other one; empty: there can."""
        os.umask(self._umask)
        sys.setrecursionlimit(self._depth)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _set_mask(signal.SIG_SETMASK, self._blocked)
        if list(map(_handler_of, _HANDLED)) != self._handlers:
            self._hear()
        if sys.modules is not self._modules or len(self._modules) < len(self._imported):
            self._remember()
        if (self._moved or seconds > LONG or os.environ is not self._environ) and not self._come_home():
            return f"it cannot go back to {self._folder}"
        if os.getpriority(os.PRIO_PROCESS, 0) != self._nice and not self._hurry():
            return "it is not as urgent as it was (nice), and may not change that"
        return self._look_around() if seconds > LONG else ""

    def _listen(self, event: str, _: object) -> None:
        if event in _MOVES:
            self._moved = True

    def _come_home(self) -> bool:
        """Put folder and environment back; whether that can be done."""
        if os.environ is not self._environ or vars(self._environ)["_data"] != self._variables:
            self._surround()
        home = _folder() == self._folder or self._go_back()
        self._moved = False
        return home

    def _look_around(self) -> str:
        if list(map(resource.getrlimit, _LIMITS)) != self._limits and not self._unlimit():
            return "it has lower limits than before (setrlimit), and may not raise them"
        if list(_files()) != self._voice:
            return "its descriptors 1 and 2 are not those that they were"
        if self._scale.full():
            return "it has all the processes and threads that it may have ([limits] pids)"
        return ""

    def _hear(self) -> None:
        for number, handler in zip(_HANDLED, self._handlers, strict=True):
            signal.signal(number, handler)

    def _remember(self) -> None:
        sys.modules = self._modules
        for name, module in self._imported.items():
            self._modules.setdefault(name, module)

    def _surround(self) -> None:
        os.environ = self._environ  # noqa: B003 - the object that was there; what is in it comes next
        os.environb.clear()
        os.environb.update(self._variables)

    def _go_back(self) -> bool:
        with contextlib.suppress(OSError):
            os.chdir(self._folder)
            return True
        return False

    def _hurry(self) -> bool:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, self._nice)
            return True
        return False

    def _unlimit(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            for number, limits in zip(_LIMITS, self._limits, strict=True):
                resource.setrlimit(number, limits)
            return True
        return False


def _folder() -> str:
    """The working directory; empty: it is there no more."""
    try:
        return os.getcwd()  # noqa: PTH109 - `Path.cwd` takes four times as long
    except OSError:
        return ""


def _files() -> Iterator[tuple[int, int]]:
    """What descriptors 1 and 2 are."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            file = os.fstat(descriptor)
            yield file.st_dev, file.st_ino
