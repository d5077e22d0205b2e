"""The thread behind a client: one event loop that runs one session, and what other threads may do with it.

    caller's thread                      loop thread
    ───────────────                      ───────────
    append to the outbox  ──(kick)────>  Session.pump
    wait, with Patience   <──release───  Entry.ended
    call(coroutine)       ──────────────> runs it ──> answer

The loop thread is woken only when the session says that it is `hungry`: in a stream of submits the answers of the
master move it. No thread waits longer than its own timeout, or than the client's timeout without a master.
"""

import concurrent.futures
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from qdistd.address import Address
from qdistd.client.outbox import Entry
from qdistd.client.session import WORTH_SENDING, Session
from qdistd.client.thread import SessionThread
from qdistd.errors import Refused, TooLarge, again
from qdistd.protocol import Hello
from qdistd.wire.network import AsyncioNetwork

T = TypeVar("T")

MOST_UNACKNOWLEDGED = 20_000
"""Tasks that may be on their way to the master's disk before `submit` blocks: about a second of work for it."""

MOST_BYTES = 64 * 1024 * 1024
"""Payload of those tasks, for the same reason."""

SURELY_SMALL = 64 * 1024
"""Bytes of payload that are not checked here: the master's own default limit. It checks every task anyway."""

FAREWELL = 5.0
"""Seconds the end of the program waits for the last submits to be stored."""

LONG_NAP = 3600.0
"""Seconds a thread sleeps at most before it looks at the clock again; what "for ever" is made of."""


