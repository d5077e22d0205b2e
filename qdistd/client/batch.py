"""Transactions: many tasks in one submit, of which the master stores all or none.

with q.batch() as batch:     batch.submit(…) ──> held here ──end of the block──> one request, one commit
                                                   └────an exception in it──> dropped, nothing was sent
"""

from typing import TYPE_CHECKING, Any

from qdistd.client.background import Background
from qdistd.client.handle import Handle, Watcher
from qdistd.client.outbox import Entry, Parcel
from qdistd.errors import Refused, TooLarge, again
from qdistd.model import Task
from qdistd.protocol import LARGEST_BATCH, LARGEST_FRAME

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST_PARCEL = LARGEST_FRAME // 2
"""Bytes of arguments in one batch: with all that surrounds them they fit into one frame."""


class Held(Handle[Any]):
    """The handle of a task that is submitted with others. Until then nobody can wait for it."""

    __slots__ = ("_load", "_parents")

    def __init__(self, background: Background, task: Task, load: "Load", *, watch: bool, patient: bool) -> None:
        super().__init__(background, task.id, task, watch, patient)
        self._load = load
        self._parents: tuple[Handle[Any], ...] = ()

    @property
    def parents(self) -> tuple[Handle[Any], ...]:
        """See `Handle.parents`."""
        return self._parents

    def come_after(self, parents: "tuple[Handle[Any], ...]") -> None:
        """Remember whose results it waits for."""
        self._parents = parents

    def add_watcher(self, watcher: Watcher) -> None:
        """See `Handle.add_watcher`; Refused before the end of the block."""
        self._load.check_sent()
        super().add_watcher(watcher)

    def settled_id(self) -> bytes:
        """See `Handle.settled_id`. In its own batch the master finds out by itself which task it became."""
        return self.task_id if self._load.open else super().settled_id()

    def _ask(self, question: "Callable[[bytes], Any]") -> Any:
        self._load.check_sent()
        return super()._ask(question)


class Load:
    """What gathers in a batch, shared by all views of it."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._entries: list[Entry] = []
        self._size = 0
        self._parcel: Parcel | None = None
        self.open = True
        """Whether tasks may still be added; nothing has been sent then."""

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, task: Task, *, watch: bool, patient: bool) -> Held:
        """One more task. Refused when there is no room, or after the end of the block."""
        if not self.open:
            raise Refused("this batch is over: its tasks were submitted, or dropped, at the end of its block")
        if len(self._entries) == LARGEST_BATCH:
            raise Refused(f"a batch has {LARGEST_BATCH} tasks at most, for they are stored in one transaction")
        self._size += len(task.payload)
        if self._size > LARGEST_PARCEL:
            raise TooLarge(f"a batch has {LARGEST_PARCEL:,} bytes of arguments at most: send paths of files")
        handle = Held(self._background, task, self, watch=watch, patient=patient)
        self._entries.append(handle)
        return handle

    def send(self) -> None:
        """Submit it all. Raises the refusal, or Unavailable or TimeoutError where nobody knows yet."""
        self.open = False
        if not self._entries:
            return
        parcel = Parcel(self._entries)
        try:
            self._background.check_may_wait()
            self._background.hand_over(parcel)
            self._parcel = parcel
        finally:
            if self._parcel is None:
                self.drop()
        self.flush(None)

    def flush(self, timeout: float | None) -> None:
        """Wait for the master's answer, and raise it where it is a refusal."""
        parcel, session = self._parcel, self._background.session
        if parcel is None:
            return
        if session.broken is None:
            self._background.call(lambda: session.stored(parcel), timeout)
        if parcel.error is not None:
            parcel.seen = True
            raise again(parcel.error)

    def drop(self) -> None:
        """Forget it all: nothing was sent, and nothing will be."""
        self.open = False
        for entry in self._entries:
            entry.failed(Refused("this task was never submitted: an exception has ended its batch"))

    def check_sent(self) -> None:
        """Refused while nothing has been sent."""
        if self.open:
            raise Refused("the tasks of a batch are submitted at the end of its block: wait for them after it")
