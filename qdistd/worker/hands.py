"""What a worker has in its hands: tasks in its pool, and results on their way out.

    Grant ──take──> pool ──settled──> outbox
      └─ needs what we lack just now ──> aside ──> runs once we have it, or goes back
    Orders ──obey──> cancel: told to the pool
                     drain:  no new tasks, and what no child has begun goes back

A drain, by order or because the worker stops, lets go of what has not begun and keeps what runs.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from qdistd.call import encode_failure
from qdistd.model import Failure, Grant, Held, Outcome, Said, Settlement
from qdistd.pool import PoolEstate, PoolSettings
from qdistd.protocol import Orders
from qdistd.worker.outbox import Outbox

LONGEST_WAIT = 5.0
"""Seconds a task may wait here for a child: it was expected to run at once, and those before it take longer."""


class Pool(Protocol):
    """What a worker needs of `qdistd.pool.Pool`."""

    async def start(self) -> None:
        """Return when all children stand."""

    def room(self) -> int:
        """How many more tasks it wants now."""

    def give(self, grants: Sequence[Grant]) -> None:
        """Have these run."""

    def held(self) -> list[Held]:
        """Everything it was given and has not settled yet."""

    def running(self) -> int:
        """How many tasks run at this moment."""

    def idle(self) -> int:
        """How many children have nothing to do."""

    def said(self) -> list[Said]:
        """What tasks have said since the last time: those that have ended, then those that run."""

    def farewells(self) -> list[Said]:
        """What tasks that have ended said at last, where nobody was told of it: to be told before their end is."""

    def cancel(self, task_id: bytes) -> None:
        """End this task, if it is here."""

    def recall(self, patience: float = 0.0) -> list[Grant]:
        """Take back what no child has begun; with `patience`, what has waited for a child for so many seconds."""

    def resize(self, settings: PoolSettings) -> None:
        """Go on with other settings; what runs is left alone."""

    async def rehearse(self, settings: PoolSettings) -> None:
        """Return once a child of this kind has stood. Refused: none can, and why."""

    async def calm(self) -> None:
        """End the children that do not stand yet. Refused where one does not die."""

    def bequeath(self) -> PoolEstate:
        """Write down all there is, and let go of it."""

    async def close(self) -> None:
        """End all children; what they ran is settled as released."""


class MakePool(Protocol):
    """`qdistd.pool.Pool` with all but these arguments filled in."""

    def __call__(
        self, settings: PoolSettings, *, done: Callable[[Settlement], None], room: Callable[[], None]
    ) -> Pool: ...


class Aside(NamedTuple):
    """A task that needs what we lack just now, and since when it waits for that."""

    grant: Grant
    since: float


class Hands:
    """`ring` is called when there may be something to say to a master. `lacks`: whether a task needs what we lack."""

    def __init__(
        self,
        make_pool: MakePool,
        settings: PoolSettings,
        outbox: Outbox,
        ring: Callable[[], None],
        lacks: Callable[[Grant], bool],
    ) -> None:
        self.pool = make_pool(settings, done=self._settled, room=ring)
        self.outbox = outbox
        self.stopping = False
        self.drained = False
        """By order of the master, until it says otherwise."""
        self.disowned: set[tuple[bytes, int]] = set()
        """(id, attempt) in the pool whose end nobody shall hear of."""
        self._ring = ring
        self._lacks = lacks
        self._aside: list[Aside] = []
        self._tidy_at = 0.0
        self._loop = asyncio.get_running_loop()

    @property
    def open(self) -> bool:
        """Whether new tasks are welcome."""
        return not (self.stopping or self.drained)

    def wanted(self) -> int:
        """How many new tasks are welcome now."""
        return max(0, self.pool.room() - len(self._aside)) if self.open else 0

    def queued(self) -> int:
        """How many tasks are here that do not run."""
        return len(self.pool.held()) + len(self._aside) - self.pool.running()

    def held(self) -> list[Held]:
        """Everything whose end some master still waits for."""
        aside = (Held(grant.id, grant.attempt) for grant, _ in self._aside)
        return [*self.pool.held(), *aside, *self.outbox.held()]

    def take(self, grants: Sequence[Grant], *, crossed: bool = False) -> None:
        """Run these; or hand them back at once, where they came too late.

        One that needs what we lack waits for it here for a moment: it does not ask for a worker that has it. But one
        that has `crossed` the word of what we lack goes back at once: elsewhere it may run.
        """
        if self.open:
            self._sort(grants, 0.0 if crossed else self._loop.time())
        else:
            self._release(grants)

    def sort_anew(self) -> None:
        """What we lack has changed. What needs it and has not begun goes back, what has waited for it runs."""
        aside, self._aside = self._aside, []
        grants = [*(grant for grant, _ in aside), *self.pool.recall()]
        self._sort(grants, 0.0) if self.open else self._release(grants)

    def tidy(self, now: float) -> None:
        """Hand back what has waited for a child for long, or for what we lack: another worker may be free."""
        if now >= self._tidy_at:
            self._tidy_at = now + LONGEST_WAIT
            late = [grant for grant, since in self._aside if since <= now - LONGEST_WAIT]
            self._aside = [aside for aside in self._aside if aside.since > now - LONGEST_WAIT]
            self._release([*late, *self.pool.recall(LONGEST_WAIT)])

    def stop(self) -> None:
        """No new tasks from now on."""
        self.stopping = True
        self.let_go()

    def let_go(self) -> None:
        """Hand back what no child has begun."""
        self._release(self.pool.recall())
        self.let_go_of_aside()

    def let_go_of_aside(self) -> None:
        """Hand back what needs what we lack."""
        aside, self._aside = self._aside, []
        self._release([grant for grant, _ in aside])

    def obey(self, orders: Orders) -> None:
        """Do what the master wants. `drain` is its wish as it stands: without it, work goes on."""
        for task_id in orders.cancel:
            self._cancel(task_id)
        if orders.drain and not self.drained:
            self.let_go()
        self.drained = orders.drain

    def disown(self) -> None:
        """All it has was leased by a past that is no more: end that, and tell nobody."""
        self.outbox.clear()
        self.pool.recall()
        self._aside.clear()
        self.disowned = {(held.id, held.attempt) for held in self.pool.held()}
        for task_id, _ in list(self.disowned):
            self.pool.cancel(task_id)

    def _cancel(self, task_id: bytes) -> None:
        aside = [grant for grant, _ in self._aside if grant.id == task_id]
        self._aside = [each for each in self._aside if each.grant.id != task_id]
        self._release(aside)
        self.pool.cancel(task_id)

    def _sort(self, grants: Sequence[Grant], since: float) -> None:
        """Give these to the pool, but those that need what we lack. `since` 0: they go back with the next turn."""
        fit: list[Grant] = []
        for grant in grants:
            if self._lacks(grant):
                self._aside.append(Aside(grant, since))
            else:
                fit.append(grant)
        if len(fit) < len(grants) and not since:
            self._tidy_at = 0.0
            self._ring()
        self.pool.give(fit)

    def _release(self, grants: Sequence[Grant]) -> None:
        for grant in grants:
            self._settled(Settlement(grant.id, grant.attempt, Outcome.RELEASED, _NOT_BEGUN))

    def _settled(self, settlement: Settlement) -> None:
        key = settlement.id, settlement.attempt
        if key in self.disowned:
            self.disowned.remove(key)
            return
        self.outbox.add(settlement, self._loop.time())
        self._ring()


_NOT_BEGUN = encode_failure(Failure("stopped", "the worker handed it back before a child had begun it"))
