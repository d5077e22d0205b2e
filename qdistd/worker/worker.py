"""The worker: one loop that asks for tasks, feeds the pool, reports, and obeys.

    master <── Conversation ──> Hands ──> Pool ──> children
      ^  connection after connection │
      └── Connector                  └──> Outbox ──> Spool
      labels <── Shares

Whatever happens rings a bell; the loop wakes, takes one turn and sleeps again. Nothing in it waits for the network,
for a task or for a user's code, and no fault of the network ends it. A connection that breaks takes nothing with it:
the tasks run on, their results wait, and the next hello names them all.
"""

import asyncio
import logging
import random
from collections.abc import Callable

from qdistd.address import Address
from qdistd.model import IdMaker
from qdistd.protocol import Relabel
from qdistd.wire.network import Network
from qdistd.worker.connector import Connector
from qdistd.worker.estate import WorkerEstate
from qdistd.worker.hands import Hands, MakePool
from qdistd.worker.identity import Identity
from qdistd.worker.master_source import MasterSource
from qdistd.worker.outbox import Outbox
from qdistd.worker.queue_source import PlainOutbox, QueueSource
from qdistd.worker.settings import Settings
from qdistd.worker.shares import Shares
from qdistd.worker.source import Conversation, Source
from qdistd.worker.spool import Spool

LONGEST_NAP = 60.0
"""Seconds between two turns of the loop at most, even when nothing is due."""

LAST_REPORTS = 5.0
"""Seconds for the last results to reach a master that is there; what has not stays in the spool."""


STALL = 3.0
"""Seconds that a step may be late before it counts as no progress: so long may a busy machine keep us from it."""


