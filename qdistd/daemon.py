"""How a program becomes a service: readiness, signals, watchdog, reload, drain, exit code.

    run ── door ── lock the PID file ── (detach) ── log ── serve
                                                             │  start()    then READY=1
      SIGHUP, --reload ──note──>  reload(): the whole new file, or the old settings go on; who asked is told
                                            where it takes new code, too: exec, see `succession`
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
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from qdistd import logs
from qdistd.control import Control, Request, Verdict
from qdistd.detach import Herald, PidFile, detach
from qdistd.errors import ConfigError, Overloaded, QdistError, Refused, Unavailable
from qdistd.events import Event, told
from qdistd.pulse import Pulse
from qdistd.succession import HEARD, Estate, Succession, block, unblock
from qdistd.systemd import notify

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

NOWHERE = Path(os.devnull)

Note: TypeAlias = signal.Signals | Exception | Request

Notes: TypeAlias = "asyncio.Queue[Note]"

Bequeath: TypeAlias = Callable[[], Awaitable[tuple[bytes, list[int]]]]
"""Lets go of everything, and returns what the next image takes over: a state, and the descriptors that stay open.

Refused where that cannot be, with all as it was. Nothing may be awaited after it has returned.
"""

TURNS = 3
"""Of the loop, in which a signal that has already come gets to the notes."""


class Service(Protocol):
    """What `serve` keeps alive."""

    async def start(self) -> None:
        """Return when it serves. May be cancelled."""

    async def work(self) -> None:
        """Return when it has ended, by itself or after `stop`."""

    async def reload(self, request: Request, /) -> Bequeath | None:
        """Apply the configuration file whole, or raise Refused or OSError with nothing changed.

        `request.keys` are the key files as they are now, where the service runs on copies of them. What is returned
        means that all is well, and that a fresh image of the program is to go on with it.
        """

    def stop(self, hurry: bool, /) -> float:
        """Begin to end: drain what runs, or with `hurry` hand it back at once. Never blocks.

        The seconds that the drain may take.
        """

    def hang(self) -> str:
        """What makes no progress, in a few words; empty: all is well. Asked at every beat of the watchdog."""

    def status(self) -> str:
        """One line for `systemctl status`."""


Build: TypeAlias = Callable[[bytes], Service]


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


def run(options: Options, build: Build) -> Exit:
    """Run a service to its end. `build` is called in the process that stays, with the log in place.

    It is given the state that an earlier image of the program has left, else nothing.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as by a careless parent, it lets us wait for no child
    succession = Succession(os.environ, Path.cwd())
    estate = succession.estate
    pidfile = PidFile(options.pidfile, *(estate.lock if estate else ()))
    try:
        pidfile.take()
        herald = _leave_foreground(options, pidfile, heir=estate is not None)
    except (Unavailable, OSError) as problem:
        sys.stderr.write(f"{options.program}: {problem}\n")
        return _code_of(problem)
    pidfile.write()
    faulthandler.enable()  # a watchdog ends us with SIGABRT: the stacks of all threads then name the hang
    succession.lock = pidfile.fds
    code, sentence = _live(options, build, herald, succession)
    pidfile.drop()
    herald.tell(code, f"{options.program}: {sentence}")
    return code


def _leave_foreground(options: Options, pidfile: PidFile, *, heir: bool) -> Herald:
    """Go into the background where that is wanted. Who is heir to a daemon is there already."""
    if heir and options.detach:
        os.chdir("/")
    return detach(pidfile.fds, options.log or NOWHERE) if options.detach and not heir else Herald()


def _live(options: Options, build: Build, herald: Herald, succession: Succession) -> tuple[Exit, str]:
    """Serve to the end; once more after an exec that failed. The exit code and the sentence."""
    file = options.log if options.detach else None
    while True:
        with logs.relayed(options.program, os.environ, level=options.level, file=file) as succession.flush:
            ended = _door(options, lambda: asyncio.run(_serve(build, options.control, herald, succession)))
        if succession.estate is None:
            return ended


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


