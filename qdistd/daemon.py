"""How a program becomes a service: readiness, signals, watchdog, reload, drain, exit code.

    run ── door ── lock the PID file ── (detach) ── log ── serve
                                                             │  start()    then READY=1
      SIGHUP, --reload ──note──>  reload(): the whole new file, or the old settings go on; who asked is told
      SIGTERM, SIGINT  ──note──>  stop(hurry=False): drain; a second one: stop(hurry=True)
      every moment     ─────────  WATCHDOG=1 STATUS=…, from the loop that must not hang, and only while hang() is empty
                                                             │  work() returns
                                                           exit code

A signal handler only takes a note; what it means is decided here, in one loop.
"""

import asyncio
import enum
import errno
import faulthandler
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from qdistd import logs
from qdistd.control import Control, Request, Verdict
from qdistd.detach import Herald, PidFile, detach
from qdistd.errors import ConfigError, Overloaded, QdistError, Refused, Unavailable
from qdistd.events import Event, told
from qdistd.systemd import notify, watchdog_seconds

BEAT = 2.0
"""Seconds between two STATUS lines: what `systemctl status` shows is no older than that."""

BEATS_A_WATCHDOG = 3
"""Beats in one period of the watchdog, so that one may be late."""

EXTENSION = 10_000_000
"""Microseconds from each beat of a drain to a SIGKILL, should TimeoutStopSec= be over: a drain that hangs ends soon."""

AFTERWORDS = 15.0
"""Seconds beyond its drain that a service may ask for: last reports, and children that need a SIGKILL."""

log = logging.getLogger(__name__)


class Exit(enum.IntEnum):
    """Exit codes of the daemons; those above 1 are the ones of sysexits.h, as for `qdist`."""

    OK = 0
    FAILED = 1
    """Something is wrong that the log explains. With --check: the configuration is not valid."""
    USAGE = 64
    """The command line is wrong."""
    BUG = 70
    """A bug of qdist; the log has its traceback."""
    LATER = 75
    """It cannot run just now: the address is taken, it runs already, the disk is full."""
    CONFIG = 78
    """The configuration is not valid. systemd starts it again, and it comes up once the file is mended."""
    INTERRUPTED = 130
    """Ctrl-C before it had begun, as in a shell. Later it is a signal to stop like any other."""


NOT_NOW = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})
"""Errors of the system that a later start may not meet again."""

STOPS = (signal.SIGTERM, signal.SIGINT)

NOWHERE = Path(os.devnull)

Note: TypeAlias = signal.Signals | Exception | Request

Notes: TypeAlias = "asyncio.Queue[Note]"


class Service(Protocol):
    """What `serve` keeps alive."""

    async def start(self) -> None:
        """Return when it serves. May be cancelled."""

    async def work(self) -> None:
        """Return when it has ended, by itself or after `stop`."""

    async def reload(self, request: Request, /) -> None:
        """Apply the configuration file whole, or raise Refused or OSError with nothing changed.

        `request.keys` are the key files as they are now, where the service runs on copies of them.
        """

    def stop(self, hurry: bool, /) -> float:
        """Begin to end: drain what runs, or with `hurry` hand it back at once. Never blocks.

        The seconds that the drain may take.
        """

    def hang(self) -> str:
        """What makes no progress, in a few words; empty: all is well. Asked at every beat of the watchdog."""

    def status(self) -> str:
        """One line for `systemctl status`."""


class Options(NamedTuple):
    """What the command line says about the way to run."""

    program: str
    detach: bool = False
    pidfile: Path | None = None
    log: Path | None = None
    control: Path | None = None
    """The socket where `--reload` asks."""
    level: int = logging.INFO
    """The least important records that are logged. DEBUG also shows tracebacks to a person at a terminal."""


def run(options: Options, build: Callable[[], Service]) -> Exit:
    """Run a service to its end. `build` is called in the process that stays, with the log in place."""
    pidfile = PidFile(options.pidfile)
    try:
        pidfile.take()
        herald = detach(pidfile.fds, options.log or NOWHERE) if options.detach else Herald()
    except (Unavailable, OSError) as problem:
        sys.stderr.write(f"{options.program}: {problem}\n")
        return _code_of(problem)
    pidfile.write()
    faulthandler.enable()  # a watchdog ends us with SIGABRT: the stacks of all threads then name the hang
    file = options.log if options.detach else None
    with logs.relayed(options.program, os.environ, level=options.level, file=file):
        code, sentence = _door(options, lambda: asyncio.run(_serve(build, options.control, herald)))
    pidfile.drop()
    herald.tell(code, f"{options.program}: {sentence}")
    return code


def _door(options: Options, body: Callable[[], None]) -> tuple[Exit, str]:
    """The exit code and the sentence for whatever comes out of `body`."""
    try:
        body()
    except QdistError as problem:
        shown = options.level <= logging.DEBUG
        log.critical("%s", problem, exc_info=shown, extra=told(Event.SERVICE_FAILED))
        return _code_of(problem), str(problem)
    except Exception as bug:  # the door of the daemon: what gets here is a bug, and is told with its place
        sentence = f"internal error {secrets.token_hex(4)}: {type(bug).__name__}: {bug}"
        shown = options.level <= logging.DEBUG or not sys.stderr.isatty()
        hint = "" if shown else " (--debug shows where)"
        log.critical("%s%s", sentence, hint, exc_info=shown, extra=told(Event.SERVICE_FAILED))
        return Exit.BUG, sentence
    return Exit.OK, ""


