"""A child from its first to its last instruction."""

import contextlib
import faulthandler
import fcntl
import os
import resource
import signal
import sys
import time
from pathlib import Path

import msgspec

from qdistd.child.board import Board
from qdistd.child.catalog import Catalog
from qdistd.child.cell import Cell
from qdistd.child.conveyor import Conveyor
from qdistd.child.fence import enclose
from qdistd.child.frames import READY, TOLD, UNFIT, Care, Ready, Setup
from qdistd.child.runner import Runner
from qdistd.child.scale import Scale
from qdistd.child.stage import STAGE, Stage
from qdistd.child.upkeep import Upkeep
from qdistd.child.voice import Voice
from qdistd.model import Outcome
from qdistd.shares import VARIABLE

WORTH_WEIGHING = 0.001
"""Seconds. A shorter task cannot have had children of its own or grown much, and is not asked about them."""

RATHER_US = "500"
"""What the kernel adds (of 1000) when it chooses whom to kill for memory: a child before the worker."""


def main(text: str) -> None:
    """Be a child. `text` is a `Setup` as JSON."""
    setup = _read(text)
    del sys.argv[1:]  # they are ours, and a user's module may look at them
    _bind_to(setup.life)
    enclose()
    _keep_to_ourselves(setup)
    _prepare_process(setup.memory)
    sys.path[:0] = setup.path
    os.environ[VARIABLE] = msgspec.json.encode(setup.shares).decode()
    conveyor = Conveyor(setup)
    voice = Voice(conveyor)
    catalog = Catalog(setup.modules)
    voice.settle()
    STAGE.open(conveyor, Board(setup.board))
    scale = Cell(setup.cell) if setup.cell else Scale()
    cpu = time.process_time() + scale.others()
    conveyor.put(READY, Outcome.SUCCEEDED, msgspec.json.encode(Ready(catalog.broken)), time.time(), 0, cpu, 0)
    runner = Runner(catalog, STAGE, setup.result, setup.memory, setup.shares)
    _work(conveyor, runner, scale, voice, STAGE)


def _read(text: str) -> Setup:
    """What the pool has written. The files of a program may be replaced while it runs, and then the two do not fit."""
    try:
        return msgspec.json.decode(text, type=Setup)
    except msgspec.ValidationError as error:
        sys.exit(f"the qdist on the disk is not the version of this worker: restart the worker ({error})")


def _work(conveyor: Conveyor, runner: Runner, scale: Scale, voice: Voice, stage: Stage) -> None:
    process, upkeep = os.getpid(), Upkeep(scale)
    while task := conveyor.take():
        stage.begin(task)
        scale.begin(task.care)
        started, begin, cpu = time.time(), time.perf_counter(), time.process_time()
        stage.started = started
        outcome, value = runner.run(task)
        if os.getpid() != process:
            os._exit(0)  # the task has forked and its copy came back too: the original speaks for both
        voice.end()
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        if wall > WORTH_WEIGHING:
            cpu += scale.weigh()
        scale.end(Care.TIDY if stage.told else task.care)
        told = stage.end()
        survives = told and scale.alone()
        conveyor.put(task.ticket, outcome | TOLD if survives else outcome, value, started, wall, cpu, scale.rss)
        if told and not survives:
            break  # it was to end with all it has started, and what is left of that ends with us
        if trouble := upkeep.restore(wall):
            _leave(trouble)


def _leave(trouble: str) -> None:
    """End this process, which is not fit for another task."""
    print(f"a task has changed this child for good: {trouble}", file=sys.stderr)  # noqa: T201 - goes to the log
    os._exit(UNFIT)


def _bind_to(life: int) -> None:
    """Have the kernel kill our process group when the worker's end of `life` closes, however it came to that.

    PR_SET_PDEATHSIG would do so for this process alone, and forget the programs that its tasks have started.
    """
    fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def _keep_to_ourselves(setup: Setup) -> None:
    for descriptor in (setup.tasks, setup.tickets, setup.results, setup.life):
        os.set_inheritable(descriptor, False)


def _prepare_process(memory: int) -> None:
    faulthandler.enable()  # a segmentation fault shows in the log where it was
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # who has started the worker may have blocked some
    if memory:
        # Private writable memory: unlike RLIMIT_AS it leaves mapped files and reserved addresses alone.
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with contextlib.suppress(OSError):  # a container may not let us: nothing depends on it
        Path("/proc/self/comm").write_text("qdist-child")
        Path("/proc/self/oom_score_adj").write_text(RATHER_US)
