"""Tasks whose end somebody wants to hear.

    add ─────────> entries ──Finished──> Entry.ended
    ask ─> fresh ─────^            └───> Entry.failed (the master knows no such task)

What a `Submit` with `watch` carried needs no further word on the same connection. What is `fresh` must be named in a
`Wait`: ids of other processes, and after a broken link everything that the old connection had been told.
"""

from collections import deque

from qdistd.client.outbox import Entry
from qdistd.errors import NotFound
from qdistd.model import Result, id_text


class Watchlist:
    """Entries by task id."""

    def __init__(self) -> None:
        self.fresh: deque[bytes] = deque()
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """Watch a task that goes out with `watch`."""
        entry.twin = self._entries.get(entry.task_id)
        self._entries[entry.task_id] = entry

    def ask(self, entry: Entry) -> None:
        """Watch a task that the master has, or should have."""
        self.add(entry)
        self.fresh.append(entry.task_id)

    def ask_again(self) -> None:
        """A new connection knows nothing: name every stored task. The others come with their batches."""
        self.fresh = deque(task_id for task_id, entry in self._entries.items() if entry.task is None)

    def take(self, most: int) -> list[bytes]:
        """The ids to name next."""
        return [self.fresh.popleft() for _ in range(min(most, len(self.fresh)))]

    def ended(self, result: Result) -> None:
        """A task has ended. One that nobody watches any more is passed over."""
        for entry in self._take_chain(result.id):
            entry.ended(result)

    def missing(self, task_id: bytes) -> None:
        """The master has no such task."""
        for entry in self._take_chain(task_id):
            entry.failed(NotFound(f"there is no task {id_text(task_id)}: it never came, or its retention is over"))

    def remove(self, entry: Entry) -> None:
        """Forget one entry; its twins stay, and are named again, for it may have been this one that was watched."""
        for twin in self._take_chain(entry.task_id):
            if twin is not entry:
                self.ask(twin)

    def clear(self) -> list[Entry]:
        """Give up: empty the list and return what was on it."""
        self.fresh.clear()
        return [entry for task_id in list(self._entries) for entry in self._take_chain(task_id)]

    def _take_chain(self, task_id: bytes) -> list[Entry]:
        """Take the entries of a task off the list."""
        entry = self._entries.pop(task_id, None)
        if entry is None:
            return []
        chain = [entry]
        while (entry := entry.twin) is not None:
            chain[-1].twin = None
            chain.append(entry)
        return chain
