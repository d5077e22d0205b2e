"""Where tasks come in: which are taken, which are refused, which are tasks that are there already.

Submit ──> refusals: too large, overloaded, after nothing
       ├─> merged: unique, and one like it is there
       └─> arrivals ──> store
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from qdistd import lifecycle
from qdistd.broker.agenda import Agenda
from qdistd.broker.flow import QueueLimits
from qdistd.broker.kin import cancel_for
from qdistd.model import Merged, State, Task, id_text
from qdistd.protocol import MOST_LINKS, Refusal
from qdistd.store import Arrival, Store, special

_TOO_MANY_LINKS = f"the tasks of one submit come after {MOST_LINKS:,} others together at most: send fewer at once"

WAITING = (State.READY, State.SCHEDULED, State.BLOCKED)
"""States that count for the limit of a queue."""

FULL_DISK = 5.0
"""Seconds after which it is worth asking whether somebody has made space."""

HINTS = (1.0, 60.0)
"""Seconds after which a queue that is full may have room: at least, at most."""

WORTH_COMING_BACK = 0.1
"""Share of a limit that should be free when somebody comes back."""


class Bounds(msgspec.Struct, frozen=True):
    """How much may come in. `payload` in bytes; `queued`: tasks in all queues together (0: any)."""

    payload: int
    queued: int = 0


class Door:
    """`pace`: tasks that have ended per second lately; `low`: what is short, in words, or nothing."""

    def __init__(
        self,
        store: Store,
        agenda: Agenda,
        *,
        bounds: Callable[[], Bounds],
        limits: Callable[[str], QueueLimits],
        pace: Callable[[], float],
        low: Callable[[], str],
    ) -> None:
        self._store = store
        self._agenda = agenda
        self._bounds = bounds
        self._limits = limits
        self._pace = pace
        self._low = low
        self.new = 0
        """Tasks of the last `submit` that the store did not have."""
        self.merged: list[Merged] = []
        """Tasks of the last `submit` that are others."""

    def submit(self, tasks: Sequence[Task], now: float, ahead: float, *, atomic: bool) -> list[Refusal]:
        """Take the tasks in; those that are refused, and why. `ahead`: of the wall clock, see `lifecycle.arrival`."""
        self.new, self.merged = 0, []
        refusals = self._refusals(tasks)
        if refusals and atomic:
            return refusals + _with_them(tasks, refusals)
        refused = {refusal.id for refusal in refusals}
        plain: list[Arrival] = []
        for task in tasks:
            if refused and task.id in refused:
                continue
            arrival = Arrival(task, *lifecycle.arrival(task.run_at, task.delay, now, ahead))
            if special(task):
                self._store_all(plain, now)
                plain = []
                self._receive(arrival, now)
            else:
                plain.append(arrival)
        self._store_all(plain, now)
        return refusals

    def overload(self) -> str:
        """Why nothing is taken in just now, or nothing."""
        if low := self._low():
            return low
        queued, limit = self._queued(), self._bounds().queued
        return f"{queued:,} tasks wait, the limit of [limits] queued is {limit:,}" if limit and queued >= limit else ""

    # -- what is refused

    def _refusals(self, tasks: Sequence[Task]) -> list[Refusal]:
        limit = self._bounds().payload
        refusals = [_too_large(task, limit) for task in tasks if len(task.payload) > limit]
        refusals += [_misnamed(task, name) for task in tasks for name in _unprintable(task)]
        refused = {refusal.id for refusal in refusals}
        refusals += self._without_room([task for task in tasks if task.id not in refused] if refused else tasks)
        return refusals + self._after_nothing(tasks, {refusal.id: refusal for refusal in refusals})

    def _without_room(self, tasks: Sequence[Task]) -> list[Refusal]:
        low = self._low()
        over = [(task, low, FULL_DISK) for task in tasks] if low else self._over_limits(tasks)
        known = self._store.states([task.id for task, _, _ in over]) if over else {}
        return [
            Refusal(task.id, "overloaded", f"{why}; try again in {hint:.0f} s", hint)
            for task, why, hint in over
            if task.id not in known and not self._is_another(task)
        ]

    def _is_another(self, task: Task) -> bool:
        """Whether it takes no room: it was merged before, or will be."""
        bonds = self._store.bonds
        if not task.unique or bonds.merged(task.id):
            return bool(task.unique)
        return bonds.alike(_identity(task), running=task.unique == "running") is not None

    def _over_limits(self, tasks: Sequence[Task]) -> "list[tuple[Task, str, float]]":
        total = self._bounds().queued
        if not total and not any(self._limits(queue).limit for queue in {task.queue for task in tasks}):
            return []
        room = total - self._queued() if total else len(tasks)
        rooms = {queue: self._room(queue) for queue in {task.queue for task in tasks}}
        over = []
        for task in tasks:
            if rooms[task.queue] <= 0:
                limit = self._limits(task.queue).limit
                over.append((task, f"the queue {task.queue} is full: its limit is {limit:,} tasks", self._hint(limit)))
            elif room <= 0:
                over.append((task, f"the queues are full: [limits] queued is {total:,} tasks", self._hint(total)))
            else:
                rooms[task.queue] -= 1
                room -= bool(total)
        return over

    def _room(self, queue: str) -> float:
        limit = self._limits(queue).limit
        return limit - sum(self._store.count(queue, state) for state in WAITING) if limit else float("inf")

    def _queued(self) -> int:
        if not self._bounds().queued:
            return 0
        return self._store.total(WAITING)

    def _hint(self, limit: int) -> float:
        pace = self._pace()
        least, most = HINTS
        return min(max(WORTH_COMING_BACK * limit / pace, least), most) if pace > 0 else most

    def _after_nothing(self, tasks: Sequence[Task], refused: dict[bytes, Refusal]) -> list[Refusal]:
        """Tasks that come after ones that nobody has heard of, or that are refused themselves."""
        if not any(task.after for task in tasks):
            return []
        if sum(len(task.after) for task in tasks) > MOST_LINKS:
            return [Refusal(task.id, "refused", _TOO_MANY_LINKS) for task in tasks if task.after]
        refusals = []
        came: set[bytes] = set()
        for task in tasks:
            missing = [needs for needs in task.after if needs in refused or not self._is_there(needs, came)][:1]
            if missing and task.id not in refused and not self._store.states([task.id]):
                refusal = refused[task.id] = _after_none(task, missing[0], refused.get(missing[0]))
                refusals.append(refusal)
            came.add(task.id)
        return refusals

    def _is_there(self, task_id: bytes, came: set[bytes]) -> bool:
        if task_id in came:
            return True
        there = bool(self._store.states([task_id])) or self._store.bonds.merged(task_id) is not None
        if there:
            came.add(task_id)
        return there

    # -- what is taken

    def _store_all(self, arrivals: list[Arrival], now: float) -> None:
        if not arrivals:
            return
        self.new += self._store.insert(arrivals, now)
        for arrival in arrivals:
            if arrival.state is State.READY:
                self._agenda.ready.add(arrival.task.queue)
            elif arrival.state is State.SCHEDULED:
                self._agenda.due(arrival.run_at)

    def _receive(self, arrival: Arrival, now: float) -> None:
        """A task with something special about it."""
        task = arrival.task
        if self._store.states([task.id]):
            return  # it is said again: whatever has come since, it is what it was
        unique_id = _identity(task) if task.unique else b""
        if task.unique and (other := self._other(task, unique_id)):
            self._store.bonds.alias(task.id, other)
            self.merged.append(Merged(task.id, other))
            return
        expires = now + task.expires if task.expires else 0.0
        real = self._real(task.after)
        needs, broken = self._needs(task, dict.fromkeys(real))
        places = tuple(map(list(dict.fromkeys(real)).index, real)) if task.take and len(needs) < len(real) else ()
        state = arrival.state
        if not all(met for _, met in needs) or (state is State.READY and task.concurrency_key):
            state = State.BLOCKED
        self._store_all([Arrival(task, state, arrival.run_at, expires, unique_id, needs, places, special=True)], now)
        if expires:
            self._agenda.expires(expires)
        if broken is not None:
            cancel_for(self._store, self._agenda, task.id, broken, now)

    def _other(self, task: Task, unique_id: bytes) -> bytes | None:
        """The task that this one is, where it is another."""
        if other := self._store.bonds.merged(task.id):
            return other
        found = self._store.bonds.alike(unique_id, running=task.unique == "running")
        if found is None:
            return None
        if task.coalesce and found[1] is not State.LEASED:
            self._store.bonds.coalesce(found[0], task.payload)
        return found[0]

    def _real(self, after: Sequence[bytes]) -> list[bytes]:
        """The tasks that these ids stand for."""
        there = self._store.states(after)
        return [needs if needs in there else self._store.bonds.merged(needs) or needs for needs in after]

    def _needs(
        self, task: Task, real: Iterable[bytes]
    ) -> tuple[tuple[tuple[bytes, bool], ...], tuple[bytes, State] | None]:
        """What it comes after, with whether that is over; and the one whose end has cancelled it already."""
        states = self._store.states(real)
        needs = tuple((task_id, lifecycle.meets(task.if_failed, states[task_id])) for task_id in real)
        broken = [(task_id, states[task_id]) for task_id in real if lifecycle.cancels(task.if_failed, states[task_id])]
        return needs, broken[0] if broken else None


def _identity(task: Task) -> bytes:
    """What two alike tasks have in common, as 16 bytes."""
    what = task.unique_key.encode() if task.unique_key else task.payload
    digest = hashlib.blake2b(digest_size=16, person=b"qdist alike")
    for part in (task.queue.encode(), task.name.encode(), b"key" if task.unique_key else b"payload", what):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _unprintable(task: Task) -> list[str]:
    """Its queue and labels that have line breaks, by which the store tells them apart, or could steer a terminal."""
    if task.queue.isprintable() and not task.requires:
        return []
    return [name for name in (task.queue, *task.requires) if not name.isprintable()][:1]


def _misnamed(task: Task, name: str) -> Refusal:
    return Refusal(task.id, "refused", f"{name!r} is no name of a queue or label: expected printable characters")


def _with_them(tasks: Sequence[Task], refusals: Sequence[Refusal]) -> list[Refusal]:
    refused = Counter(refusal.id for refusal in refusals)
    hint = max(refusal.after for refusal in refusals)
    code = "overloaded" if all(refusal.code == "overloaded" for refusal in refusals) else "refused"
    why = f"not stored, as another task of its batch was refused: {refusals[0].message}"
    return [Refusal(task.id, code, why, hint) for task in tasks if task.id not in refused]


def _after_none(task: Task, missing: bytes, refused: Refusal | None) -> Refusal:
    """It comes after a task that is not there; `refused`: as that came with it."""
    what = f"{task.name} comes after the task {id_text(missing)}"
    if refused is not None and refused.code == "overloaded":
        return Refusal(task.id, refused.code, f"{what}: {refused.message}", refused.after)
    return Refusal(task.id, "not-found", f"{what}, which this master does not have")


def _too_large(task: Task, limit: int) -> Refusal:
    return Refusal(
        task.id,
        "too-large",
        f"the payload of {task.name!r} has {len(task.payload):,} bytes, the limit is {limit:,}:"
        " put the data in a file on shared storage and send its path ([limits] payload in master.toml)",
    )