class Background:
    """Owns the thread. It ends with `close`, with the program, or when nobody holds it any more."""

    def __init__(self, addresses: Sequence[Address], key: bytes, timeout: float) -> None:
        self.addresses = addresses
        self.timeout = timeout
        self.lock = threading.Lock()
        """Guards the moment a handle gets its end."""
        self._room = threading.Condition()
        self._blocked = 0
        self._pid = os.getpid()
        self.session = _session(addresses, key, timeout, weakref.WeakMethod(self._acknowledged))
        self._waiting = self.session.outbox.waiting
        self._thread = SessionThread(self.session)
        self._finalizer = weakref.finalize(self, self._thread.leave, min(FAREWELL, timeout))

    # -- handing over

    def hand_over(self, entry: Entry, *, large: bool = False) -> None:
        """Put a task on its way. `large`: its payload is not `SURELY_SMALL`.

        Blocks while too many are; Refused or Unavailable when it cannot go at all.
        """
        self.check()
        waiting, full = self._waiting, self._heavy if large else self._full
        if full():
            self._wait_for_room(full)
        waiting.append(entry)
        if self.session.hungry or len(waiting) % WORTH_SENDING == 0:
            self.kick()

    def kick(self) -> None:
        """Have the loop look at the outbox."""
        self.session.hungry = False
        self._thread.soon(self.session.pump)

    def watch(self, entry: Entry) -> None:
        """Hear of the end of a task that was not watched from its submit on."""
        self._thread.soon(self.session.watch, entry)

    def check(self) -> None:
        """Refused where this client cannot be used: closed, broken, or inherited by a forked process."""
        if self._pid != os.getpid():
            raise Refused(
                f"this client belongs to process {self._pid}, and a fork does not copy its connection:"
                " make a new qdistd.Client() in the forked process"
            )
        broken = self.session.broken
        if broken is not None:
            raise again(broken)

    def check_size(self, name: str, payload: bytes) -> None:
        """TooLarge for a payload that the master would refuse, as soon as its limit is known."""
        welcome = self.session.welcome or self.call(self.session.greeted)
        if len(payload) > welcome.payload:
            raise TooLarge(
                f"the arguments of {name!r} have {len(payload):,} bytes, this master takes {welcome.payload:,}:"
                " put the data in a file on shared storage and send its path"
            )

    # -- waiting

    def post(self, coroutine: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Run a coroutine in the loop. Cancelled when the session is over."""
        return self._thread.post(coroutine)

    def call(self, make: Callable[[], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        """Run a coroutine in the loop and return its answer. Unavailable or TimeoutError when that takes too long."""
        patience = Patience([self], self.timeout if timeout is None else timeout, "the answer of the master")
        future = self.post(make())
        try:
            while not future.done():
                concurrent.futures.wait([future], timeout=patience())
        finally:
            future.cancel()
        if future.cancelled():  # the client was closed meanwhile
            self.check()
        return future.result()

    def flush(self, timeout: float | None = None) -> None:
        """See `Client.flush`. A session that is over has nothing under way, only refusals to tell."""
        if self.session.broken is None:
            self.call(self.session.flush, timeout)
        else:
            self.session.refusals.check()

    def check_may_wait(self) -> None:
        """Refused in the one thread that must not wait, because everybody else waits for it."""
        self.check()
        if self._thread.here():
            raise Refused("a callback must not wait for the master: hand the work to another thread")

    def gives_up_at(self) -> float:
        """The monotonic time from which waiting for a master is hopeless, as things are now."""
        since = self.session.down_since
        return (time.monotonic() if since is None else since) + self.timeout

    def out_of_time(self, what: str) -> Exception:
        """What to raise when a timeout has passed."""
        if self.session.down_since is not None:
            return self.session.unavailable()
        busy = ": the master is overloaded, and what it refused is submitted again" * self.session.outbox.postponed
        return TimeoutError(f"{what} has not come in time{busy}")

    def _full(self) -> bool:
        outbox = self.session.outbox
        return len(self._waiting) + outbox.tasks >= MOST_UNACKNOWLEDGED or outbox.bytes >= MOST_BYTES

    def _heavy(self) -> bool:
        """As `_full`, with the payload that is in no request yet: hundreds of large tasks may wait there."""
        waiting = sum(len(entry.task.payload) for entry in self._waiting.copy() if entry.task)
        return waiting + self.session.outbox.bytes >= MOST_BYTES or self._full()

    def _wait_for_room(self, full: Callable[[], bool]) -> None:
        if self._thread.here():
            return  # a callback that submits: it must not wait, and what it adds is little
        patience = Patience([self], self.timeout, "the acknowledgement of earlier tasks")
        with self._room:
            self._blocked += 1
            try:
                while full():
                    self._room.wait(patience())
            finally:
                self._blocked -= 1
        self.check()

    def _acknowledged(self) -> None:
        if self._blocked:
            with self._room:
                self._room.notify_all()

    # -- the end

    @property
    def alive(self) -> bool:
        """Whether `close` has something to do."""
        return self._finalizer.alive

    def close(self) -> None:
        """End the connection and the thread. Whatever is not stored by now is dropped: flush first."""
        if self._pid == os.getpid():
            self._finalizer.detach()
            self._thread.end()


class Patience:
    """How long somebody waits: called for the length of the next nap, it raises when there is no more."""

    def __init__(self, backgrounds: Iterable[Background], timeout: float | None, what: str) -> None:
        self._backgrounds = list(backgrounds)
        self._deadline = float("inf") if timeout is None else time.monotonic() + timeout
        self._what = what
        for background in self._backgrounds:
            background.check_may_wait()
            background.kick()  # what somebody waits for shall move, whatever an interrupted submit left behind

    def __call__(self) -> float:
        """Seconds to sleep at most. TimeoutError after the timeout, Unavailable after too long without a master."""
        now = time.monotonic()
        until = self._deadline
        for background in self._backgrounds:
            hopeless = background.gives_up_at()
            if hopeless <= now:
                raise background.session.unavailable()
            until = min(until, hopeless)
        if now >= self._deadline:
            raise self._backgrounds[0].out_of_time(self._what)
        return min(until - now, LONG_NAP)


def _session(
    addresses: Sequence[Address], key: bytes, patience: float, acknowledged: "weakref.WeakMethod[Any]"
) -> Session:
    """A session of this process. It knows the background weakly, so that a forgotten client can end."""

    def tell() -> None:
        method = acknowledged()
        if method is not None:
            method()

    host = socket.gethostname()
    return Session(
        AsyncioNetwork(),
        addresses,
        key,
        hello=Hello(kind="client", name=f"{host}-{os.getpid()}"[-200:], host=host, pid=os.getpid()),
        wall=time.time,
        rng=random.Random(),  # noqa: S311 - jitter, and the tail of ids, which are no secret
        patience=patience,
        acknowledged=tell,
    )
