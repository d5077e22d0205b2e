"""Protocol "qdist": what a worker and a master say to each other on one link.

    worker                               master
      ── hello: token, held, labels ───────>
      <── welcome: lease, heartbeat ────────
      ── labels: where they have changed ──>
      ── report: ended tasks ──┐ together   >   one transaction at best: settle, then grant
      ── lease: room in pool ──┘            >
      <── reported: stale, orders ──────────
      <── granted: tasks, orders ───────────      (a lease is parked until there is work)

One report is under way at a time and takes along all that has gathered meanwhile; an empty one is the heartbeat. One
lease is always parked, for nothing but orders (`count` 0) while the pool is full.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from qdistd.address import Address
from qdistd.errors import QdistError, Unavailable
from qdistd.model import Said, Settlement
from qdistd.neighbours import LIFE, settlements_for
from qdistd.protocol import LARGEST_BATCH, LONGEST_POLL, Bye, Granted, Hello, Lease, Relabel, Report, Reported, Welcome
from qdistd.wire.caller import ANSWER_DEADLINE
from qdistd.wire.link import Link
from qdistd.wire.network import Network
from qdistd.worker.hands import Hands
from qdistd.worker.identity import Identity
from qdistd.worker.outbox import fitting
from qdistd.worker.settings import Settings

GREETING = 5.0
"""Seconds a master may take to open a connection, and as many to answer `Hello`."""

BETWEEN_WORDS = 1.0
"""Seconds between two reports that say what running tasks print: as live as a person needs it."""

MOST_TALKERS = 100
LIVE_OUTPUT = 16 * 1024
"""Tasks, and bytes of each, that one report speaks of: far under a frame, whatever results it has."""

LIVE_PARTIALS = 4 * 1024 * 1024
"""Bytes of partial results in one report, for the same reason."""

GOODBYE = 2.0
"""Seconds it may take to answer `Bye`, and as many for the connection to end."""


class MasterSource:
    """Makes the conversations with qdist masters."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        identity: Identity,
        *,
        network: Network,
        hands: Hands,
        labels: Callable[[], Relabel],
        randbytes: Callable[[int], bytes],
        ring: Callable[[], None],
        log: logging.Logger,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._log = log
        self._network = network
        self._hands = hands
        self._labels = labels
        self._randbytes = randbytes
        self._ring = ring

    def recover(self) -> None:
        """See `Source.recover`. The outbox has it all."""

    async def greet(self, address: Address) -> "MasterConversation":
        """See `Source.greet`."""
        if self._hands.disowned:
            raise Unavailable(f"{address}: tasks of before its store was restored are still ending here")
        settings = self._settings()
        link = await Link.open(
            self._network, address, settings.key.secret, deadline=GREETING, randbytes=self._randbytes
        )
        labels = self._labels()
        try:
            welcome = await link.call(self._hello(settings, labels), GREETING)
            self._compare(address, welcome.epoch)
        except BaseException:
            link.abort("the greeting failed")
            raise
        telling = Telling(labels, self._labels, heard=welcome.version >= LIFE)
        return MasterConversation(link, welcome, settings, self._hands, telling, self._ring)

    def _compare(self, address: Address, epoch: bytes) -> None:
        """Unavailable where the store of this master is of another time line than what we have in our hands."""
        identity = self._identity
        if not identity.knows(epoch):
            text = (
                "the store of the master %s was restored from a backup, or is another: %d tasks and %d results are void"
            )
            self._log.warning(text, address, len(self._hands.pool.held()), len(self._hands.outbox))
            identity.renew()
            self._hands.disown()
            raise Unavailable(f"{address}: its store is of another time line; connecting anew")
        identity.epoch = epoch

    def _hello(self, settings: Settings, labels: Relabel) -> Hello:
        return Hello(
            kind="worker",
            name=settings.name,
            host=settings.host,
            pid=settings.pid,
            token=self._identity.token,
            epoch=self._identity.epoch,
            queues=list(settings.queues),
            processes=settings.pool.processes,
            held=self._hands.held(),
            life=settings.life,
            labels=labels.labels,
            troubles=labels.troubles,
        )


class Telling:
    """What a master knows of our labels. `told` with the hello; `labels`: what they are now.

    `heard`: whether it knows what labels are. One of the version before does not.
    """

    def __init__(self, told: Relabel, labels: Callable[[], Relabel], *, heard: bool) -> None:
        self._told = told
        self._labels = labels
        self._heard = heard
        self.under_way = False
        """Whether it has not yet confirmed what it was told last."""

    def news(self) -> Relabel | None:
        """What it is to be told now."""
        labels = self._labels()
        if not self._heard or self.under_way or labels == self._told:
            return None
        self._told = labels
        self.under_way = True
        return labels


