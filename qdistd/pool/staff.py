"""Which children there are: as many as there should be, of the kind that the settings want, none worn out.

    resize ──> one of the new kind is tried ──stands──> the others do what they have taken, and go
    worn out ──> the next one is brought up ──stands──> it is the heir: the worn one does what it has taken, and
                                                        the heir begins when that is done

Those that go take their place until they have gone, so that no more tasks run at once than there should.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from qdistd.child.frames import Ready
from qdistd.errors import ConfigError, Refused
from qdistd.model import Grant
from qdistd.pool.cgroups import Ground
from qdistd.pool.deaths import STUBBORN
from qdistd.pool.nursery import Nursery
from qdistd.pool.process import ChildProcess
from qdistd.pool.settings import PoolSettings


class Employer(Protocol):
    """Who is told what happens: the pool."""

    def joined(self, child: ChildProcess, ready: Ready) -> None:
        """This child stands, and is one of us."""

    def leaves(self, child: ChildProcess, grants: Sequence[Grant]) -> None:
        """This child is to go as soon as it has done what it has taken; these it has not."""

    def renewed(self) -> None:
        """Other settings hold from now on."""


class Staff:
    """`inherited`: whether there are children of an earlier image, so that nothing stands or falls with ours."""

    def __init__(
        self,
        settings: PoolSettings,
        employer: Employer,
        *,
        loop: asyncio.AbstractEventLoop,
        ground: Ground | None,
        log: logging.Logger,
        inherited: bool,
    ) -> None:
        self.settings = settings
        self.children: list[ChildProcess] = []
        self.started: asyncio.Future[None] = loop.create_future()
        """Whether all children stand, for the first time."""
        self.closing = False
        self._next: PoolSettings | None = None
        """Settings that are being tried."""
        self._rehearsal: asyncio.Future[Refused | None] | None = None
        """Whether the settings that are being tried are good, where that alone is the question."""
        self._calm = False
        """Whether no child is to be started, as others will go on with this."""
        self._employer = employer
        self._loop = loop
        self._log = log
        self._inherited = inherited
        self._nursery = Nursery(loop, ground, log, self._stands, self._failed)
        self._passing = asyncio.Event()
        """Set by each death of a child that stood."""

    # --- what the pool wants

    def populate(self) -> None:
        """See to it that there are as many children as there should be, and one more for each that is worn out."""
        if self.closing or self._calm:
            return
        if self._next is not None:
            self._nursery.want(self._next, 1)
            return
        least = 0 if self.started.done() else 1  # those that we have inherited must not keep all places
        worn = sum(child.worn and not child.retired for child in self.children)
        self._nursery.want(self.settings, max(self.settings.processes + worn - len(self.children), least))

    def resize(self, settings: PoolSettings) -> None:
        """Go on with other settings, once a child of that kind stands. Where none can, that is logged."""
        self._next = settings
        self.populate()

    async def rehearse(self, settings: PoolSettings) -> None:
        """Return once a child of this kind has stood, and went again. Refused: none can, and why."""
        self._next, self._rehearsal = settings, self._loop.create_future()
        self.populate()
        if problem := await self._rehearsal:
            raise problem

    async def calm(self) -> None:
        """End the children that do not stand yet. Refused where one does not die."""
        self._calm = True
        try:
            async with asyncio.timeout(STUBBORN):
                await self._nursery.close()
        except TimeoutError:
            self._calm = False
            self.populate()
            raise Refused("a child that was about to start does not die: the kernel does not let go of it") from None

    async def gone(self) -> None:
        """Return when there is no child any more, not even one that did not stand. They must have been told to go."""
        await self._nursery.close()
        while self.children:
            self._passing.clear()
            await self._passing.wait()

    # --- what happens to a child

    def inherit(self, child: ChildProcess) -> None:
        """A child of an earlier image does what it has taken, and goes."""
        self.children.append(child)
        self._retire(child)

    def worked(self, child: ChildProcess, now: float) -> None:
        """A child has ended a task, or several."""
        self._nursery.praise()
        if child.heir and not child.count:
            child.heir.open, child.heir = True, None
        elif not child.worn and child.open and child.wear.out(now):
            child.worn = True
            self.populate()

    def buried(self, child: ChildProcess, *, in_vain: bool) -> None:
        """A child is dead; `in_vain`: for no reason that anybody knows."""
        if child.heir:
            child.heir.open = True
        if in_vain and not child.proven:
            self._nursery.stumble(self.settings, "a child died before it had run anything")
        self._passing.set()
        self.populate()

    # --- what becomes of those who are brought up

    def _stands(self, child: ChildProcess, settings: PoolSettings, ready: Ready) -> None:
        worn = next((other for other in self.children if other.worn and not other.retired), None)
        self.children.append(child)
        if settings is self._next and self._rehearsal:
            self._retire(child)
            self._conclude(None)
        elif settings is self._next:
            self._adopt(settings, child)
        elif worn and len(self.children) > self.settings.processes:
            self._relieve(worn, child)
        if not self.started.done() and self._complete():
            self.started.set_result(None)
        self._employer.joined(child, ready)
        self.populate()

    def _relieve(self, worn: ChildProcess, heir: ChildProcess) -> None:
        self._retire(worn)
        if worn.count:
            heir.open, worn.heir = False, heir

    def _failed(self, settings: PoolSettings, reason: str) -> None:
        problem = ConfigError(f"[worker] tasks = {', '.join(settings.modules)}: {reason}")
        if not self.started.done() and not self._inherited:
            self.started.set_exception(problem)
        elif settings is self._next and self._rehearsal:
            self._conclude(problem)
            self.populate()
        elif settings is self._next:
            self._log.error("the old settings of the pool stay, as the new ones are of no use: %s", reason)
            self._next = None
            self.populate()
        else:
            self._log.error("%s; another will be tried", reason)
            if not self.started.done():
                self.started.set_result(None)

    def _complete(self) -> bool:
        """Whether there are as many children as there should be. One that has to end something takes a place."""
        fresh = sum(child.open for child in self.children)
        busy = sum(not child.open and child.count > 0 for child in self.children)
        return fresh > 0 and fresh + busy >= self.settings.processes

    def _retire(self, child: ChildProcess) -> None:
        self._employer.leaves(child, child.retire(self._loop.time()))

    def _conclude(self, error: Refused | None) -> None:
        """The rehearsal is over."""
        rehearsal, self._rehearsal, self._next = self._rehearsal, None, None
        if rehearsal and not rehearsal.done():
            rehearsal.set_result(error)

    def _adopt(self, settings: PoolSettings, first: ChildProcess) -> None:
        """The settings have proven good: the children of the old ones do what they have taken, and go."""
        self.settings, self._next = settings, None
        self._employer.renewed()
        for child in self.children:
            if child is not first:
                child.heir = None
                self._retire(child)
