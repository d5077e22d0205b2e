"""Read, decide, save.

    submit ─┐                       ┌─> finished   results for whoever waits
    report ─┼─> Broker ─> Store     ┼─> ready      queues that got work, for the leases that wait
    lease  ─┘      │                ├─> news       for the log
                   │                └─> (answers)
                lifecycle: every rule      door: what comes in      flow: what may be leased now
                                           kin: who waits for whom  agenda: what is next

Every method runs inside a transaction that the caller opens and commits; `finished` and `news` may be acted upon only
after the commit. What is leased is also kept in memory, by seat, so that a settlement needs no read; after a
rollback `recover` builds that memory again from the store. Nothing here waits, sleeps or reads a clock of its own.
"""

import random
from collections.abc import Callable, Iterable, Sequence

from qdistd.broker import reasons
from qdistd.broker.door import Bounds, Door
from qdistd.broker.flow import DRAINED, PAUSED
from qdistd.broker.leases import Leases
from qdistd.broker.ledger import Settings
from qdistd.broker.news import News
from qdistd.broker.retention import PURGE_EVERY, PURGE_PAUSE, PURGE_REST
from qdistd.broker.seats import Seat
from qdistd.errors import Overloaded
from qdistd.events import Event
from qdistd.model import Merged, Result, State, Task
from qdistd.protocol import Refusal, Stuck
from qdistd.store import Store
from qdistd.views import TaskView

LONGEST_NAP = 10.0
"""Seconds between ticks at most: the wall clock may step, and a task for a time of day must notice."""


