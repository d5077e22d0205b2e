"""The pool: gives tasks to children, and loses none when a child dies.

    give ──> waiting ──serve──> child, child, child …  ──results──> done
               ^                  │
               └── taken back: behind a long task, from a dead child

Whatever happens (a result, a death, a timer, a call) ends in `_after`, which serves, reports and speaks of room. A
task that is taken back goes to the front again, as it is older than those that wait.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from qdistd.call import encode_failure
from qdistd.child.frames import Ready
from qdistd.errors import ConfigError
from qdistd.model import Grant, Held, Outcome, Said, Settlement
from qdistd.pool.cgroups import Ground
from qdistd.pool.chronicle import Chronicle
from qdistd.pool.dealing import Waiting, deal, line_up
from qdistd.pool.deaths import STUBBORN, Ended, Verdict, cancelled, stopped
from qdistd.pool.ear import MOST_FAREWELLS
from qdistd.pool.fate import NEVER
from qdistd.pool.handover import PoolEstate
from qdistd.pool.pace import LONG, Pace
from qdistd.pool.process import ChildProcess
from qdistd.pool.settings import PoolSettings
from qdistd.pool.staff import Staff
from qdistd.pool.vigil import Vigil

CROWD = 16
BREATH = 0.001
"""A child with so many tasks before it is read once in so many seconds: results come in handfuls and cost less."""

SHORTEST_NAP = 0.001
"""Seconds between two looks at the children."""


class Pool:
    """`processes` children that run tasks.

    `done` is told how each task ended, exactly once for each that was given and not recalled. `room` is called when
    `room()` has grown by enough to ask for more. Both are called from the event loop, and may call back. `ground`:
    where every child gets a cgroup of its own. `estate`: what the pool of an earlier image of this program has left;
    its children do what they have taken, and go.
    """

    def __init__(
        self,
        settings: PoolSettings,
        *,
        wall: Callable[[], float],
        done: Callable[[Settlement], None],
        room: Callable[[], None],
        log: logging.Logger,
        ground: Ground | None = None,
        estate: PoolEstate | None = None,
    ) -> None:
        self._wall = wall
        self._done = done
        self._room = room
        self._log = log
        self._chronicle = Chronicle(log)
        self._ground = ground
        self._loop = asyncio.get_running_loop()
        self._pace = Pace()
        self._staff = Staff(settings, self, loop=self._loop, ground=ground, log=log, inherited=estate is not None)
        self._children = self._staff.children
        self._waiting: deque[Waiting] = deque()
        self._settled: list[Settlement] = []
        self._farewells: deque[Said] = deque(maxlen=MOST_FAREWELLS)
        self._told = 0
        """The room that was last spoken of."""
        self._timer: asyncio.TimerHandle | None = None
        self._vigil = Vigil(self._loop, lambda: self._children)
        if estate:
            self._inherit(estate)

    # --- what a worker does with it

    async def start(self) -> None:
        """Return when all children stand. ConfigError where one cannot: then nothing is left running.

        With an estate that is logged: what was inherited runs on, and others are tried.
        """
        if self._ground:
            self._ground.sweep(self._loop, [child.cell.folder for child in self._children if child.cell])
        self._staff.populate()
        try:
            await self._staff.started
        except ConfigError:
            await self.close()
            raise

    def room(self) -> int:
        """How many more tasks it wants now."""
        if self._staff.closing:
            return 0
        quota = self._pace.quota()
        return max(0, sum(child.room(quota) for child in self._children) - len(self._waiting))

    def give(self, grants: Sequence[Grant]) -> None:
        """Have these run. More than `room()` are taken too, and wait."""
        if self._staff.closing:
            self._release(grants)
        else:
            now = self._loop.time()
            line_up(self._waiting, [Waiting(grant, now) for grant in grants])
        self._after()

    def held(self) -> list[Held]:
        """Everything it was given that is neither settled nor recalled."""
        given = [grant for child in self._children for grant in child.grants()]
        waiting = [waiting.grant for waiting in self._waiting]
        return [Held(grant.id, grant.attempt) for grant in (*given, *waiting)]

    def running(self) -> int:
        """How many tasks run at this moment."""
        return sum(1 for child in self._children if child.count)

    def idle(self) -> int:
        """How many children stand and have nothing to do, now and when those that wait have been given out."""
        return max(0, sum(child.open and not child.count for child in self._children) - len(self._waiting))

    def said(self) -> list[Said]:
        """What tasks have said since the last time: those that have ended, then those that run."""
        return [*self.farewells(), *(said for child in self._children if (said := child.said()))]

    def farewells(self) -> list[Said]:
        """What tasks that have ended said at last, where nobody was told of it: to be told before their end is."""
        said = list(self._farewells)
        self._farewells.clear()
        return said

    def cancel(self, task_id: bytes) -> None:
        """End this task, if it is here: at once where no child has begun it, else with the child that runs it."""
        now = self._loop.time()
        for child in [child for child in self._children if child.has(task_id)]:
            self._collect(child)
            self._put_back(child.recall())
            child.cancel(task_id, now)
            self._arm(child.due())
        for grant in [waiting.grant for waiting in self._waiting if waiting.grant.id == task_id]:
            self._settle(grant, cancelled(grant.name))
        self._waiting = deque(waiting for waiting in self._waiting if waiting.grant.id != task_id)
        self._after()

    def recall(self, patience: float = 0.0) -> list[Grant]:
        """Take back what no child has begun; with `patience`, what has waited for a child for so many seconds."""
        if not patience:
            for child in self._children:
                self._put_back(child.recall())
        latest = self._loop.time() - patience
        grants = [waiting.grant for waiting in self._waiting if waiting.since <= latest]
        self._waiting = deque(waiting for waiting in self._waiting if waiting.since > latest)
        self._after()
        return grants

    def resize(self, settings: PoolSettings) -> None:
        """Go on with other settings, and with the tasks' code as it is now; what runs is left alone.

        A child of the new kind is tried first. Where none can start, that is logged and all stays as it is.
        """
        self._staff.resize(settings)

    async def rehearse(self, settings: PoolSettings) -> None:
        """Return once a child of this kind has stood, and went again. Refused: none can, and why."""
        await self._staff.rehearse(settings)

    async def calm(self) -> None:
        """End the children that do not stand yet: who inherits starts its own. Refused where one does not die."""
        await self._staff.calm()

    def bequeath(self) -> PoolEstate:
        """Write down all there is, and let go of it: nothing happens here any more. `calm` comes before."""
        self._vigil.end()
        said = self.said()
        if self._timer:
            self._timer.cancel()
        for child in self._children:
            self._loop.remove_reader(child.results)
            self._loop.remove_reader(child.exited)
        children = [child.bequeath() for child in self._children]
        self._children.clear()
        return PoolEstate(children, [(*waiting,) for waiting in self._waiting], said)

    async def close(self) -> None:
        """End all children: SIGTERM, then SIGKILL after their grace. What they ran is settled as released."""
        self._staff.closing = True
        self._release(self.recall())
        now = self._loop.time()
        for child in self._children:
            child.stop(now)
            self._arm(child.due())
        self._after()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max((child.fate.grace for child in self._children), default=0) + STUBBORN):
                await self._staff.gone()
        for child in self._children:
            self._log.error("child %d does not die: the kernel does not let go of it", child.pid)
        self._vigil.end()
        if self._timer:
            self._timer.cancel()

    def _inherit(self, estate: PoolEstate) -> None:
        self._waiting.extend(Waiting(*waiting) for waiting in estate.waiting)
        self._farewells.extend(estate.farewells)
        for left in estate.children:
            child = ChildProcess.inherited(left, self._ground, self._loop, self._log)
            self._watch(child)
            self._staff.inherit(child)

    # --- what happens to the staff

    def joined(self, child: ChildProcess, ready: Ready) -> None:
        """See `Employer`."""
        self._chronicle.stands(ready)
        self._watch(child)
        self._after()

    def leaves(self, child: ChildProcess, grants: Sequence[Grant]) -> None:
        """See `Employer`."""
        self._put_back(grants)
        self._arm(child.due())

    def renewed(self) -> None:
        """See `Employer`."""
        self._pace = Pace()

    def _watch(self, child: ChildProcess) -> None:
        if not child.ended:
            self._loop.add_reader(child.results, self._readable, child)
        self._loop.add_reader(child.exited, self._died, child)

    # --- what happens

    def _readable(self, child: ChildProcess) -> None:
        self._collect(child)
        if child.ended:
            self._loop.remove_reader(child.results)
        elif child.count >= CROWD:
            self._loop.remove_reader(child.results)
            self._loop.call_later(BREATH, self._listen, child)
        self._after()

    def _listen(self, child: ChildProcess) -> None:
        if child in self._children and not child.ended:
            self._loop.add_reader(child.results, self._readable, child)

    def _died(self, child: ChildProcess) -> None:
        self._loop.remove_reader(child.results)
        self._loop.remove_reader(child.exited)
        self._children.remove(child)
        expected = not child.open
        burial = child.bury(self._loop.time(), self._wall())
        self._note(child, burial.ended)
        self._put_back(burial.grants)
        self._staff.buried(child, in_vain=self._chronicle.died(child.pid, burial, expected=expected))
        self._after()

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        for child in self._children:
            if child.due() <= now:
                self._collect(child)
                self._put_back(self._look_after(child, now))
            self._arm(child.due())
        self._after()

    def _look_after(self, child: ChildProcess, now: float) -> list[Grant]:
        grants = child.look_after(now)
        begun = child.grants()
        if grants and begun:  # they were too many: the task before them takes longer than tasks of its name did
            self._pace.learn(begun[0].name, LONG)
        elif grants:
            self._log.warning("child %d does not take up its tasks: it is replaced, and they go to others", child.pid)
        return grants

    def _collect(self, child: ChildProcess) -> None:
        now = self._loop.time()
        if ended := child.read(now):
            self._note(child, ended)
            self._staff.worked(child, now)
        self._arm(child.due())

    def _note(self, child: ChildProcess, ended: Iterable[Ended]) -> None:
        self._farewells.extend(child.ear.farewells())
        for name, settlement in ended:
            self._settled.append(settlement)
            if settlement.outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
                self._pace.learn(name, settlement.wall)
            if settlement.outcome in (Outcome.FAILED, Outcome.REJECTED):
                self._chronicle.failed(name, settlement)

    def _put_back(self, grants: Sequence[Grant]) -> None:
        now = self._loop.time()
        line_up(self._waiting, [Waiting(grant, now) for grant in grants], first=True)

    def _release(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            self._settle(grant, stopped(grant.name, "the worker stops"))

    def _settle(self, grant: Grant, verdict: Verdict) -> None:
        value = encode_failure(verdict.failure)
        self._settled.append(Settlement(grant.id, grant.attempt, verdict.outcome, value))

    # --- after everything that happens

    def _after(self) -> None:
        self._serve()
        settled, self._settled = self._settled, []
        for settlement in settled:
            self._done(settlement)
        self._announce()

    def _serve(self) -> None:
        for child in deal(self._waiting, self._children, self._pace, self._loop.time()):
            child.flush()
            self._arm(child.due())

    def _announce(self) -> None:
        """Say so when room has grown: for an idle child at once, else when it is worth a request."""
        room = self.room()
        worth = self._pace.quota() * len(self._children) // 4
        idle = any(child.open and not child.count for child in self._children)
        if room > self._told and (idle or room - self._told >= worth):
            self._told = room
            self._room()
        else:
            self._told = min(self._told, room)

    def _arm(self, due: float) -> None:
        """Have `_tick` called by then."""
        if due == NEVER or (self._timer and self._timer.when() <= due):
            return
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(max(due, self._loop.time() + SHORTEST_NAP), self._tick)