async def _serve(build: Build, control: Path | None, herald: Herald, succession: Succession) -> None:
    """Build and start the service, say that it is ready, and obey signals until it has ended, or goes on elsewhere."""
    loop = asyncio.get_running_loop()
    notes: Notes = asyncio.Queue()
    loop.set_exception_handler(partial(_note_bug, notes))
    for number in HEARD:
        loop.add_signal_handler(number, notes.put_nowait, number)
    unblock()
    door = Control(control, notes.put_nowait) if control else None
    estate = succession.take()
    try:
        service = build(estate.state if estate else b"")
        pulse = Pulse(service)
        if not await (_start_over(service, pulse) if estate else _start(service, notes)):
            return
        if door is not None:
            await door.open()
    except OSError as problem:
        kind = Unavailable if problem.errno in NOT_NOW else Refused
        raise kind(f"cannot start: {problem}") from problem
    if estate:
        _settle(estate, notes, pulse)
    else:
        notify(READY=1, STATUS=service.status())
        log.info("ready: %s", service.status(), extra=told(Event.SERVICE_READY))
        herald.tell(Exit.OK)
        pulse.beat()
    try:
        await _obey(service, notes, pulse, succession)
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


async def _start(service: Service, notes: Notes) -> bool:
    """True when it serves, False where a signal to stop came first."""
    starting = asyncio.ensure_future(service.start())
    while note := await _next(starting, notes):
        if isinstance(note, Exception):
            raise note
        if not isinstance(note, signal.Signals) or note is signal.SIGHUP:
            continue  # the file has only just been read
        log.info("%s while starting: giving up", note.name)
        starting.cancel()
        await asyncio.wait({starting})
        return False
    await starting
    return True


async def _start_over(service: Service, pulse: Pulse) -> bool:
    """Start as an heir: the manager watches us already, and signals wait, so that what was inherited is drained."""
    pulse.beat()
    await service.start()
    return True


def _settle(estate: Estate, notes: Notes, pulse: Pulse) -> None:
    """Answer the reload that made us what we are; what was asked after it comes next."""
    first, *later = [Request(socket.socket(fileno=fd) if fd >= 0 else None, keys) for fd, keys in estate.requests]
    for request in later:
        notes.put_nowait(request)
    _conclude(pulse, first, estate.problem)


async def _obey(service: Service, notes: Notes, pulse: Pulse, succession: Succession) -> None:
    working = asyncio.ensure_future(service.work())
    while note := await _next(working, notes):
        if isinstance(note, Exception):
            raise note
        if note is signal.SIGHUP:
            note = Request()
        if isinstance(note, Request):
            if await _reload(service, pulse, note, notes, succession):
                return
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


async def _reload(service: Service, pulse: Pulse, request: Request, notes: Notes, succession: Succession) -> bool:
    """One reload after the other: what is asked meanwhile waits. Who asked is answered once all is in force.

    True: a fresh image was to go on, and could not be executed.
    """
    notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
    try:
        bequeath = await service.reload(request)
        if bequeath:
            if pulse.stopping:
                raise Refused("it is about to stop")
            await succession.ask()
            succession.go(await _estate(bequeath, request, notes))
            return True
    except (Refused, OSError) as problem:
        _conclude(pulse, request, str(problem))
    else:
        _conclude(pulse, request)
    return False


async def _estate(bequeath: Bequeath, request: Request, notes: Notes) -> Estate:
    """All that the next image takes over, with what was noted here and not yet done."""
    block()
    try:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        state, descriptors = await bequeath()
    except Refused:
        unblock()
        raise
    requests = [request]
    while not notes.empty():
        note = notes.get_nowait()
        if isinstance(note, Exception):
            raise note
        if isinstance(note, Request):
            requests.append(note)
        else:
            os.kill(os.getpid(), note)  # as it is blocked, the next image gets it
    return Estate(state, descriptors, [request.leave() for request in requests])


def _conclude(pulse: Pulse, request: Request, problem: str = "") -> None:
    """Say how a reload went."""
    if problem:
        log.error("reload refused, the old settings go on: %s", problem, extra=told(Event.RELOAD_REFUSED))
    else:
        log.info("reloaded", extra=told(Event.RELOADED))
    pulse.remark = f"; reload refused: {problem}" if problem else ""
    notify(READY=1, STATUS=pulse.status())
    request.tell(Verdict(not problem, problem))