class Broker(Leases):
    """The rules applied to the rows."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        rng: random.Random,
        low: Callable[[], str] = lambda: "",
    ) -> None:
        """`low` says what the machine is short of, or nothing."""
        super().__init__(store, settings, monotonic=monotonic, wall=wall, rng=rng)
        self.door = Door(
            store,
            self._agenda,
            bounds=lambda: Bounds(self.settings.payload, self.settings.queued),
            limits=self.flow.limits,
            pace=lambda: self._pace,
            low=low,
        )
        self._purge_at = 0.0
        self._purge_idle = 0
        self.submitted = 0
        self._pace = 0.0
        """Attempts that end per second, lately."""
        self._paced_at, self._paced = monotonic(), 0

    # -- submit

    def submit(self, tasks: Sequence[Task], *, atomic: bool = False) -> list[Refusal]:
        """Store the tasks; those that are refused, and why. `atomic`: all or none. See `merged`, too."""
        refusals = self.door.submit(tasks, self._now(), self._now.ahead, atomic=atomic)
        refused = {refusal.id for refusal in refusals}
        overloaded = [refusal.message for refusal in refusals if refusal.code == Overloaded.code]
        self.news.overloaded = overloaded[0] if overloaded else self.news.overloaded
        self.submitted += self.door.new
        self.news.new += self.door.new
        self.news.submitted += [task for task in tasks if task.id not in refused] if refused else tasks
        self._tidy_up()
        return refusals

    @property
    def merged(self) -> list[Merged]:
        """Of the last `submit`: the unique tasks that are there already."""
        return self.door.merged

    # -- people

    def cancel(self, ids: Iterable[bytes]) -> tuple[dict[bytes, State], list[Seat]]:
        """Cancel tasks: their states now, and the seats that have an order to hear."""
        states = self.store.cancel(ids, self._now())
        ordered = []
        for seat in self._seats:
            running = [task_id for task_id in states if task_id in seat.claims]
            for task_id in running:
                seat.claims[task_id].cancel = 1
            if running:
                seat.cancel += running
                ordered.append(seat)
        self._announce([task_id for task_id, state in states.items() if state == State.CANCELLED])
        self._tidy_up()
        return states, ordered

    def retry(self, ids: Iterable[bytes]) -> dict[bytes, State]:
        """Failed, cancelled and quarantined tasks back to their queues."""
        states = self.store.retry(ids, self._now())
        for task_id in (task_id for task_id, state in states.items() if state is State.BLOCKED):
            self._agenda.kin += self.store.bonds.unmet_by(task_id)  # they have ended while it did not wait for them
        self._tidy_up()
        self.ready.update(self.store.counts())
        return states

    def pause(self, queues: Iterable[str], *, on: bool) -> list[str]:
        """Lease nothing more of these queues, or do again; those for which that is a change."""
        changed = self._switch(PAUSED, queues, Event.QUEUE_PAUSED if on else Event.QUEUE_RESUMED, on=on)
        self.ready.update(changed)
        return changed

    def drain(self, names: Iterable[str], *, on: bool) -> tuple[list[str], list[Seat]]:
        """Lease nothing more to workers of these names, or on these hosts, or do again.

        Those for which that is a change, and the seats that have an order to hear.
        """
        changed = self._switch(DRAINED, names, Event.WORKER_DRAINED if on else Event.WORKER_UNDRAINED, on=on)
        ordered = self._see_drained()
        for seat in ordered:
            self.ready.update(seat.queues)
        return changed, ordered

    def _switch(self, kind: str, names: Iterable[str], event: Event, *, on: bool) -> list[str]:
        since = self._now() if on else 0.0
        changed = [name for name in names if self.store.notes.switch(kind, name, since)]
        self.flow.recover()
        self.news.switched += [(event, name) for name in changed]
        return changed

    def stuck(self) -> list[Stuck]:
        """Ready tasks that nobody can take, and why."""
        return reasons.stuck(self.store, self.flow, self._seats)

    def why(self, view: TaskView) -> str:
        """Why this task does not run now; empty where there is nothing to say."""
        return reasons.why(view, self.store, self.flow, self._seats)

    def take_finished(self) -> list[Result]:
        """The tasks that have ended in this transaction. Act on it after the commit."""
        finished, self._agenda.finished = self._agenda.finished, []
        return finished

    def take_news(self) -> News:
        """What this transaction has done. Tell it after the commit."""
        news, self.news = self.news, News()
        return news

    # -- the tick

    def tick(self) -> float:
        """Do what is due; the monotonic time when something will be due next."""
        now = self._monotonic()
        self._agenda.kin_rest = False
        self._promote()
        self._expire()
        for seat in self._seats.expired(now):
            self._drop_claims(seat, set(), *seat.end_of_lease)
            self._leave(seat)
        self._purge(now)
        self._seats.forget(self._now())
        self._measure_pace(now)
        agenda = self._agenda
        due, expiry = agenda.monotonic(agenda.next_due), agenda.monotonic(agenda.next_expiry)
        agenda.alarm = min(due, expiry, self._seats.next_deadline(), self._purge_at, now + LONGEST_NAP)
        self._tidy_up(at_tick=True)
        agenda.alarm = max(now, agenda.alarm)
        return agenda.alarm

    def _promote(self) -> None:
        agenda = self._agenda
        if self._now.stepped():
            self.store.realign(self._now.ahead)
            agenda.next_due = self.store.next_due()
        if agenda.next_due is not None and agenda.next_due <= self._now():
            self.ready.update(self.store.promote(self._now()))
            agenda.next_due = self.store.next_due()

    def _measure_pace(self, now: float) -> None:
        seconds = now - self._paced_at
        if seconds >= 1.0:
            self._pace = (self.settled - self._paced) / seconds
            self._paced_at, self._paced = now, self.settled

    def _purge(self, now: float) -> None:
        if now < self._purge_at:
            return
        keep = self.settings.retention.keep(self._now())
        gone, more = self.store.ends.purge(keep)
        if not more:
            self.store.ends.retire(keep.failed, {seat.number for seat in self._seats})
        self._purge_idle += not gone
        self._purge_at = now + (PURGE_PAUSE if more else max(PURGE_EVERY, PURGE_REST * self._purge_idle))
        self._purge_idle *= more
