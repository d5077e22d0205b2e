"""Protocol "queue": a plain BaseManager server with `get_task_queue` and `get_result_queue`.

    server ──get(1 s)──> value ──> spool `taken` ──> pool ──> result ──> outbox ──put──> server
                                        └──────────── dropped once the result was put ──────┘

Such a server forgets a task the moment it hands it out, so this worker remembers it: what an earlier run had taken
and not finished runs again. It knows no failure either: a task that fails puts nothing, and the log says so. What no
care on this side can save is a task that the server sends into a connection that breaks at that moment; short polls,
and waiting for the last of them before leaving, keep that rare. A result may be put twice for the same reason.
"""

import asyncio
import logging
import queue
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any

from qdistd.address import Address
from qdistd.call import decode_failure, decode_value, encode_call
from qdistd.errors import Malformed, QdistError
from qdistd.model import Grant, IdMaker, Outcome, Settlement, id_text
from qdistd.wire.network import Network
from qdistd.wire.stock import StockQueues
from qdistd.worker.hands import Hands
from qdistd.worker.identity import Identity
from qdistd.worker.outbox import Outbox
from qdistd.worker.settings import Settings
from qdistd.worker.spool import Spool

GREETING = 5.0
"""Seconds a server may take to open its connections."""

POLL = 1.0
"""Seconds one `get` waits at the server: how long it may still hand a task to a worker that is gone."""

LAST_POLL = POLL + 1.0
"""Seconds to wait for what is under way before leaving."""


class PlainOutbox(Outbox):
    """An outbox for results alone: a plain server has no word for any other end of a task."""

    def __init__(self, spool: Spool, identity: Identity, log: logging.Logger) -> None:
        super().__init__(spool, identity, log)
        taken = {grant.id for grant in spool.taken()}
        # what a qdist master still waits for must not go to a plain server: it stays in the spool
        self._waiting = {key: item for key, item in self._waiting.items() if item.id in taken}

    def add(self, settlement: Settlement, now: float) -> None:
        """Take a result in. A task that was handed back stays in the spool, one that failed is over."""
        if settlement.outcome is Outcome.SUCCEEDED:
            super().add(settlement, now)
        elif settlement.outcome is not Outcome.RELEASED:
            self._spool.drop([settlement.id])
            name = id_text(settlement.id)
            self._log.error(
                "task %s %s: no result is put", name, _reason(settlement), extra={"qdist": {"TASK_ID": name}}
            )

    def settle(self, batch: Iterable[Settlement], stale: Collection[bytes] = ()) -> None:
        """The server has these."""
        settled = list(batch)
        super().settle(settled, stale)
        self._spool.drop(settlement.id for settlement in settled)


class QueueSource:
    """Makes the conversations with plain servers."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        *,
        network: Network,
        hands: Hands,
        spool: Spool,
        new_id: IdMaker,
        ring: Callable[[], None],
        log: logging.Logger,
    ) -> None:
        self._settings = settings
        self._network = network
        self._hands = hands
        self._spool = spool
        self._new_id = new_id
        self._ring = ring
        self._log = log

    def recover(self) -> None:
        """See `Source.recover`: run what was taken and has no result yet."""
        done = {held.id for held in self._hands.outbox.held()}
        left = [grant for grant in self._spool.taken() if grant.id not in done]
        if left:
            self._log.info("%d tasks that an earlier run of this worker had taken run again", len(left))
            self._hands.take(left)

    async def greet(self, address: Address) -> "QueueConversation":
        """See `Source.greet`."""
        key = self._settings().key.secret
        queues = await StockQueues.open(self._network, address, key, deadline=GREETING)
        return QueueConversation(queues, self._hands, self.taken, self._ring, self._log)

    def taken(self, value: object) -> None:
        """A value came from the server: remember it, then run it."""
        payload = encode_call((value,), {})
        grant = Grant(self._new_id(), 1, self._settings().plain_task, payload)
        self._spool.take(grant)
        if self._hands.open:
            self._hands.take([grant])


class QueueConversation:
    """See `Conversation`. One `get` and one `put` are under way at a time, on a connection each."""

    def __init__(
        self,
        queues: StockQueues,
        hands: Hands,
        taken: Callable[[object], None],
        ring: Callable[[], None],
        log: logging.Logger,
    ) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._queues = queues
        self._hands = hands
        self._taken = taken
        self._ring = ring
        self._log = log
        self._broken = ""
        self._fetching: asyncio.Task[None] | None = None
        self._putting: asyncio.Task[None] | None = None

    def turn(self, now: float) -> float:  # noqa: ARG002 - nothing here is timed: no heartbeat
        """See `Conversation.turn`."""
        self._fetching = self._unless_done(self._fetching)
        self._putting = self._unless_done(self._putting)
        if self._broken:
            self._close_when_quiet()
            return float("inf")
        if self._fetching is None and self._hands.wanted() > 0:
            self._fetching = self._begin(self._fetch())
        if self._putting is None and len(self._hands.outbox) > 0:
            self._putting = self._begin(self._put())
        return float("inf")

    def due(self) -> float:
        """See `Conversation.due`. A plain server may keep a `put` waiting for as long as it likes."""
        return float("inf")

    def over(self) -> None:
        """See `Conversation.over`. It ended after all that was under way."""

    async def farewell(self, *, clean: bool) -> None:  # noqa: ARG002 - a plain server cannot tell the difference
        """Wait for the last `get`: what it brings must not be lost."""
        under_way = [task for task in (self._fetching, self._putting) if task is not None]
        if under_way:
            await asyncio.wait(under_way, timeout=LAST_POLL)
        self.drop()

    def drop(self) -> None:
        """See `Conversation.drop`."""
        for task in (self._fetching, self._putting):
            if task is not None:
                task.cancel()
        self._queues.close()

    def abort(self, reason: str) -> None:
        """See `Conversation.abort`."""
        self._broken = self._broken or reason
        self._ring()

    async def _fetch(self) -> None:
        try:
            self._taken(await self._queues.get(POLL))
        except queue.Empty:
            pass
        except Malformed as error:  # the connection is well, and the server has forgotten the task
            self._log.error("a task of the server is lost: %s", error)

    async def _put(self) -> None:
        for settlement in self._hands.outbox.batch():
            await self._queues.put_result(decode_value(settlement.value))
            self._hands.outbox.settle([settlement])

    def _begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            task.exception()  # for the next turn to hear; where there is none any more, nobody needs to
        self._ring()

    def _unless_done(self, task: "asyncio.Task[None] | None") -> "asyncio.Task[None] | None":
        """The task while it is under way; once it is over, why, where the reason is that the server is gone."""
        if task is None or not task.done():
            return task
        try:
            task.result()
        except QdistError as error:
            self._broken = self._broken or str(error)
        return None

    def _close_when_quiet(self) -> None:
        """The connections end together, and not before what is under way: it may yet bring a task."""
        if self._fetching is None and self._putting is None and not self.closed.done():
            self._queues.close()
            self.closed.set_result(self._broken)


def _reason(settlement: Settlement) -> str:
    failure = decode_failure(settlement.value)
    return f"{settlement.outcome.word} ({failure.kind}: {failure.message})"
