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
from typing import NamedTuple

from qdistd.call import encode_failure
from qdistd.child.frames import Ready
from qdistd.errors import ConfigError
from qdistd.events import Event, told
from qdistd.model import Grant, Held, Outcome, Settlement, id_text
from qdistd.pool.cgroups import Ground
from qdistd.pool.complaints import complain
from qdistd.pool.deaths import Verdict, cancelled, stopped
from qdistd.pool.nursery import Nursery, faults_of
from qdistd.pool.pace import ALONE, Pace
from qdistd.pool.process import GRACE, LONG, NEVER, Burial, ChildProcess, Ended
from qdistd.pool.settings import PoolSettings

PORTION = 0.001
"""Seconds of work that a child is given before the next is looked at: keeps them level, and is cheap."""

CROWD = 16
BREATH = 0.001
"""A child with so many tasks before it is read once in so many seconds: results come in handfuls and cost less."""

SHORTEST_NAP = 0.001
"""Seconds between two looks at the children."""

STUBBORN = 5.0
"""Seconds that `close` waits for children that even SIGKILL does not end, as the kernel does not let go of them."""


class Waiting(NamedTuple):
    """A task without a child, and since when."""

    grant: Grant
    since: float


class Pool:
    """`processes` children that run tasks.

    `done` is told how each task ended, exactly once for each that was given and not recalled. `room` is called when
    `room()` has grown by enough to ask for more. Both are called from the event loop, and may call back. `ground`:
    where every child gets a cgroup of its own.
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
    ) -> None:
        self._settings = settings
        self._next: PoolSettings | None = None
        """Settings that are being tried."""
        self._wall = wall
        self._done = done
        self._room = room
        self._log = log
        self._ground = ground
        self._loop = asyncio.get_running_loop()
        self._pace = Pace()
        self._nursery = Nursery(self._loop, ground, log, self._stands, self._failed)
        self._children: list[ChildProcess] = []
        self._waiting: deque[Waiting] = deque()
        self._settled: list[Settlement] = []
        self._told = 0
        """The room that was last spoken of."""
        self._timer: asyncio.TimerHandle | None = None
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self._passing = asyncio.Event()
        """Set by each death of a child that stood."""
        self._mentioned = Ready({})
        """What the last child could not import, so that it is logged once and not for each child."""

    # --- what a worker does with it

    async def start(self) -> None:
        """Return when all children stand. ConfigError where one cannot: then nothing is left running."""
        if self._ground:
            self._ground.sweep(self._loop, [child.cell.folder for child in self._children if child.cell])
        self._populate()
        try:
            await self._started
        except ConfigError:
            await self.close()
            raise

    def room(self) -> int:
        """How many more tasks it wants now."""
        if self._closing:
            return 0
        quota = self._pace.quota()
        return max(0, sum(child.room(quota) for child in self._children) - len(self._waiting))

    def give(self, grants: Sequence[Grant]) -> None:
        """Have these run. More than `room()` are taken too, and wait."""
        if self._closing:
            self._release(grants)
        else:
            now = self._loop.time()
            self._waiting.extend(Waiting(grant, now) for grant in grants)
        self._after()

    def held(self) -> list[Held]:
        """Everything it was given that is neither settled nor recalled."""
        given = [grant for child in self._children for grant in child.grants()]
        waiting = [waiting.grant for waiting in self._waiting]
        return [Held(grant.id, grant.attempt) for grant in (*given, *waiting)]

    def running(self) -> int:
        """How many tasks run at this moment."""
        return sum(1 for child in self._children if child.count)

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
        self._next = settings
        self._populate()

    async def close(self) -> None:
        """End all children: SIGTERM, then SIGKILL after `GRACE`. What they ran is settled as released."""
        self._closing = True
        self._release(self.recall())
        now = self._loop.time()
        for child in self._children:
            child.stop(now)
            self._arm(child.due())
        self._after()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE + STUBBORN):
                await self._nursery.close()
                await self._gone()
        for child in self._children:
            self._log.error("child %d does not die: the kernel does not let go of it", child.pid)
        if self._timer:
            self._timer.cancel()

    async def _gone(self) -> None:
        while self._children:
            self._passing.clear()
            await self._passing.wait()

    # --- what happens

    def _stands(self, child: ChildProcess, settings: PoolSettings, ready: Ready) -> None:
        if settings is self._next:
            self._adopt(settings)
        self._mention(ready)
        self._children.append(child)
        self._loop.add_reader(child.results, self._readable, child)
        self._loop.add_reader(child.exited, self._died, child)
        self._populate()
        if len(self._children) >= self._settings.processes and not self._started.done():
            self._started.set_result(None)
        self._after()

    def _adopt(self, settings: PoolSettings) -> None:
        """The settings have proven good: the children of the old ones do what they have taken, and go."""
        self._settings, self._next = settings, None
        self._pace = Pace()
        now = self._loop.time()
        for child in self._children:
            self._put_back(child.retire(now))
            self._arm(child.due())

    def _failed(self, settings: PoolSettings, reason: str) -> None:
        if not self._started.done():
            modules = ", ".join(settings.modules)
            self._started.set_exception(ConfigError(f"[worker] tasks = {modules}: {reason}"))
        elif settings is self._next:
            self._log.error("the old settings of the pool stay, as the new ones are of no use: %s", reason)
            self._next = None
            self._populate()
        else:
            self._log.error("%s; another will be tried", reason)

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
        self._note(burial.ended)
        self._put_back(burial.grants)
        self._obituary(child, burial, expected)
        self._passing.set()
        self._populate()
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
        ended = child.read(self._loop.time())
        self._note(ended)
        if ended:
            self._nursery.praise()
        self._arm(child.due())

    def _note(self, ended: Iterable[Ended]) -> None:
        for name, settlement in ended:
            self._settled.append(settlement)
            if settlement.outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
                self._pace.learn(name, settlement.wall)
            if settlement.outcome is Outcome.FAILED:
                complain(self._log, name, settlement)

    def _put_back(self, grants: Sequence[Grant]) -> None:
        now = self._loop.time()
        self._waiting.extendleft(Waiting(grant, now) for grant in reversed(grants))

    def _release(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            self._settle(grant, stopped(grant.name, "the worker stops"))

    def _settle(self, grant: Grant, verdict: Verdict) -> None:
        value = encode_failure(verdict.failure)
        self._settled.append(Settlement(grant.id, grant.attempt, verdict.outcome, value))

    def _populate(self) -> None:
        """See to it that there are as many children as there should be. Those that go take their place until then."""
        if self._closing:
            return
        if self._next is not None:
            self._nursery.want(self._next, 1)
        else:
            self._nursery.want(self._settings, self._settings.processes - len(self._children))

    # --- after everything that happens

    def _after(self) -> None:
        self._serve()
        settled, self._settled = self._settled, []
        for settlement in settled:
            self._done(settlement)
        self._announce()

    def _serve(self) -> None:
        """Give what waits to the children, the least busy first, until none has room for the task in front."""
        served = set()
        while self._waiting and self._children:
            child = min(self._children, key=_burden)
            if not self._fill(child):
                break
            served.add(child)
        for child in served:
            child.flush()
            self._arm(child.due())

    def _fill(self, child: ChildProcess) -> bool:
        """Give one portion to this child. False where it has no room for the task in front."""
        now, portion = self._loop.time(), 0.0
        while self._waiting and portion < PORTION:
            grant = self._waiting[0].grant
            cost = self._pace.cost(grant.name)
            if not child.fits(cost):
                break
            self._waiting.popleft()
            child.give(grant, cost, now)
            portion += cost
        return portion > 0

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

    # --- what the log hears of it

    def _obituary(self, child: ChildProcess, burial: Burial, expected: bool) -> None:
        """Log a death that nobody had asked for; have a child that was of no use count as a failed start."""
        crashed = [settlement for _, settlement in burial.ended if settlement.outcome is Outcome.CRASHED]
        for settlement in crashed:
            text, words = id_text(settlement.id), burial.death.words
            extra = told(Event.CHILD_DIED, TASK_ID=text, ATTEMPT=settlement.attempt)
            self._log.warning("child %d %s while it ran task %s", child.pid, words, text, extra=extra)
        if expected or crashed:
            return
        text, extra = "child %d, which had no task, %s", told(Event.CHILD_DIED)
        self._log.warning(text, child.pid, burial.death.words, extra=extra)
        if not child.proven:
            self._nursery.stumble(self._settings, "a child died before it had run anything")

    def _mention(self, ready: Ready) -> None:
        if ready != self._mentioned and ready.broken:
            text, extra = "tasks of these modules will fail, as they cannot be imported: %s", told(Event.MODULES_BROKEN)
            self._log.error(text, faults_of(ready), extra=extra)
        self._mentioned = ready


def _burden(child: ChildProcess) -> float:
    return child.load if child.open else ALONE
