"""How much of each queue may be leased now, and which queue is next.

    ready ──paused? concurrency? rate?──> room ──shares by weight──> what a lease takes of each queue

A rate is exact: in no stretch of its seconds do more tasks begin, on however many workers and over restarts, for
what has begun is written down in the transaction that leases it. Weights are kept by stride scheduling (Waldspurger
and Weihl, MIT/LCS/TM-528, 1995): each task that a queue is granted moves its turn back by 1 / weight, and the queue
whose turn is the earliest is next. A queue that was empty has saved nothing up.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Mapping

import msgspec

from qdistd.model import State
from qdistd.store import Store

PAUSED, DRAINED = "paused", "drained"
"""Kinds of switches in the store."""

UNBOUNDED = 2**31
"""More tasks than any lease takes."""

MOST_TURNS = 1000
"""Queues whose turn is remembered, before those are forgotten whose turn is over."""


class QueueLimits(msgspec.Struct, frozen=True):
    """What the configuration says of one queue. 0 and None: no limit. `rate`: tasks, seconds."""

    concurrency: int = 0
    per_key: int = 0
    rate: tuple[int, float] | None = None
    weight: int = 1
    limit: int = 0

    def words(self) -> dict[str, str]:
        """Those that are set, for people."""
        numbers = {"concurrency": self.concurrency, "per_key": self.per_key, "limit": self.limit}
        words = {name: f"{number:,}" for name, number in numbers.items() if number}
        if self.rate:
            words["rate"] = f"{self.rate[0]:,} in {self.rate[1]:g} s"
        return words if self.weight == 1 else words | {"weight": str(self.weight)}


FREE = QueueLimits()


class Window:
    """The beginnings within the last `seconds`: at most `tasks` of them."""

    def __init__(self, tasks: int, seconds: float) -> None:
        self.tasks = tasks
        self.seconds = seconds
        self._begun: deque[tuple[float, int]] = deque()
        self._number = 0

    def add(self, at: float, number: int) -> None:
        """So many have begun."""
        self._begun.append((at, number))
        self._number += number

    def room(self, now: float) -> int:
        """How many may begin now."""
        while self._begun and self._begun[0][0] <= now - self.seconds:
            self._number -= self._begun.popleft()[1]
        return max(0, self.tasks - self._number)

    def frees(self) -> float:
        """When there is more room than now."""
        return self._begun[0][0] + self.seconds if self._begun else 0.0


class Flow:
    """The limits of all queues. `limits`: those that have some. `now`: the master's time."""

    def __init__(self, store: Store, limits: Callable[[], Mapping[str, QueueLimits]], now: Callable[[], float]) -> None:
        self._store = store
        self._limits = limits
        self._now = now
        self.paused: dict[str, float] = {}
        self.drained: dict[str, float] = {}
        self._windows: dict[str, Window] = {}
        self._turns: dict[str, float] = {}
        self._turn = 0.0

    def recover(self) -> None:
        """Begin anew with what the store says: at the start, after a rollback, and when the limits have changed."""
        self.paused = self._store.notes.switched(PAUSED)
        self.drained = self._store.notes.switched(DRAINED)
        rates = {queue: limits.rate for queue, limits in self._limits().items() if limits.rate}
        self._windows = {queue: Window(*rate) for queue, rate in rates.items()}
        for queue, at, tasks in self._store.notes.beginnings():
            if queue in self._windows:
                self._windows[queue].add(at, tasks)

    def limits(self, queue: str) -> QueueLimits:
        """The limits of a queue."""
        return self._limits().get(queue, FREE)

    def room(self, queue: str, idle: int) -> int:
        """How many tasks of this queue may be leased now to a worker with so many idle children.

        Where tasks are counted as they begin, no more are handed out than begin at once.
        """
        if queue in self.paused:
            return 0
        limits = self.limits(queue)
        if limits is FREE or not (limits.concurrency or limits.rate):
            return UNBOUNDED
        room = idle
        if limits.concurrency:
            room = min(room, limits.concurrency - self._store.count(queue, State.LEASED))
        if queue in self._windows:
            room = min(room, self._windows[queue].room(self._now()))
        return max(0, room)

    def begin(self, queue: str, tasks: int) -> None:
        """So many tasks of this queue are leased."""
        window = self._windows.get(queue)
        if window is not None:
            now = self._now()
            window.add(now, tasks)
            self._store.notes.begun(queue, now, tasks, now - window.seconds)

    def opens(self) -> list[tuple[str, float]]:
        """The queues with a rate that have ready tasks, and when it lets the next one begin (0: now)."""
        now = self._now()
        waiting = [(queue, window) for queue, window in self._windows.items() if self._store.ready(queue)]
        return [(queue, 0.0 if window.room(now) else window.frees()) for queue, window in waiting]

    def shares(self, rooms: Mapping[str, int], count: int) -> dict[str, int]:
        """How to divide `count` tasks among queues that could give so many each."""
        turns = [(max(self._turns.get(queue, 0.0), self._turn), queue) for queue, room in rooms.items() if room > 0]
        heapq.heapify(turns)
        shares: Counter[str] = Counter()
        while turns and count > 0:
            self._turn, queue = turns[0]
            taken = min(count, rooms[queue]) if len(turns) == 1 else 1
            shares[queue] += taken
            count -= taken
            following = self._turns[queue] = self._turn + taken / self.limits(queue).weight
            if shares[queue] < rooms[queue]:
                heapq.heapreplace(turns, (following, queue))
            else:
                heapq.heappop(turns)
        self._forget_turns()
        return dict(shares)

    def _forget_turns(self) -> None:
        if len(self._turns) > MOST_TURNS:
            self._turns = {queue: turn for queue, turn in self._turns.items() if turn > self._turn}
