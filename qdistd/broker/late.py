"""The last words of tasks that have ended: those who look on shall not miss what came with the end.

a worker's report: progress, partial results, and the end of the task ──kept for a while──> who looks a moment later
"""

from collections import deque
from math import isfinite

from qdistd.model import MOST_OUTPUT, Progress, Said

MOST_PARTIALS = 1000
MOST_PARTIAL_BYTES = 1024 * 1024
"""Partial results of one running task that are kept, and their bytes: whoever looks on is there while it runs."""

MOST_TASKS = 10_000
MOST_BYTES = 32 * 1024 * 1024
"""Tasks whose last words are kept, and the bytes of these, however many workers there are: more than end between two
looks."""


class Live:
    """What a running task has printed (its end), and told of itself (the latest of it)."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.progress: Progress | None = None
        self.partials: deque[bytes] = deque()
        self.partials_before = 0
        self.size = 0
        """Bytes of the partial results."""

    def hear(self, said: Said) -> None:
        """There is more of it."""
        self.output += said.output
        del self.output[:-MOST_OUTPUT]
        if said.progress and isfinite(said.progress.done) and isfinite(said.progress.total):
            self.progress = said.progress
        self.partials += said.partials
        self.size += sum(map(len, said.partials))
        while self.partials and (self.size > MOST_PARTIAL_BYTES or len(self.partials) > MOST_PARTIALS):
            self.size -= len(self.partials.popleft())
            self.partials_before += 1

    @property
    def told(self) -> bool:
        """Whether there is something that the store does not have."""
        return self.progress is not None or bool(self.partials)


class Late:
    """What the latest tasks have told of themselves. In memory, as all of it is."""

    def __init__(self) -> None:
        self._tasks: dict[bytes, tuple[int, Live]] = {}
        self._size = 0

    def keep(self, task_id: bytes, attempt: int, live: Live) -> None:
        """This attempt is over. Its output stands in the store."""
        live.output.clear()
        self._drop(task_id)
        self._tasks[task_id] = attempt, live
        self._size += live.size
        while len(self._tasks) > MOST_TASKS or self._size > MOST_BYTES:
            self._drop(next(iter(self._tasks)))

    def of(self, task_id: bytes, attempt: int) -> Live | None:
        """What this attempt has told, if that is still here."""
        known, live = self._tasks.get(task_id, (0, None))
        return live if known == attempt else None

    def _drop(self, task_id: bytes) -> None:
        _, live = self._tasks.pop(task_id, (0, None))
        self._size -= live.size if live else 0