class Worker:
    """One worker instance. `start`, then `work` until `stop`.

    `pool` makes the pool of child processes: `qdistd.pool.Pool` with everything filled in but settings, done, room.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        network: Network,
        pool: MakePool,
        spool: Spool,
        wall: Callable[[], float],
        rng: random.Random,
        log: logging.Logger,
        estate: WorkerEstate | None = None,
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._bell = asyncio.Event()
        self._deadline = float("inf")
        """Loop time at which the present stage of the end is over."""
        self._turn_due = float("inf")
        """Loop time by which the loop takes its next turn; infinite while it waits for something else."""
        self._courier: asyncio.Future[None] | None = None
        self._conversation: Conversation | None = None
        inherited = (estate.token, estate.epoch) if estate else ()
        self._identity = Identity(rng.randbytes, *inherited)
        self._outbox = (PlainOutbox if settings.plain_task else Outbox)(spool, self._identity, log)
        self._shares = Shares(wall, log, self._shares_changed, estate.shares if estate else ())
        self._hands = Hands(pool, settings.pool, self._outbox, self._ring, self._shares.lacks)
        self._source = self._make_source(network, IdMaker(wall, rng.randbytes), rng)
        self._connector = Connector(lambda: self._settings.masters, self._greet, rng, log)
        self._introduced = settings.introduction
        """What the last master was told of us, or would have been."""
        self._working: asyncio.Future[None] | None = None
        self._heir = estate is not None
        if estate:
            self._inherit(estate)

    def _inherit(self, estate: WorkerEstate) -> None:
        self._hands.drained = estate.drained
        for settlement in estate.unsent:
            self._outbox.add(settlement, self._loop.time())

    def _make_source(self, network: Network, new_id: IdMaker, rng: random.Random) -> Source:
        def settings() -> Settings:
            return self._settings

        hands, ring = self._hands, self._ring
        if self._settings.plain_task:
            spool, log = self._spool, self._log
            return QueueSource(settings, network=network, hands=hands, spool=spool, new_id=new_id, ring=ring, log=log)
        return MasterSource(
            settings,
            self._identity,
            network=network,
            hands=hands,
            labels=self._labels,
            randbytes=rng.randbytes,
            ring=ring,
            log=self._log,
        )

    def _labels(self) -> Relabel:
        """What we have, and what is wrong, as a master is to know it."""
        return Relabel((*self._settings.labels, *self._shares.labels()), self._shares.troubles())

    async def start(self) -> None:
        """Return when the children stand. No master is needed for that.

        But one that knows of inherited tasks must hear from us before: new children may take longer than a lease.
        """
        self._shares.resize(self._settings.shares)
        if self._heir:
            self._hands.sort_anew()
            self._working = asyncio.ensure_future(self._work())
        await self._hands.pool.start()
        self._source.recover()

    async def work(self) -> None:
        """Work until `stop`; return when everything is settled, or safe in the spool."""
        await (self._working or self._work())

    async def _work(self) -> None:
        courier = self._courier = asyncio.ensure_future(self._keep_connected())
        courier.add_done_callback(lambda _: self._ring())
        try:
            await self._turns(courier, lambda: self._hands.stopping)
            self._hands.stop()
            await self._turns(courier, lambda: not self._hands.pool.held())
            await self._hands.pool.close()
            self._deadline = self._loop.time() + LAST_REPORTS
            await self._turns(courier, self._delivered)
            self._courier = None
            courier.cancel()
            await self._part()
        finally:
            courier.cancel()
            if self._conversation is not None:
                self._conversation.drop()
            self._shares.close()
            self._spool.close()

    def stop(self, drain_seconds: float) -> None:
        """Begin to end: running tasks have so many seconds, the rest goes back. A second call hurries."""
        now = self._loop.time()
        self._deadline = now if self._hands.stopping else now + drain_seconds
        self._hands.stopping = True
        self._ring()

    def reload(self, settings: Settings) -> None:
        """Go on with other settings, and with the tasks' code as it is now. What runs is left alone.

        Where a master must hear of it, we connect anew.
        """
        self._settings = settings
        self._hands.pool.resize(settings.pool)
        self._shares.resize(settings.shares)
        self._hands.sort_anew()
        self._introduce_anew()
        self._ring()

    async def rehearse(self, settings: Settings) -> None:
        """Return where these settings could be gone on with; nothing changes. Refused: they could not, and why."""
        await self._hands.pool.rehearse(settings.pool)

    async def bequeath(self) -> WorkerEstate:
        """Leave everything to the next image of this program, see `qdistd.succession`. This one only has to end.

        To the master that is a fault of the network. Refused, with all as it was, where that cannot be.
        """
        await self._hands.pool.calm()
        if conversation := self._conversation:
            conversation.abort("the worker goes on as a fresh image of its program")
            conversation.over()
        self._hands.let_go_of_aside()
        pool = self._hands.pool.bequeath()
        unsent = self._outbox.bequeath(self._loop.time())
        self._spool.close()
        identity = self._identity
        return WorkerEstate(identity.token, pool, unsent, self._hands.drained, identity.epoch, self._shares.bequeath())

    def status(self) -> str:
        """One line for `systemctl status`."""
        running, queued = self._hands.pool.running(), self._hands.queued()
        troubles = "".join(f"; {trouble}" for trouble in self._shares.troubles())
        left = max(0.0, self._deadline - self._loop.time())
        drain = "" if self._hands.open else "draining: " if left == float("inf") else f"draining, {left:.0f} s left: "
        tasks = f"{running} running, {queued} queued"
        return f"{drain}{tasks}, {self._connector.status()}, {len(self._outbox)} unsent{troubles}"

    def hang(self) -> str:
        """What makes no progress, in a few words; empty: all is well. That no master answers is no hang of ours."""
        late = self._loop.time() - STALL
        if self._turn_due < late:
            return "the loop takes no turn"
        if self._courier is not None and (self._courier.done() or self._connector.due < late):
            return "nobody looks for a master"
        if self._conversation is not None and self._conversation.due() < late:
            return "the master does not answer, and the connection does not end"
        return ""

    def _shares_changed(self) -> None:
        self._hands.sort_anew()
        self._ring()

    def _ring(self) -> None:
        self._turn_due = min(self._turn_due, self._loop.time())
        self._bell.set()

    async def _turns(self, courier: "asyncio.Future[None]", over: Callable[[], bool]) -> None:
        """Take turns until `over`, or until the deadline."""
        due = self._turn()
        while not over() and self._loop.time() < self._deadline:
            if courier.done():
                courier.result()  # it never returns: this raises what ended it
            await self._bell_or(due)
            due = self._turn()
        self._turn_due = float("inf")

    def _turn(self) -> float:
        """Do all there is to do, without waiting; the loop time by which there will be more, bell or not."""
        now = self._loop.time()
        conversation = self._conversation
        if conversation is None or self._outbox.due() <= now:
            self._outbox.keep(now)
        due = min(self._outbox.due(), self._deadline, now + LONGEST_NAP)
        return due if conversation is None else min(due, conversation.turn(now))

    async def _bell_or(self, due: float) -> None:
        alarm = self._loop.call_at(due, self._bell.set)
        self._turn_due = self._loop.time() if self._bell.is_set() else due
        await self._bell.wait()
        alarm.cancel()
        self._bell.clear()

    async def _keep_connected(self) -> None:
        """One conversation after the other, for ever."""
        while True:
            conversation = self._conversation = await self._connector.connect()
            self._introduce_anew()  # the settings may have changed while we were about to connect
            self._ring()
            await asyncio.wait([conversation.closed])
            self._conversation = None
            conversation.over()
            self._connector.lost(conversation.closed.result())
            self._ring()

    async def _greet(self, address: Address) -> Conversation:
        introduction = self._settings.introduction
        conversation = await self._source.greet(address)
        self._introduced = introduction
        return conversation

    def _introduce_anew(self) -> None:
        """Connect anew where what we said of us, or whom we said it to, is not what the settings say now."""
        if self._introduced == self._settings.introduction:
            return
        self._connector.hurry()
        if self._conversation is not None:
            self._conversation.abort("connecting anew with other settings")

    def _delivered(self) -> bool:
        return not self._outbox or self._conversation is None

    async def _part(self) -> None:
        """What no master has goes to the disk; then leave the one that is there."""
        self._outbox.keep(self._loop.time())
        if self._conversation is not None:
            await self._conversation.farewell(clean=not self._outbox)
            self._conversation = None
