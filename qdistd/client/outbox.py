"""Tasks on their way to the master's disk.

    append (any thread) ─> waiting ──cut──> Batch ──Submit──> flying ──Accepted──> gone
                                              ^────── the link broke ───┤
                                              └─ postponed <─Overloaded─┘ (of those who are patient)

A batch stays what it was cut to be until the master has acknowledged it: after a broken link the very same bytes go
out again, and the ids in them make that harmless.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from qdistd.errors import QdistError, again
from qdistd.model import Result, Task
from qdistd.protocol import LARGEST_BATCH, MOST_LINKS

BATCH_BYTES = 1024 * 1024
"""Payload in one request, unless a single task has more: some milliseconds of a gigabit line."""

REMEMBERED = 1000
"""Refused tasks that `flush` can still name; more of them are the same mistake again."""


class Entry:
    """One task on its way, and whoever hears how it ends.

    `task` is there until the master has it on disk. `watch`: its end shall be heard. `patient`: it is submitted again
    where the master is overloaded. `merged`: it became another task, of which `task_id` is the id since then.
    `seen`: its failure has been told to somebody. `twin`: another entry of the same task (two submits with one key).
    """

    __slots__ = ("merged", "patient", "seen", "task", "task_id", "twin", "watch")

    def __init__(self, task_id: bytes, task: Task | None, watch: bool, patient: bool = False) -> None:
        self.task_id = task_id
        self.task = task
        self.watch = watch
        self.patient = patient
        self.merged = False
        self.seen = False
        self.twin: Entry | None = None

    def ended(self, result: Result) -> None:
        """The task has ended. May be said twice; the first counts. Runs in the loop."""
        raise NotImplementedError

    def failed(self, error: QdistError) -> None:
        """There will be no end to hear: it was refused, or the session is over. As `ended`."""
        raise NotImplementedError


class Parcel(Entry):
    """Several entries that the master stores together or not at all. `error`: why it has not."""

    __slots__ = ("entries", "error")

    def __init__(self, entries: list[Entry]) -> None:
        super().__init__(b"", None, all(entry.watch for entry in entries), all(entry.patient for entry in entries))
        self.entries = entries
        self.error: QdistError | None = None

    def failed(self, error: QdistError) -> None:
        """None of it is stored."""
        self.error = error
        for entry in self.entries:
            entry.failed(error)


class Batch:
    """The tasks of one request. `parcel`: where it is one, and so all of them or none.

    `tries`: how often an overloaded master was asked again; `until`: loop time when that ends.
    """

    __slots__ = ("_done", "entries", "parcel", "size", "tasks", "tries", "until", "watch")

    def __init__(self, watch: bool, parcel: Parcel | None = None) -> None:
        self.entries: list[Entry] = []
        self.tasks: list[Task] = []
        self.size = 0
        self.watch = watch
        self.parcel = parcel
        self.tries = 0
        self.until: float | None = None
        self._done: asyncio.Future[None] | None = None

    def hold(self, entries: Iterable[Entry]) -> None:
        """Consist of these entries."""
        self.entries = list(entries)
        self.tasks = [entry.task for entry in self.entries if entry.task is not None]
        self.size = sum(len(task.payload) for task in self.tasks)

    def has(self, entry: Entry) -> bool:
        """Whether it carries this entry, or is this parcel."""
        return entry is self.parcel or entry in self.entries

    def done(self) -> asyncio.Future[None]:
        """Ready once the master has answered, whatever it said."""
        if self._done is None:
            self._done = asyncio.get_running_loop().create_future()
        return self._done

    def close(self) -> None:
        """The master has answered, or never will."""
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


class Outbox:
    """Everything the master has not acknowledged. Only `waiting` may be appended to from another thread."""

    def __init__(self) -> None:
        self.waiting: deque[Entry] = deque()
        self.tasks = 0
        """Tasks that are cut and not acknowledged."""
        self.bytes = 0
        """Payload of those."""
        self._ready: deque[Batch] = deque()
        self._flying: dict[Batch, None] = {}
        self._postponed: dict[Batch, None] = {}

    def __len__(self) -> int:
        return len(self.waiting) + self.tasks

    @property
    def requests(self) -> int:
        """Batches that are on the wire, or next to be."""
        return len(self._ready) + len(self._flying)

    def cut(self, least: int) -> Iterator[Batch]:
        """Make batches of what waits, as long as `least` tasks or more do."""
        while len(self.waiting) >= least:
            batch = self._cut_one()
            self.tasks += len(batch.tasks)
            self.bytes += batch.size
            self._ready.append(batch)
            yield batch

    def _cut_one(self) -> Batch:
        waiting = self.waiting
        if isinstance(waiting[0], Parcel):
            return _whole(waiting.popleft())
        batch = Batch(waiting[0].watch)
        entries, tasks, size, links = batch.entries, batch.tasks, 0, 0
        while waiting and len(tasks) < LARGEST_BATCH and waiting[0].watch is batch.watch:
            task = waiting[0].task
            if task is None:  # a parcel, which travels alone
                break
            size += len(task.payload)
            links += len(task.after)
            if tasks and (size > BATCH_BYTES or links > MOST_LINKS):
                break
            batch.size = size
            tasks.append(task)
            entries.append(waiting.popleft())
        return batch

    def fly(self, most: int) -> Iterator[Batch]:
        """The batches to send now, so that no more than `most` are unanswered."""
        while self._ready and len(self._flying) < most:
            batch = self._ready.popleft()
            self._flying[batch] = None
            yield batch

    def ground(self) -> None:
        """The link broke: what was flying goes out again, first and in its old order."""
        self._ready.extendleft(reversed(self._flying))
        self._flying.clear()

    def land(self, batch: Batch, again: Sequence[Entry] = ()) -> None:
        """The master has answered for the batch. Those that shall go out `again` stay in it until `resume`."""
        del self._flying[batch]
        self.tasks -= len(batch.tasks)
        self.bytes -= batch.size
        if not again:
            batch.close()
            return
        batch.hold(again)
        self.tasks += len(batch.tasks)
        self.bytes += batch.size
        self._postponed[batch] = None

    @property
    def postponed(self) -> bool:
        """Whether something waits for the master to be less busy."""
        return bool(self._postponed)

    def resume(self, batch: Batch) -> None:
        """What was postponed goes out again, unless it was given up meanwhile."""
        if batch in self._postponed:
            del self._postponed[batch]
            self._ready.append(batch)

    def unanswered(self) -> list[Batch]:
        """Every batch that is cut."""
        return [*self._flying, *self._ready, *self._postponed]

    def clear(self) -> list[Entry]:
        """Give up: empty the box and return what was in it."""
        batches = self.unanswered()
        entries: list[Entry] = []
        for batch in batches:
            entries += batch.entries if batch.parcel is None else [batch.parcel]
        while self.waiting:
            entries.append(self.waiting.popleft())
        self._ready.clear()
        self._flying.clear()
        self._postponed.clear()
        self.tasks = self.bytes = 0
        for batch in batches:
            batch.close()
        return entries


def _whole(parcel: Entry) -> Batch:
    assert isinstance(parcel, Parcel)
    batch = Batch(parcel.watch, parcel)
    batch.hold(parcel.entries)
    return batch


class Refusals:
    """Tasks that were not stored, until `flush` has said so or their own handles have."""

    def __init__(self) -> None:
        self._refused: list[tuple[Entry, QdistError]] = []

    def add(self, entry: Entry, error: QdistError) -> None:
        """A task was refused; its entry hears of it."""
        if len(self._refused) < REMEMBERED:
            self._refused.append((entry, error))
        entry.failed(error)

    def check(self) -> None:
        """Raise what nobody has heard of yet: the first error, with the number of the others."""
        unheard = [error for entry, error in self._refused if not entry.seen]
        self._refused.clear()
        if not unheard:
            return
        first = unheard[0]
        more = f" (and {len(unheard) - 1} more tasks were not stored)" if len(unheard) > 1 else ""
        raise again(first, f"{first}{more}")
