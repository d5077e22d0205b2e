"""What the end of a task means for those that wait for it.

    ended ──> dependents ──┬─ as they wished ──> one blocker less ──none left──> ready, scheduled, or its key's turn
                           ├─ it failed ───────> cancelled, and so on to their own dependents
                           └─ it failed: wait ─> until somebody retries it, with success
    a place of a concurrency key is free ──> the next task with that key is ready

A bounded number at once: the tick goes on with the rest, and a restart finds it in the store.
"""

from qdistd import lifecycle
from qdistd.broker.agenda import Agenda
from qdistd.broker.flow import UNBOUNDED, Flow
from qdistd.call import encode_failure
from qdistd.model import Failure, Result, State, id_text
from qdistd.store import Store
from qdistd.store.ties import Dependent

AT_ONCE = 1000
"""Tasks moved in one transaction for the sake of others: about 30 ms of work."""


class Kin:
    """Call `settle` at the end of whatever may have ended a task or freed a place."""

    def __init__(self, store: Store, flow: Flow, agenda: Agenda) -> None:
        self._store = store
        self._bonds = store.bonds
        self._flow = flow
        self._agenda = agenda

    def recover(self) -> None:
        """What an earlier master has not come to."""
        self._agenda.kin_rest = False
        self._agenda.kin.clear()
        self._agenda.kin.extend(self._bonds.unmet())
        for queue, key in self._bonds.held_keys():
            self._bonds.loosen(queue, key)

    def settle(self, now: float) -> None:
        """Free what waits for the tasks that have ended, and for places of concurrency keys."""
        if self._agenda.kin_rest:
            return
        budget = self._free_dependents(now) if self._agenda.kin else AT_ONCE
        if budget <= 0 or self._fill_places(budget) <= 0:
            self._agenda.kin_rest = True
            self._agenda.wake(now)

    def _free_dependents(self, now: float) -> int:
        """How many more tasks may be moved now."""
        kin, budget = self._agenda.kin, AT_ONCE
        if not self._bonds.blocked():
            kin.clear()
        while kin and budget > 0:
            task_id, state = kin[0]
            dependents = self._bonds.dependents(task_id, budget, succeeded=state is State.SUCCEEDED)
            for dependent in dependents:
                self._free(dependent, task_id, state, now)
            budget -= len(dependents)
            if budget > 0:
                kin.popleft()
        return budget

    def _free(self, dependent: Dependent, task_id: bytes, state: State, now: float) -> None:
        if lifecycle.cancels(dependent.if_failed, state):
            cancel_for(self._store, self._agenda, dependent.id, (task_id, state), now)
            return
        self._bonds.meet(task_id, dependent)
        if dependent.blockers > 1:
            return
        due = dependent.run_at > now
        self._bonds.unblock(dependent, State.SCHEDULED if due else State.READY)
        if due:
            self._agenda.due(dependent.run_at)
        else:
            self._agenda.ready.add(dependent.queue)

    def _fill_places(self, budget: int) -> int:
        """How many more tasks may be moved now: none where some of the keys are left for later."""
        for queue, key in self._bonds.loose():
            limit = self._flow.limits(queue).per_key
            room = limit - self._bonds.holding(queue, key) if limit else UNBOUNDED
            if budget <= 0:
                self._bonds.loosen(queue, key)
            elif room > 0 and (admitted := self._bonds.admit(queue, key, min(room, budget))):
                self._agenda.ready.add(queue)
                budget -= admitted
                if budget <= 0:
                    self._bonds.loosen(queue, key)
        return budget


def cancel_for(store: Store, agenda: Agenda, task_id: bytes, needed: tuple[bytes, State], now: float) -> None:
    """Cancel a task for the sake of one that it comes after, and that ended otherwise than it had to."""
    other, state = needed
    why = Failure("cancelled", f"it comes after the task {id_text(other)}, which {_FATES[state]}")
    value = encode_failure(why)
    store.cancel([task_id], now, value)
    agenda.end(Result(task_id, State.CANCELLED, 0, value))


_FATES = {State.FAILED: "has failed", State.CANCELLED: "was cancelled", State.QUARANTINED: "is quarantined"}
