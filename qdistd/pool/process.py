"""One child, as the pool sees it: what it has before it, what it has begun, and how it ends.

    give ────tasks, tickets───> child ──results──> read
    recall <─┘ the tickets that it has not taken

Of all that was given and is not settled, the oldest is the one that runs: the head.
"""

import asyncio
import contextlib
import logging
import os
import struct
from collections.abc import Iterator

import msgspec

from qdistd.child.frames import PARTIAL, READY, TICKET, Care, Ready, task_frame
from qdistd.model import Grant, Said, Settlement
from qdistd.pool.cgroups import Ground
from qdistd.pool.deaths import (
    GRACE,
    Burial,
    Death,
    Ended,
    cancelled,
    garbled,
    muted,
    overrun,
    reap,
    stopped,
    victim,
)
from qdistd.pool.ear import WORTH_HEARING, Ear
from qdistd.pool.fate import KNOWN, NEVER, PLAIN, Fate
from qdistd.pool.handover import ChildEstate
from qdistd.pool.inlet import Frame, Garbled, Inlet
from qdistd.pool.outlet import Outlet
from qdistd.pool.pace import AHEAD, ALONE, DEAF, LONG, MOST
from qdistd.pool.settings import PoolSettings
from qdistd.pool.spawn import Spawned
from qdistd.pool.wear import Wear

Given = tuple[Grant, float]
"""A task in a child, and how long it was expected to take."""


