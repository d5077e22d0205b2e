"""How many tasks stand where, kept in memory beside the rows and changed with them.

    (queue, state) ──> tasks   also on disk, in the transaction that moves the rows
    (queue, lane) ───> tasks   ready ones that require labels; a lane is the set of labels, as text

Whoever looks for work asks here first, and touches no row in vain.
"""

from collections import Counter
from collections.abc import Iterable

from qdistd.model import State

Kind = tuple[str, State]

_HOLDING = frozenset({State.READY, State.LEASED})
"""States in which a task takes one of the places that its concurrency key has."""


class Tally:
    """Counts of a store. `loose`: (queue, concurrency key) pairs where a place may have become free, or is wanted."""

    def __init__(self) -> None:
        self.tasks: Counter[Kind] = Counter()
        self.lanes: dict[str, Counter[str]] = {}
        self.blocked = 0
        """Tasks of all queues that wait for others."""
        self.moved: set[Kind] = set()
        self.loose: dict[tuple[str, str], None] = {}

    def load(self, tasks: Iterable[tuple[str, int, int]], lanes: Iterable[tuple[str, str, int]]) -> None:
        """Begin anew with what the rows say: (queue, state, tasks), (queue, lane, tasks)."""
        self.tasks = Counter({(queue, State(state)): number for queue, state, number in tasks})
        self.blocked = sum(number for (_, state), number in self.tasks.items() if state is State.BLOCKED)
        self.lanes = {}
        for queue, lane, number in lanes:
            self.lanes.setdefault(queue, Counter())[lane] = number
        self.moved.clear()
        self.loose.clear()

    def shift(self, queue: str, old: State, new: State, number: int, lane: str = "", key: str = "") -> None:
        """So many tasks of a queue, a lane and a concurrency key go from one state to another."""
        self.add(queue, old, -number, lane, key)
        self.add(queue, new, number, lane, key)

    def add(self, queue: str, state: State, number: int, lane: str = "", key: str = "") -> None:
        """So many tasks more in a state (or, negative, less)."""
        self.tasks[queue, state] += number
        self.moved.add((queue, state))
        if state is State.BLOCKED:
            self.blocked += number
        if lane and state is State.READY:
            self._add_to_lane(queue, lane, number)
        if key and (state is State.BLOCKED if number > 0 else state in _HOLDING):
            self.loose[queue, key] = None

    def _add_to_lane(self, queue: str, lane: str, number: int) -> None:
        lanes = self.lanes.setdefault(queue, Counter())
        lanes[lane] += number
        if not lanes[lane]:
            del lanes[lane]
        if not lanes:
            del self.lanes[queue]

    def take_loose(self) -> list[tuple[str, str]]:
        """The pairs to look at, once."""
        loose, self.loose = list(self.loose), {}
        return loose

    def changes(self) -> tuple[list[tuple[str, State, int]], list[Kind]]:
        """What the disk does not know yet: counts to write, and kinds that are empty now and are forgotten."""
        full = [(*kind, self.tasks[kind]) for kind in self.moved if self.tasks[kind]]
        empty = [kind for kind in self.moved if not self.tasks[kind]]
        for kind in empty:
            del self.tasks[kind]
        self.moved.clear()
        return full, empty
