"""The shares of a worker: whether each of them answers, found out without ever waiting for one.

    Watch ──spawn──> look.py ──exit status──> well, or what is wrong ──> labels, troubles
      │                 └── not in time ────> stale; SIGKILL, and nobody waits for the process
      └── the next look: `interval` after the last one began, or as soon as the one that hung has ended

A dead mount holds a process in the kernel, where no signal reaches it. It stays our only one there: its end, which
comes with the mount's return or its removal, is the first sign of life. Then it is buried, and the next look begins.
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from qdistd.call import decode_value
from qdistd.config import Share
from qdistd.errors import Malformed
from qdistd.events import Event, told
from qdistd.model import Grant
from qdistd.shares import LABEL, MARK, names_in
from qdistd.worker.look import UNMOUNTED

PROGRAM = str(Path(__file__).with_name("look.py"))


class Look(msgspec.Struct):
    """One process that looks at a share. Times are those of the loop, but `wall`."""

    pid: int
    began: float
    wall: float
    """Seconds since 1970."""
    late: bool = False
    """Whether it did not come back in time."""


class WatchEstate(msgspec.Struct):
    """What a worker leaves to the next image of its program about one share: see `qdistd.succession`."""

    name: str
    path: str
    probe: str
    trouble: str | None
    look: Look | None


class Watch:
    """One share. `changed` is called when `trouble` has changed."""

    def __init__(
        self, share: Share, wall: Callable[[], float], changed: Callable[["Watch"], None], left: WatchEstate | None
    ) -> None:
        self.share = share
        self.trouble: str | None = None
        """What is wrong, as a sentence; empty: it is well; None: not known yet."""
        self.over = False
        """Whether nobody wants to know any more."""
        self._wall = wall
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._look: Look | None = None
        self._exited = -1
        self._timer: asyncio.TimerHandle | None = None
        if left:
            self.trouble, self._look = left.trouble, left.look

    @property
    def hangs(self) -> bool:
        """Whether a process of it is under way yet."""
        return self._look is not None

    def begin(self) -> None:
        """Look, or wait for the look that an earlier image of ours has begun."""
        if self._look:
            self._await(self._look)
        else:
            self._begin_look()

    def stop(self) -> None:
        """Look no more."""
        self.over = True
        self._cancel()
        self._kill()

    def bequeath(self) -> WatchEstate:
        """Write it down, and let go of it."""
        self._cancel()
        self._forget_exit()
        share = self.share
        return WatchEstate(share.name, str(share.path), str(share.file), self.trouble, self._look)

    def _begin_look(self) -> None:
        began = self._loop.time()
        try:
            self._look = Look(_spawn(self.share), began, self._wall())
        except OSError as error:
            self._judge(f"no process can be started to look at it: {error.strerror}")
            self._timer = self._loop.call_at(began + self.share.interval, self._begin_look)
        else:
            self._await(self._look)

    def _await(self, look: Look) -> None:
        self._exited = os.pidfd_open(look.pid)
        self._loop.add_reader(self._exited, self._ended, look)
        if not look.late and not self.over:
            self._timer = self._loop.call_at(look.began + self.share.timeout, self._late, look)

    def _late(self, look: Look) -> None:
        look.late = True
        since = datetime.fromtimestamp(look.wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._kill()
        self._judge(f"{self.share.file} has not answered since {since}")

    def _ended(self, look: Look) -> None:
        self._cancel()
        self._forget_exit()
        self._look = None
        _, status = os.waitpid(look.pid, 0)
        if self.over:
            return
        if look.late:  # it speaks of a moment long ago
            self._begin_look()
            return
        self._judge(_words(self.share, os.waitstatus_to_exitcode(status)))
        self._timer = self._loop.call_at(look.began + self.share.interval, self._begin_look)

    def _judge(self, trouble: str) -> None:
        sentence = trouble and f"share {self.share.name}: {trouble}"
        if sentence != self.trouble:
            self.trouble = sentence
            self._changed(self)

    def _kill(self) -> None:
        if self._look:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._look.pid, signal.SIGKILL)

    def _cancel(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _forget_exit(self) -> None:
        if self._exited >= 0:
            self._loop.remove_reader(self._exited)
            os.close(self._exited)
            self._exited = -1


class Shares:
    """All of them. `changed` is called when one is lost, or is back."""

    def __init__(
        self,
        wall: Callable[[], float],
        log: logging.Logger,
        changed: Callable[[], None],
        left: Sequence[WatchEstate] = (),
    ) -> None:
        self._wall = wall
        self._log = log
        self._changed = changed
        self._left = list(left)
        self._watches: list[Watch] = []
        self._leaving: list[Watch] = []
        """Those of other settings, whose last process hangs."""
        self._missing: frozenset[str] = frozenset()
        """Names of those that are not well, or not known to be."""
        self._well: frozenset[str] = frozenset()
        """The labels of those that are."""

    def resize(self, shares: Iterable[Share]) -> None:
        """Watch these from now on, and no others. What is known of one that stays where it was stays known."""
        before = [*(watch.bequeath() for watch in [*self._watches, *self._leaving]), *self._left]
        self._left = []
        self._watches = [self._watch(share, before) for share in shares]
        self._leaving = [Watch(_gone(estate), self._wall, self._tell, estate) for estate in before if estate.look]
        for watch in self._leaving:
            watch.stop()
        for watch in [*self._watches, *self._leaving]:
            watch.begin()
        self._leaving = [watch for watch in self._leaving if watch.hangs]
        self._count()

    def close(self) -> None:
        """Look no more."""
        for watch in [*self._watches, *self._leaving]:
            watch.stop()
            watch.bequeath()

    def bequeath(self) -> list[WatchEstate]:
        """Write all down, and let go of it."""
        return [watch.bequeath() for watch in [*self._watches, *self._leaving]]

    def labels(self) -> list[str]:
        """Those of the shares that are well."""
        return sorted(self._well)

    def troubles(self) -> list[str]:
        """What is wrong, a sentence for each share that is not well."""
        return [watch.trouble for watch in self._watches if watch.trouble]

    def lacks(self, grant: Grant) -> bool:
        """Whether this task requires a share that is not well here just now, or names one of ours that is not."""
        if any(label.startswith(LABEL) and label not in self._well for label in grant.requires):
            return True
        return bool(self._missing) and not self._missing.isdisjoint(_named(grant))

    def _watch(self, share: Share, before: list[WatchEstate]) -> Watch:
        """A watch that goes on from where one of the same place was left, if there is one: taken out of `before`."""
        same = (share.name, str(share.path), str(share.file))
        left = next((estate for estate in before if (estate.name, estate.path, estate.probe) == same), None)
        if left:
            before.remove(left)
        return Watch(share, self._wall, self._tell, left)

    def _tell(self, watch: Watch) -> None:
        if watch.trouble:
            text, extra = "%s: no task that needs it is taken", told(Event.SHARE_LOST)
            self._log.warning(text, watch.trouble, extra=extra)
        else:
            text, extra = "share %s is well: %s", told(Event.SHARE_FOUND)
            self._log.info(text, watch.share.name, watch.share.path, extra=extra)
        self._count()
        self._changed()

    def _count(self) -> None:
        self._missing = frozenset(watch.share.name for watch in self._watches if watch.trouble != "")
        self._well = frozenset(LABEL + watch.share.name for watch in self._watches if watch.trouble == "")


def _spawn(share: Share) -> int:
    """Start a look; its process id. Nothing of it is waited for, nothing of ours is open in it."""
    mounted = "yes" if share.mount else "no"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", PROGRAM, str(share.path), str(share.file), mounted, str(share.timeout)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    process.returncode = 0  # for `subprocess` it is over: we wait for it, maybe in a later image of ours
    return process.pid


def _words(share: Share, status: int) -> str:
    """What an exit status of `look.py` means; empty: all is well."""
    if status == 0:
        return ""
    if status == UNMOUNTED:
        return f"nothing is mounted at {share.path}"
    if status < 0:
        return f"{share.file} cannot be looked at: the process was killed by signal {-status}"
    return f"{share.file}: {os.strerror(status)}"


def _named(grant: Grant) -> set[str]:
    """The shares that a task names among its arguments."""
    try:
        return names_in([decode_value(value) for value in (grant.payload, *grant.inputs) if MARK in value])
    except Malformed:  # its child will say so
        return set()


def _gone(estate: WatchEstate) -> Share:
    """The share of a watch that only waits for its last process."""
    return Share(estate.name, Path(estate.path), estate.probe)
