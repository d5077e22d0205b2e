"""The verbs of whoever looks after the store: purge, backup.

    Purge ──> a stretch of the store ──> how many, and where to go on: said again until that is nowhere
    Backup at 0 ──> a copy is made, in a thread ──> Piece, Piece … asked for one by one ──> the copy is gone

One copy at a time. It belongs to the connection that asked for it, and ends with it, or when nobody asks for long.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from qdistd.broker import PURGE_PAUSE, Broker
from qdistd.errors import Overloaded, QdistError, Refused
from qdistd.master.clerk import Clerk
from qdistd.master.guest import Guest
from qdistd.master.people import Put
from qdistd.model import State
from qdistd.store import Chosen, Copy, Store
from qdistd.upkeep import Backup, Piece, Purge, Purged

PIECE = 512 * 1024
"""Bytes of a copy in one answer: a moment of the loop, and few round trips."""

SILENCE = 60.0
"""Seconds after which nobody seems to want the copy any more: its asker takes each piece at once."""

PURGE_WEIGHT = 200
"""What a step of a purge weighs, in tasks that a transaction moves."""

ENDS = tuple(state for state in State if state.final)


class Keeper:
    """`verbs` serves them by their word."""

    def __init__(
        self, broker: Broker, store: Store, *, put: Put, loop: asyncio.AbstractEventLoop, log: logging.Logger
    ) -> None:
        self._broker = broker
        self._store = store
        self._put = put
        self._loop = loop
        self._log = log
        self._run: Run | None = None
        self._asker: Guest | None = None
        """Whose copy it is, or is about to be."""
        self.verbs: dict[str, Callable[[Guest, int, Any], None]] = {"purge": self._purge, "backup": self._serve}

    def left(self, guest: Guest) -> None:
        """A connection is over."""
        if guest is self._asker:
            self._end()

    def close(self) -> None:
        """No copy may be under way when the store is closed."""
        if self._run is not None:
            clerk = self._run.clerk
            self._end()
            clerk.join()

    # -- purge

    def _purge(self, guest: Guest, number: int, purge: Purge) -> None:
        def answer(done: Purged) -> None:
            """After a pause: the next step is asked for at once."""
            self._loop.call_later(PURGE_PAUSE, guest.peer.answer, number, done)

        self._put(guest, number, lambda: self._weed(purge), answer, PURGE_WEIGHT)

    def _weed(self, purge: Purge) -> Purged:
        living = [state.word for state in purge.states if not state.final]
        if living:
            raise Refused(
                f"tasks that are {' or '.join(living)} have not ended, and cannot be purged: cancel them first"
            )
        before = purge.before or self._broker.now - purge.older
        chosen = Chosen(before, purge.states or ENDS, purge.queue, purge.name)
        tasks, cursor = self._store.ends.weed(chosen, purge.cursor, dry=purge.dry)
        return Purged(tasks, cursor, before)

    # -- backup

    def _serve(self, guest: Guest, number: int, ask: Backup) -> None:
        if self._asker not in (None, guest):
            _fail(guest, number, Overloaded("another backup is under way: try again when that is over"))
        elif self._run is not None:
            self._run.ask(number, ask.at, ask.seconds)
        elif ask.at or self._asker is not None:
            _fail(guest, number, Overloaded("this backup is gone with its connection: begin anew"))
        else:
            self._asker = guest
            self._put(guest, number, self._begun, partial(self._begin, guest, number, ask))

    def _begun(self) -> Copy | QdistError:
        """A copy, or why there is none: as the answer, so that either is heard of by `_begin`."""
        try:
            return self._store.copy()
        except QdistError as error:
            return error

    def _begin(self, guest: Guest, number: int, ask: Backup, copy: Copy | QdistError) -> None:
        if isinstance(copy, QdistError):
            self._asker = None
            _fail(guest, number, copy)
        elif self._asker is not guest:  # it has left meanwhile
            copy.close()
        else:
            self._log.info("a backup begins: %d bytes, for %s", copy.share()[1], guest.peer.address)
            self._run = Run(guest, copy, self._loop, self._end)
            self._run.ask(number, ask.at, ask.seconds)

    def _end(self) -> None:
        self._asker = None
        if self._run is not None:
            run, self._run = self._run, None
            self._log.info("the backup for %s ends: %d bytes were sent", run.guest.peer.address, run.sent)
            run.end()


class Run:
    """One copy and who reads it. `over` is called when it has been read, has failed, or nobody seems to want it."""

    def __init__(self, guest: Guest, copy: Copy, loop: asyncio.AbstractEventLoop, over: Callable[[], None]) -> None:
        self.guest = guest
        self.sent = 0
        self.clerk = Clerk(loop, "backup")
        self._copy = copy
        self._loop = loop
        self._over = over
        self._complete = False
        self._parked: tuple[int, int, asyncio.TimerHandle] | None = None
        """Number and position of the question that waits for the copy, and the timer that answers it without."""
        self._silence = loop.call_later(SILENCE, over)
        self.clerk.do(copy.make, self._made)

    def ask(self, number: int, at: int, seconds: float) -> None:
        """A piece from `at` on; or how far the copy is, where it is not complete within `seconds`."""
        self._silence.cancel()
        self._silence = self._loop.call_later(SILENCE + seconds, self._over)
        self._tell_share()
        if self._complete:
            self._send(number, at)
        else:
            self._parked = number, at, self._loop.call_later(seconds, self._tell_share)

    def end(self) -> None:
        """Give everything back."""
        self._silence.cancel()
        if self._parked is not None:
            self._parked[2].cancel()
            self._parked = None
        self._copy.drop()
        self.clerk.do(self._copy.close, lambda _result, _error: None)
        self.clerk.leave()

    def _made(self, _: None, error: QdistError | None) -> None:
        self._complete = error is None
        parked = self._take_parked()
        if error is not None and parked is not None:
            _fail(self.guest, parked[0], error)
        if error is not None:
            self._over()
        elif parked is not None:
            self._send(*parked)

    def _take_parked(self) -> tuple[int, int] | None:
        if self._parked is None:
            return None
        number, at, timer = self._parked
        self._parked = None
        timer.cancel()
        return number, at

    def _tell_share(self) -> None:
        parked = self._take_parked()
        if parked is not None:
            self.guest.peer.answer(parked[0], Piece(*self._copy.share(), complete=False))

    def _send(self, number: int, at: int) -> None:
        def read(data: bytes, _: QdistError | None) -> None:
            self.sent += len(data)
            self.guest.peer.answer(number, Piece(*self._copy.share(), complete=True, data=data))
            if not data:
                self._over()

        self.clerk.do(lambda: self._copy.read(at, PIECE), read)


def _fail(guest: Guest, number: int, error: QdistError) -> None:
    guest.peer.fail(number, error.code, str(error))
