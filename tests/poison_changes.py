"""Tasks that change something of their child, and one that looks. See `poison_samples`."""

import io
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

LONG = 0.01
"""Seconds: more than those up to which a child has no time for a close look."""

# -- what a task can change of its child


def forget_all_modules() -> None:
    sys.modules.clear()


def go_elsewhere(folder: str) -> None:
    os.chdir(folder)


def go_where_nothing_is(folder: str) -> None:
    Path(folder).mkdir()
    os.chdir(folder)
    Path(folder).rmdir()


def open_all_doors() -> None:
    os.umask(0)


def change_the_environment() -> None:
    os.environ.clear()
    os.environ["POISON"] = "yes"


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def block_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def set_the_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.3)


def shut_everybody_up() -> None:
    sys.stdout = sys.stderr = io.StringIO()


def shut_the_descriptors_up() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    time.sleep(LONG)


def write_riddles() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-16", errors="strict", line_buffering=False)  # type: ignore[union-attr]


def allow_no_depth() -> None:
    sys.setrecursionlimit(sys.getrecursionlimit() // 2)


def be_nice() -> None:
    os.nice(19)


def allow_no_files() -> None:
    time.sleep(LONG)
    resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))


def allow_less_files() -> None:
    time.sleep(LONG)
    resource.setrlimit(resource.RLIMIT_NOFILE, (5, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _name(handler: Any) -> str:
    return getattr(handler, "__name__", str(handler))


def state() -> dict[str, Any]:
    """All that the tasks above change, as the one who comes after them finds it."""
    mask = os.umask(0o77)
    os.umask(mask)
    os.write(2, b"by descriptor\n")
    print("by print")
    return {
        "pid": os.getpid(),
        "folder": os.path.realpath("."),
        "umask": mask,
        "environment": sorted(os.environ),
        "handlers": [_name(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "depth": sys.getrecursionlimit(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "modules": {"sys", "os", "builtins", "encodings"} <= sys.modules.keys(),
        "encoding": sys.stdout.encoding,
    }
