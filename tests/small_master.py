"""A master of a few lines, for tests of those who talk to one: a dict for a store, and every word it heard.

async with small_master() as master:          real sockets, real handshake, real frames
    master.hold = True                        answers to Submit wait for `release`
    master.finish(task_id)                    a task succeeds, and whoever watches hears of it
    master.cut()                              every connection breaks (RST)
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from qdistd import protocol as say
from qdistd.address import Address
from qdistd.call import encode_value
from qdistd.model import Merged, Result, State, Task
from qdistd.wire.keyring import Key, Keyring
from qdistd.wire.network import AsyncioNetwork
from qdistd.wire.server import Gate, Peer, WireLimits

KEY = b"k" * 32


class SmallMaster:
    """Keeps tasks, finishes them when told to (or at once, with `quick`), and refuses those named in `refuse`.

    Those named in `merge` are the task that stands there.
    """

    def __init__(self, *, quick: bool = False, payload: int = 64 * 1024, version: int = say.VERSION) -> None:
        self.quick = quick
        self.hold = False
        self.deaf = False
        self.refuse: dict[str, str] = {}
        self.merge: dict[str, bytes] = {}
        self.tasks: dict[bytes, Task] = {}
        self.results: dict[bytes, Result] = {}
        self.heard: list[Any] = []
        self.unanswered: list[tuple[Peer, int, Any]] = []
        self.most_unanswered = 0
        self.connections = 0
        self.address = Address()
        self._payload = payload
        self._version = version
        self._guests: dict[Peer, Guest] = {}
        self._changed = asyncio.Event()
        self._decoders = {word: msgspec.msgpack.Decoder(verb.question) for word, verb in say.VERBS.items()}

    def questions(self, kind: type) -> list[Any]:
        """Everything of one kind that was said."""
        return [question for question in self.heard if type(question) is kind]

    async def until(self, happened: Any) -> None:
        """Return once `happened()` is true; looks after every word."""
        while not happened():
            self._changed.clear()
            await self._changed.wait()

    def finish(self, *ids: bytes) -> None:
        """The tasks succeed with the value 49."""
        for task_id in ids:
            self.results[task_id] = Result(task_id, State.SUCCEEDED, 1, encode_value(49))
        for guest in self._guests.values():
            guest.flush()

    def release(self) -> None:
        """Answer all submits that were held."""
        held, self.unanswered = self.unanswered, []
        for peer, number, submit in held:
            self._accept(peer, number, submit)

    def cut(self) -> None:
        """Break every connection."""
        self.unanswered.clear()
        for peer in list(self._guests):
            peer.abort()

    # -- what the wire calls

    def opened(self, peer: Peer) -> None:
        self.connections += 1
        self._guests[peer] = Guest(self, peer)

    def closed(self, peer: Peer, clean: bool) -> None:
        del self._guests[peer]
        self._changed.set()

    def stock(self, peer: Peer, ident: str | None, method: str, args: tuple[Any, ...], kwds: dict[str, Any]) -> None:
        raise NotImplementedError

    def native(self, peer: Peer, number: int, verb: str, question: msgspec.Raw) -> None:
        asked = self._decoders[verb].decode(question)
        self.heard.append(asked)
        self._changed.set()
        match asked:
            case say.Hello():
                peer.answer(number, say.Welcome(self._version, 30.0, 5.0, self._payload, 1024 * 1024, 0.0))
            case say.Submit():
                self._submit(peer, number, asked)
            case say.Wait():
                self._guests[peer].wait(number, asked)
            case say.Status() if self.deaf:
                peer.abort()
            case say.Queues():
                peer.answer(number, say.QueueList([]))
            case _:
                peer.fail(number, "refused", f"a small master does not know {verb}")

    def _submit(self, peer: Peer, number: int, submit: say.Submit) -> None:
        self.unanswered.append((peer, number, submit))
        self.most_unanswered = max(self.most_unanswered, len(self.unanswered))
        if not self.hold:
            asyncio.get_running_loop().call_soon(self.release)

    def _accept(self, peer: Peer, number: int, submit: say.Submit) -> None:
        refused = [
            say.Refusal(task.id, self.refuse[task.name], "no", 0.01)
            for task in submit.tasks
            if task.name in self.refuse
        ]
        bad = {refusal.id for refusal in refused}
        good = [task for task in submit.tasks if task.id not in bad and not (bad and submit.atomic)]
        merged = [Merged(task.id, self.merge[task.name]) for task in good if task.name in self.merge]
        good = [task for task in good if task.name not in self.merge]
        self.tasks |= {task.id: task for task in good}
        peer.answer(number, say.Accepted(refused, merged))
        if submit.watch and peer in self._guests:
            self._guests[peer].watched.update(task.id for task in good)
        if self.quick:
            self.finish(*(task.id for task in good))


class Guest:
    """One connection: what it watches, and its parked `Wait`."""

    def __init__(self, master: SmallMaster, peer: Peer) -> None:
        self._master = master
        self._peer = peer
        self._parked: tuple[int, int] | None = None
        self.watched: set[bytes] = set()

    def wait(self, number: int, wait: say.Wait) -> None:
        self._answer([], [])
        self._parked = number, wait.limit
        unknown = [task_id for task_id in wait.ids if task_id not in self._master.tasks]
        self.watched.update(set(wait.ids) - set(unknown))
        if unknown or wait.seconds == 0:
            self._answer([], unknown)
        self.flush()

    def flush(self) -> None:
        """Answer the parked `Wait` if something watched has ended."""
        ended = self.watched & self._master.results.keys()
        if ended and self._parked:
            told = sorted(ended)[: self._parked[1]]
            self.watched.difference_update(told)
            self._answer([self._master.results[task_id] for task_id in told], [])

    def _answer(self, results: list[Result], unknown: list[bytes]) -> None:
        if self._parked:
            number, _ = self._parked
            self._parked = None
            self._peer.answer(number, say.Finished(results, unknown))


@asynccontextmanager
async def small_master(**options: Any) -> AsyncIterator[SmallMaster]:
    """A small master on a socket of its own."""
    master = SmallMaster(**options)
    keyring = Keyring([Key(KEY, frozenset({say.Role.SUBMIT}), "test")])
    gate = Gate(lambda: keyring, master, WireLimits(), os.urandom)
    listener = await AsyncioNetwork().listen(Address("127.0.0.1", 0), lambda: Peer(gate))
    master.address = listener.address
    try:
        yield master
    finally:
        listener.close()
        master.cut()