class MasterConversation:
    """See `Conversation`."""

    def __init__(
        self,
        link: Link,
        welcome: Welcome,
        settings: Settings,
        hands: Hands,
        telling: Telling,
        ring: Callable[[], None],
    ) -> None:
        self.closed = link.closed
        self._link = link
        self._welcome = welcome
        self._queues = list(settings.queues)
        self._fair = settings.fair
        self._hands = hands
        self._telling = telling
        self._ring = ring
        self._calls: dict[asyncio.Future[Any], Callable[[Any], None]] = {}
        """What was asked, and who hears the answer."""
        self._reporting = False
        self._reported_at = asyncio.get_running_loop().time()
        self._looked_at = self._reported_at
        """When running tasks were last asked for what they have said."""
        self._parked: Lease | None = None

    def turn(self, now: float) -> float:
        """See `Conversation.turn`."""
        self._hear()
        if labels := self._telling.news():  # before what goes back because of them
            self._ask(labels, self._labelled)
        self._hands.tidy(now)
        self._report(now)
        self._lease()
        if self._reporting:
            return float("inf")
        due = self._reported_at + self._welcome.heartbeat
        return min(due, self._looked_at + BETWEEN_WORDS) if self._hands.pool.running() else due

    def due(self) -> float:
        """See `Conversation.due`. The link itself gives a report up by then, and ends."""
        return self._reported_at + ANSWER_DEADLINE if self._reporting else float("inf")

    def over(self) -> None:
        """See `Conversation.over`."""
        self._hear()

    async def farewell(self, *, clean: bool) -> None:
        """Say bye: what is still leased is free at once. Not `clean`: the lease goes on, for our next incarnation."""
        if not clean:
            self._link.abort("the worker stops with results unsent")
            return
        with contextlib.suppress(QdistError):
            await self._link.call(Bye(), GOODBYE)
        self._link.close()
        await asyncio.wait([self.closed], timeout=GOODBYE)

    def abort(self, reason: str) -> None:
        """See `Conversation.abort`: a reset, so that the lease goes on until the next hello."""
        self._link.abort(reason)

    def drop(self) -> None:
        """See `Conversation.drop`."""
        self._link.close()

    def _hear(self) -> None:
        for answer in [answer for answer in self._calls if answer.done()]:
            heard = self._calls.pop(answer)
            error = answer.exception()
            if error is None:
                heard(answer.result())
            elif isinstance(error, QdistError):
                self._link.abort(f"the master refused: {error}")
            else:
                raise error

    def _report(self, now: float) -> None:
        if self._reporting:
            return
        batch = self._hands.outbox.batch()
        said = self._news(now, ending=bool(batch))
        if not batch and not said and now < self._reported_at + self._welcome.heartbeat:
            return
        self._reporting = True
        self._reported_at = now
        limit = self._welcome.result
        settled = settlements_for(self._welcome.version, [fitting(item, limit) for item in batch])
        report = Report(settled, said)
        self._ask(report, partial(self._reported, batch))

    def _news(self, now: float, *, ending: bool) -> list[Said]:
        """What tasks have said; between times that of those whose end goes with it. More than fits is not told."""
        if now >= self._looked_at + BETWEEN_WORDS:
            self._looked_at = now
            return _fitting(self._hands.pool.said())
        return _fitting(self._hands.pool.farewells()) if ending else []

    def _reported(self, batch: list[Settlement], reported: Reported) -> None:
        self._reporting = False
        self._hands.outbox.settle(batch, reported.stale)
        self._hands.obey(reported.orders)

    def _labelled(self, reported: Reported) -> None:
        self._telling.under_way = False
        self._hands.obey(reported.orders)

    def _lease(self) -> None:
        """Ask for tasks unless that has been asked. A parked lease is not made larger: what it missed is asked next."""
        wanted = min(self._hands.wanted(), LARGEST_BATCH)
        idle = min(wanted, self._hands.pool.idle())
        parked = self._parked
        if parked is None or (parked.count > 0) != (wanted > 0) or (idle > 0 and not parked.idle):
            self._parked = Lease(self._queues, wanted, LONGEST_POLL, idle, self._fair)
            self._ask(self._parked, partial(self._granted, self._parked))

    def _granted(self, lease: Lease, granted: Granted) -> None:
        if lease is self._parked:
            self._parked = None
        self._hands.obey(granted.orders)
        if granted.grants:
            self._hands.take(granted.grants, crossed=self._telling.under_way)

    def _ask(self, question: msgspec.Struct, heard: Callable[[Any], None]) -> None:
        answer = self._link.call(question)
        self._calls[answer] = heard
        answer.add_done_callback(self._answered)

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        answer.exception()  # for the next turn to hear; where there is none any more, nobody needs to
        self._ring()


def _fitting(news: list[Said]) -> list[Said]:
    """As much of it as one report takes."""
    left, fitting = LIVE_PARTIALS, []
    for said in news[:MOST_TALKERS]:
        left -= sum(map(len, said.partials))
        partials = said.partials if left >= 0 else ()
        fitting.append(Said(said.id, said.attempt, said.output[-LIVE_OUTPUT:], said.progress, partials))
    return fitting
