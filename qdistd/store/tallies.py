"""How many tasks stand where, kept in memory beside the rows and changed with them.

    (line, state) ───> tasks   a line: the queue, and below it the labels that its tasks require
    (queue, key) ────> tasks   that have a place of a concurrency key: ready or leased ones

Both are also on disk, in the transaction that moves the rows. Whoever looks for work asks here first, and touches no
row in vain.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
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
        self._laned: Counter[Kind] = Counter()
        """Of each queue, those of its tasks that require labels."""
        self._lanes: dict[str, dict[str, dict[str, int]]] = {}
        """Ready ones of them, by queue, first label, and lane: so nobody looks at lanes that he has no label for."""
        self.totals: Counter[State] = Counter()
        """Tasks of all queues."""
        self._moved: set[Kind] = set()
        self._moved_places: set[Key] = set()
        self.loose: dict[Key, None] = {}

    def load(self, tasks: Iterable[tuple[str, int, int]], places: Iterable[tuple[str, str, int]]) -> None:
        """Begin anew with what the disk says: (line, state, tasks), (queue, key, tasks)."""
        for counts in (self._tasks, self._laned, self._lanes, self.totals):
            counts.clear()
        for line, state, number in tasks:
            self.add(line, State(state), number)
        self._places = Counter({(queue, key): number for queue, key, number in places})
        self._moved.clear()
        self._moved_places.clear()
        self.loose.clear()

    # -- changes

    def shift(self, line: str, old: State, new: State, number: int, key: str = "") -> None:
        """So many tasks of a line (and a concurrency key) go from one state to another."""
        self.add(line, old, -number, key)
        self.add(line, new, number, key)

    def add(self, line: str, state: State, number: int, key: str = "") -> None:
        """So many tasks more in a state (or, negative, less)."""
        self._tasks[line, state] += number
        self._moved.add((line, state))
        self.totals[state] += number
        if "\n" in line:
            self._add_to_lane(*split(line), state, number)
        if key and state in _HOLDING:
            self._hold((split(line)[0], key), number)

    def _add_to_lane(self, queue: str, lane: str, state: State, number: int) -> None:
        self._laned[queue, state] += number
        if not self._laned[queue, state]:
            del self._laned[queue, state]
        if state is State.READY:
            first = lane.partition("\n")[0]
            lanes = self._lanes.setdefault(queue, {}).setdefault(first, {})
            lanes[lane] = lanes.get(lane, 0) + number
            if not lanes[lane]:
                del lanes[lane]
            if not lanes:  # any client may think of any number of labels
                del self._lanes[queue][first]

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
        return self._tasks[queue, state] + self._laned[queue, state]

    def lanes_for(self, queue: str, labels: Collection[str]) -> dict[str, int]:
        """Ready tasks of the queue that require some of these labels and no others: lane → tasks."""
        lanes = self._lanes.get(queue)
        if not lanes:
            return {}
        firsts = labels if len(labels) < len(lanes) else lanes
        mine = (item for first in firsts if first in labels for item in lanes.get(first, {}).items())
        return {lane: tasks for lane, tasks in mine if all(label in labels for label in lane.split("\n"))}

    def ready_for(self, queue: str, labels: Collection[str]) -> int:
        """How many ready tasks of the queue somebody can take who has these labels."""
        plain = self._tasks[queue, State.READY]
        return plain + sum(self.lanes_for(queue, labels).values()) if queue in self._lanes else plain

    def ready_lines(self, most: int) -> list[tuple[str, str, int]]:
        """Some of the lines with ready tasks: (queue, lane, tasks)."""
        ready = (
            (*split(line), tasks) for (line, state), tasks in self._tasks.items() if state is State.READY and tasks
        )
        return list(islice(ready, most))

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
        return sum(tasks for state, tasks in self.totals.items() if state.final)

    def holding(self, queue: str, key: str) -> int:
        """How many tasks have a place of this key."""
        return self._places[queue, key]
