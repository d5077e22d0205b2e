"""How many tasks stand where, kept in memory beside the rows and changed with them.

    (line, state) ───> tasks   a line: the queue, and below it the labels that its tasks require
    (queue, key) ────> tasks   that have a place of a concurrency key: ready or leased ones

Both are also on disk, in the transaction that moves the rows. Whoever looks for work asks here first, and touches no
row in vain.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from qdistd.model import State

Kind = tuple[str, State]
Key = tuple[str, str]

_HOLDING = frozenset({State.READY, State.LEASED})


def line_of(queue: str, lane: str) -> str:
    """Where a task stands in line. `lane`: the labels that it requires, see `lane_of`."""
    return f"{queue}\n{lane}" if lane else queue


def split(line: str) -> tuple[str, str]:
    """The queue and the lane of a line."""
    queue, _, lane = line.partition("\n")
    return queue, lane


class Changes(NamedTuple):
    """What the disk does not know yet: counts to write, and those that are none any more."""

    tasks: list[tuple[str, State, int]]
    no_tasks: list[Kind]
    places: list[tuple[str, str, int]]
    no_places: list[Key]


class Tally:
    """Counts of a store. `loose`: keys where a place may have become free, or is wanted."""

    def __init__(self) -> None:
        self._tasks: Counter[Kind] = Counter()
        self._places: Counter[Key] = Counter()
        self._lanes: dict[str, set[str]] = {}
        """The lines of a queue that require labels, by their lanes."""
        self.blocked = 0
        """Tasks of all queues that wait for others."""
        self._moved: set[Kind] = set()
        self._moved_places: set[Key] = set()
        self.loose: dict[Key, None] = {}

    def load(self, tasks: Iterable[tuple[str, int, int]], places: Iterable[tuple[str, str, int]]) -> None:
        """Begin anew with what the disk says: (line, state, tasks), (queue, key, tasks)."""
        self._tasks = Counter({(line, State(state)): number for line, state, number in tasks})
        self._places = Counter({(queue, key): number for queue, key, number in places})
        self.blocked = sum(number for (_, state), number in self._tasks.items() if state is State.BLOCKED)
        self._lanes = {}
        for line, _ in self._tasks:
            self._note_lane(line)
        self._moved.clear()
        self._moved_places.clear()
        self.loose.clear()

    def _note_lane(self, line: str) -> None:
        queue, lane = split(line)
        if lane:
            self._lanes.setdefault(queue, set()).add(lane)

    # -- changes

    def shift(self, line: str, old: State, new: State, number: int, key: str = "") -> None:
        """So many tasks of a line (and a concurrency key) go from one state to another."""
        self.add(line, old, -number, key)
        self.add(line, new, number, key)

    def add(self, line: str, state: State, number: int, key: str = "") -> None:
        """So many tasks more in a state (or, negative, less)."""
        self._tasks[line, state] += number
        self._moved.add((line, state))
        if state is State.BLOCKED:
            self.blocked += number
        if "\n" in line:
            self._note_lane(line)
        if key and state in _HOLDING:
            self._hold((split(line)[0], key), number)

    def _hold(self, key: Key, number: int) -> None:
        self._places[key] += number
        self._moved_places.add(key)
        if number < 0:
            self.loose[key] = None

    def take_loose(self) -> list[Key]:
        """The keys to look at, once."""
        loose, self.loose = list(self.loose), {}
        return loose

    def changes(self) -> Changes:
        """See `Changes`. What is empty is forgotten."""
        changes = Changes(
            [(*kind, self._tasks[kind]) for kind in self._moved if self._tasks[kind]],
            [kind for kind in self._moved if not self._tasks[kind]],
            [(*key, self._places[key]) for key in self._moved_places if self._places[key]],
            [key for key in self._moved_places if not self._places[key]],
        )
        for kind in changes.no_tasks:
            del self._tasks[kind]
        for key in changes.no_places:
            del self._places[key]
        self._moved.clear()
        self._moved_places.clear()
        return changes

    # -- questions

    def count(self, queue: str, state: State) -> int:
        """How many tasks of the queue are in that state."""
        lanes = self._lanes.get(queue)
        if not lanes:
            return self._tasks[queue, state]
        return self._tasks[queue, state] + sum(self._tasks[line_of(queue, lane), state] for lane in lanes)

    def lanes(self, queue: str) -> dict[str, int]:
        """Ready tasks of the queue that require labels: lane → tasks."""
        lanes = self._lanes.get(queue)
        if not lanes:
            return {}
        ready = {lane: self._tasks[line_of(queue, lane), State.READY] for lane in lanes}
        return {lane: tasks for lane, tasks in ready.items() if tasks}

    def counts(self) -> Mapping[str, dict[State, int]]:
        """Queue → state → tasks."""
        counts: dict[str, dict[State, int]] = {}
        for (line, state), tasks in self._tasks.items():
            if tasks:
                states = counts.setdefault(split(line)[0], {})
                states[state] = states.get(state, 0) + tasks
        return counts

    def ended(self) -> int:
        """How many tasks have ended."""
        return sum(tasks for (_, state), tasks in self._tasks.items() if state.final)

    def holding(self, queue: str, key: str) -> int:
        """How many tasks have a place of this key."""
        return self._places[queue, key]