def _code_of(problem: QdistError | OSError) -> Exit:
    if isinstance(problem, ConfigError):
        return Exit.CONFIG
    if isinstance(problem, Unavailable | Overloaded) or getattr(problem, "errno", None) in NOT_NOW:
        return Exit.LATER
    return Exit.FAILED


async def _serve(build: Callable[[], Service], control: Path | None, herald: Herald) -> None:
    """Build and start the service, say that it is ready, and obey signals until it has ended."""
    loop = asyncio.get_running_loop()
    notes: Notes = asyncio.Queue()
    loop.set_exception_handler(partial(_note_bug, notes))
    for number in (*STOPS, signal.SIGHUP):
        loop.add_signal_handler(number, notes.put_nowait, number)
    door = Control(control, notes.put_nowait) if control else None
    try:
        service = await _start(build(), notes)
        if service is None:
            return
        if door is not None:
            await door.open()
    except OSError as problem:
        kind = Unavailable if problem.errno in NOT_NOW else Refused
        raise kind(f"cannot start: {problem}") from problem
    notify(READY=1, STATUS=service.status())
    log.info("ready: %s", service.status(), extra=told(Event.SERVICE_READY))
    herald.tell(Exit.OK)
    pulse = Pulse(service)
    pulse.beat()
    try:
        await _obey(service, notes, pulse)
    finally:
        pulse.stop()
        if door is not None:
            door.close()


def _note_bug(notes: Notes, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A callback of the loop has failed, and may have left half of its work: only a fresh process is sound again.

    What asyncio reports without a handle concerns one connection, which it closes, or is tried again by itself.
    """
    error = context.get("exception")
    if isinstance(error, Exception) and "handle" in context:
        notes.put_nowait(error)
    else:
        loop.default_exception_handler(context)


async def _start(service: Service, notes: Notes) -> Service | None:
    """The service when it serves, or None where a signal to stop came first."""
    starting = asyncio.ensure_future(service.start())
    while note := await _next(starting, notes):
        if isinstance(note, Exception):
            raise note
        if not isinstance(note, signal.Signals) or note is signal.SIGHUP:
            continue  # the file has only just been read
        log.info("%s while starting: giving up", note.name)
        starting.cancel()
        await asyncio.wait({starting})
        return None
    await starting
    return service


async def _obey(service: Service, notes: Notes, pulse: "Pulse") -> None:
    working = asyncio.ensure_future(service.work())
    while note := await _next(working, notes):
        if isinstance(note, Exception):
            raise note
        if note is signal.SIGHUP:
            note = Request()
        if isinstance(note, Request):
            await _reload(service, pulse, note)
            continue
        hurry = pulse.stopping
        words = "stopping at once" if hurry else "stopping; a second signal hurries"
        log.info("%s: %s", note.name, words, extra=told(Event.SERVICE_STOPPING))
        pulse.allow(service.stop(hurry))
        notify(STOPPING=1, STATUS=pulse.status())
    await working


async def _next(work: "asyncio.Future[None]", notes: Notes) -> Note | None:
    """The next signal or bug that was noted, or None once `work` is over."""
    noting = asyncio.ensure_future(notes.get())
    await asyncio.wait((work, noting), return_when=asyncio.FIRST_COMPLETED)
    if noting.done():
        return noting.result()
    noting.cancel()
    return None


async def _reload(service: Service, pulse: "Pulse", request: Request) -> None:
    """One reload after the other: what is asked meanwhile waits. Who asked is answered once all is in force."""
    notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
    try:
        await service.reload(request)
    except (Refused, OSError) as problem:
        pulse.remark = f"; reload refused: {problem}"
        log.error("reload refused, the old settings go on: %s", problem, extra=told(Event.RELOAD_REFUSED))
        verdict = Verdict(False, str(problem))
    else:
        pulse.remark = ""
        log.info("reloaded", extra=told(Event.RELOADED))
        verdict = Verdict(True)
    notify(READY=1, STATUS=pulse.status())
    request.tell(verdict)


class Pulse:
    """Says WATCHDOG=1 and STATUS from the event loop, and while stopping asks for more time.

    A service that makes no progress is not spoken for: after WatchdogSec= systemd ends it, and starts it anew.
    """

    def __init__(self, service: Service) -> None:
        self.stopping = False
        self.remark = ""
        self._hang = ""
        self._until = 0.0
        self._service = service
        watchdog = watchdog_seconds(os.environ)
        self._seconds = min(BEAT, watchdog / BEATS_A_WATCHDOG) if watchdog else BEAT
        self._timer: asyncio.TimerHandle | None = None

    def beat(self) -> None:
        """Beat once, and again in a moment. Said without waiting: a busy manager gets the next one."""
        loop = asyncio.get_running_loop()
        self._look()
        if self._hang:
            notify(patience=0, STATUS=self.status())
        else:
            notify(patience=0, WATCHDOG=1, STATUS=self.status())
        if loop.time() < self._until:
            notify(patience=0, EXTEND_TIMEOUT_USEC=EXTENSION)
        self._timer = loop.call_later(self._seconds, self.beat)

    def allow(self, seconds: float) -> None:
        """The service is stopping, and may take so many seconds for it."""
        self.stopping = True
        self._until = asyncio.get_running_loop().time() + seconds + AFTERWORDS

    def status(self) -> str:
        """What the service says, and what a person should know beside it."""
        return self._service.status() + self.remark + (f"; no progress: {self._hang}" if self._hang else "")

    def _look(self) -> None:
        before, self._hang = self._hang, self._service.hang()
        if self._hang and self._hang != before:
            log.error("no progress: %s; without any the watchdog ends this process", self._hang)

    def stop(self) -> None:
        """Beat no more."""
        if self._timer:
            self._timer.cancel()