class ChildProcess:
    """Nothing here waits. `now` is the time of the loop; all times are seconds."""

    def __init__(
        self, spawned: Spawned, settings: PoolSettings, loop: asyncio.AbstractEventLoop, log: logging.Logger
    ) -> None:
        self.pid = spawned.pid
        self.exited = spawned.exited
        self.results = spawned.results
        self.cell = spawned.cell
        self.open = True
        """Whether it may be given tasks."""
        self.proven = False
        """Whether it has ever ended a task."""
        self.load = 0.0
        """Seconds that what it has will take; `ALONE`: nothing may be added."""
        self.fate = Fate(spawned.pid, spawned.cell, settings.grace)
        self._verdicts = self.fate.verdicts
        self.wear = Wear(spawned.pid, settings.child_tasks, settings.child_memory)
        self.worn = False
        self.heir: ChildProcess | None = None
        """Who takes its place as soon as it has nothing left to do."""
        self._spawned = spawned
        self._settings = settings
        self._loop = loop
        self._tasks = Outlet(spawned.tasks, loop)
        self._tickets = Outlet(spawned.tickets, loop)
        self._inlet = Inlet(spawned.results, settings.result)
        self.ear = Ear(spawned.voice, spawned.board, log, loop, self.speaker, settings.worker)
        self._given: dict[int, Given] = {}
        self._last_ticket = READY
        self._frames: list[bytes] = []
        self._since = 0.0
        """When the head began, as far as we know."""
        self._deaf_at = NEVER
        """When it must have begun."""
        self.retired = False
        """Whether it ends as soon as it has done what it has taken."""
        self._cpu = 0.0
        """Processor time that its results account for."""

    @property
    def count(self) -> int:
        """How many tasks it has."""
        return len(self._given)

    def grants(self) -> list[Grant]:
        """All it has, the head first."""
        return [grant for grant, _ in self._given.values()]

    def has(self, task_id: bytes) -> bool:
        """Whether it has this task."""
        return any(grant.id == task_id for grant, _ in self._given.values())

    @property
    def ended(self) -> bool:
        """Whether no more results can come."""
        return self._inlet.ended

    # --- over an exec

    def bequeath(self) -> ChildEstate:
        """Write down all that the next image must know of it. It is not to be touched here any more."""
        return ChildEstate(
            pid=self.pid,
            settings=self._settings,
            descriptors=self._spawned.descriptors,
            cell=self.cell.folder if self.cell else "",
            tasks=self._tasks.bequeath(),
            tickets=self._tickets.bequeath(),
            unread=self._inlet.unread,
            said=self.ear.bequeath(),
            ended=self.ended,
            given=[(ticket, *given) for ticket, given in self._given.items()],
            verdicts=self._verdicts,
            last_ticket=self._last_ticket,
            load=self.load,
            since=self._since,
            deaf_at=self._deaf_at,
            kill_at=self.fate.kill_at,
            cpu=self._cpu,
            open=self.open,
            proven=self.proven,
            retired=self.retired,
            asked=self.fate.asked,
        )

    @classmethod
    def inherited(
        cls, estate: ChildEstate, ground: Ground | None, loop: asyncio.AbstractEventLoop, log: logging.Logger
    ) -> "ChildProcess":
        """The child that an earlier image has written down."""
        cell = ground.adopt(estate.cell) if ground and estate.cell else None
        spawned = Spawned(**{"board": -1, **estate.descriptors}, pid=estate.pid, cell=cell)
        child = cls(spawned, estate.settings, loop, log)
        child.ear.inherit(estate.said)
        child._tasks = Outlet(spawned.tasks, loop, estate.tasks)
        child._tickets = Outlet(spawned.tickets, loop, estate.tickets)
        child._inlet = Inlet(spawned.results, estate.settings.result, estate.unread)
        child._inlet.ended = estate.ended
        child._given = {ticket: (grant, cost) for ticket, grant, cost in estate.given}
        child.fate.verdicts.update(estate.verdicts)
        child.fate.asked, child.fate.kill_at = estate.asked, estate.kill_at
        child._since, child._deaf_at, child._last_ticket = estate.since, estate.deaf_at, estate.last_ticket
        child._cpu, child.load = estate.cpu, estate.load
        child.open, child.proven, child.retired = estate.open, estate.proven, estate.retired
        return child

    # --- giving and taking back

    def fits(self, cost: float) -> bool:
        """Whether one more task of this cost may be given now."""
        return self.open and (not self._given or self.load + cost <= AHEAD) and len(self._given) < MOST

    def room(self, quota: int) -> int:
        """How many more tasks of the usual kind it should be given, where an idle child should have `quota`."""
        return max(quota - len(self._given), 0) if self.open and self.load < ALONE else 0

    def give(self, grant: Grant, cost: float, now: float) -> None:
        """Have this run, after all that it has. Goes out with the next `flush`."""
        if not self._given:
            self._next_begins(now)
        self._last_ticket += 1
        self._given[self._last_ticket] = (grant, cost)
        care = Care.NONE if not grant.timeout else Care.APART if cost == ALONE else Care.TIDY
        limit, soft = grant.timeout or self._settings.timeout, grant.soft_timeout or self._settings.soft_timeout
        self._frames.append(task_frame(self._last_ticket, grant, care, limit, soft))
        self.load += cost

    def flush(self) -> None:
        """Send what was given."""
        if count := len(self._frames):
            self._tasks.write(b"".join(self._frames))
            self._frames.clear()
            self._tickets.write(struct.pack(f"={count}Q", *range(self._last_ticket + 1 - count, self._last_ticket + 1)))

    def recall(self) -> list[Grant]:
        """Take back all that the child has not taken."""
        grants = [self._given.pop(ticket)[0] for ticket in self._untaken()]
        self.load = sum(cost for _, cost in self._given.values())
        return grants

    def _untaken(self) -> list[int]:
        """Take back the tickets that the child has not taken. Whatever else a task has put there counts for nothing."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._spawned.tickets_back, MOST * TICKET.size)
        data += self._tickets.retract()
        tickets = (TICKET.unpack_from(data, at)[0] for at in range(0, len(data) - TICKET.size + 1, TICKET.size))
        return [ticket for ticket in dict.fromkeys(tickets) if ticket in self._given]

    def _next_begins(self, now: float) -> None:
        self._since, self._deaf_at = now, now + DEAF

    # --- results

    def read_ready(self) -> Ready | None:
        """What the child has to say of itself, as soon as it stands. Garbled where that is something else."""
        for frame in self._inlet.read():
            if frame[0] >= PARTIAL:  # a module that talks while it is imported
                self._settle(frame)
                continue
            self._cpu = frame[-3]
            try:
                return msgspec.json.decode(frame[-1], type=Ready)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise Garbled(f"the first word of a child: {error}") from None
        return None

    def read(self, now: float) -> list[Ended]:
        """The tasks that have ended. A child that writes nonsense is killed."""
        ended: list[Ended] = []
        try:
            self._sort(self._inlet.read(), ended)
        except Garbled as error:
            for ticket, (grant, _) in self._given.items():
                self._verdicts[ticket] = garbled(grant.name, str(error))
            self.kill()
            return ended
        if ended:
            self._next_begins(now)
        if self.ended or (self.retired and not self._given):
            self.fate.by(now + GRACE)
        return ended

    def _sort(self, frames: Iterator[Frame], ended: list[Ended]) -> None:
        """Hear what is said, and add to `ended`: what came before nonsense has ended all the same."""
        for frame in frames:
            if end := self._settle(frame):
                ended.append(end)  # noqa: PERF401 - as above

    def _settle(self, frame: Frame) -> Ended | None:
        """How a task has ended; None where it only says something."""
        code, ticket, started, wall, cpu, rss, value = frame
        if code >= PARTIAL:
            self.ear.hear(ticket, self._grant(ticket), value, rss, code)
            return None
        plain = code < len(PLAIN) and not self._verdicts
        if ticket not in self._given or not (plain or code in KNOWN):
            raise Garbled(f"a result of task {ticket}, which it does not have")
        if not 0.0 <= wall < NEVER:  # perhaps it is no number
            raise Garbled(f"a result after {wall} seconds")
        if wall > WORTH_HEARING:
            self.ear.listen()
        grant, cost = self._given.pop(ticket)
        self.load = self.load - cost if self._given else 0.0
        self.proven = True
        self._cpu += cpu
        self.wear.ran += 1
        self.wear.peak = rss
        said = self.ear.take(ticket, grant, wall > WORTH_HEARING)
        wait = -1.0
        if plain:
            outcome = PLAIN[code]
        else:
            outcome, value, wait = self.fate.read(ticket, grant.name, code, value)
            self._go_on()
        token = b""
        return grant.name, Settlement(
            grant.id, grant.attempt, outcome, value, started, wall, cpu, rss, token, said, wait
        )

    def _go_on(self) -> None:
        """Be given tasks again, should the one that was to end have left the child alive."""
        if not self.open and self.fate.spare():
            self.open = not self.retired

    def speaker(self) -> tuple[int, Grant | None]:
        """Who says what comes by descriptor, as far as one can know."""
        head = self._head() if self._given else READY
        return head, self._grant(head)

    def _grant(self, ticket: int) -> Grant | None:
        return self._given[ticket][0] if ticket in self._given else None

    def said(self) -> Said | None:
        """What the task that runs has said since the last time."""
        return self.ear.news(*self.speaker())

    # --- what is due

    def due(self) -> float:
        """When it wants to be looked after next."""
        if self._verdicts or not self._given:
            return self.fate.kill_at
        due = min(self.fate.kill_at, self._deaf_at, self._since + self._limit())
        return min(due, self._since + LONG) if len(self._given) > 1 else due

    def look_after(self, now: float) -> list[Grant]:
        """Do what is due. The tasks that it had to give back, as the one before them takes long."""
        if now < self.due():
            return []
        if now < self.fate.kill_at:
            return self._visit(now)
        if self.ended and self._given:
            self._verdicts.setdefault(self._head(), muted(self._name()))
        self.kill()
        return []

    def _visit(self, now: float) -> list[Grant]:
        """See whether the head has begun, and whether that was too long ago; what stands behind it goes elsewhere."""
        head, late, untaken = self._head(), now >= self._since + self._limit(), self._untaken()
        if head not in untaken:
            self._deaf_at = NEVER
            if late:
                self._verdicts[head] = overrun(self._name(), self._limit())
                self.kill()
        elif now >= self._deaf_at:
            self.kill()
        else:
            untaken.remove(head)
            self._tickets.write(TICKET.pack(head))
            if late:
                self._since = now
        self.load = ALONE
        return [self._given.pop(ticket)[0] for ticket in untaken]

    def _head(self) -> int:
        return next(iter(self._given))

    def _name(self) -> str:
        return self._given[self._head()][0].name

    def _limit(self) -> float:
        return self._given[self._head()][0].timeout or self._settings.timeout or NEVER

    # --- the end

    def cancel(self, task_id: bytes, now: float) -> None:
        """Have a task end that it has taken. To say so again changes nothing."""
        for ticket, (grant, _) in self._given.items():
            if grant.id == task_id and ticket not in self._verdicts:
                self._verdicts[ticket] = cancelled(grant.name)
                self.open = False
                self.fate.ask(now)

    def stop(self, now: float) -> None:
        """Have it end now. What it has taken goes back; the rest must have been recalled."""
        self.retire(now)
        for ticket, (grant, _) in self._given.items():
            self._verdicts.setdefault(ticket, stopped(grant.name, "the worker stops"))
        if self._given:
            self.fate.ask(now)

    def retire(self, now: float) -> list[Grant]:
        """Have it end as soon as it has done what it has taken. The tasks that it has not."""
        grants = self.recall()
        self.open = False
        self.retired = True
        self._tickets.close()
        if not self._given:
            self.fate.by(now + GRACE)
        return grants

    def kill(self) -> None:
        """End it, and what its tasks have started."""
        self.open = False
        self.fate.kill()

    def bury(self, now: float, wall: float) -> Burial:
        """The child is dead: end what it left running, take back what it had, and let go of everything."""
        self.kill()
        ended = self._last_results()
        self.ear.hear_out()
        grants = self.recall()
        death = reap(self.pid, self.cell)
        ended += [self._victim(ticket, death, now, wall) for ticket in self._given]
        self._close()
        return Burial(death, ended, grants)

    def _last_results(self) -> list[Ended]:
        ended: list[Ended] = []
        with contextlib.suppress(Garbled):
            self._sort(self._inlet.read_all(), ended)
        return ended

    def _victim(self, ticket: int, death: Death, now: float, wall: float) -> Ended:
        grant, seconds = self._given[ticket][0], now - self._since
        verdict = self.fate.last(ticket, grant.name, death)
        cpu = max(death.cpu - self._cpu, 0.0)
        said = self.ear.take(ticket, grant, True)
        return victim(grant, verdict, death, (wall - seconds, seconds, cpu), said)

    def _close(self) -> None:
        self.ear.close()
        self._tasks.close()
        self._tickets.close()
        for descriptor in self._spawned.kept:
            if descriptor >= 0:
                os.close(descriptor)
        if self.cell:
            self.cell.vanish(self._loop)
