"""A handle: one submitted task, as its submitter holds it.

    submit ──> Handle ──ended──> result() · exception()
                  └─ watchers: whoever waits right now

There may be hundreds of thousands of them, so a handle is a few words of memory, its result stays encoded until it
is asked for, and it gets a lock only while somebody waits for it.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

from qdistd.call import decode_failure, decode_value
from qdistd.client.background import Background, Patience
from qdistd.client.outbox import Entry
from qdistd.client.partials import partials
from qdistd.errors import (
    NotFound,
    QdistError,
    TaskCancelled,
    TaskFailed,
    TaskQuarantined,
    again,
)
from qdistd.model import Failure, Progress, Result, State, Task, id_text
from qdistd.protocol import Cancel, Cancelled, Show
from qdistd.views import TaskView

R = TypeVar("R")

Watcher = Callable[["Handle[Any]"], None]

_RAISED: dict[State, type[TaskFailed]] = {
    State.CANCELLED: TaskCancelled,
    State.QUARANTINED: TaskQuarantined,
}


class RemoteTraceback(Exception):
    """The traceback of a task, as text: the cause of the `TaskFailed` that it led to."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Handle(Entry, Generic[R]):
    """One task. Made by `submit`; hashable, comparable by identity, not to be sent anywhere (send its `id`)."""

    __slots__ = ("_background", "_end", "_watchers")

    def __init__(
        self, background: Background, task_id: bytes, task: Task | None, watch: bool, patient: bool = False
    ) -> None:
        self.task_id = task_id
        self.task = task
        self.watch = watch
        self.patient = patient
        self.merged = False
        self.seen = False
        self.twin = None
        self._background = background
        self._end: Result | QdistError | None = None
        self._watchers: list[Watcher] | None = None

    @property
    def id(self) -> str:
        """The id of the task, as text: `qdist show` and `Client.result` of any process take it.

        That of a unique task may change once, with the acknowledgement: `merged` is true then, and this is the handle
        of the task that was there before.
        """
        return id_text(self.task_id)

    @property
    def parents(self) -> "tuple[Handle[Any], ...]":
        """The handles of the tasks that this one comes after, where it belongs to a chain or a group."""
        return ()

    @property
    def attempt(self) -> int:
        """The attempt whose result was accepted: above 1 the task was started more than once. 0 until it has ended."""
        return self._end.attempt if isinstance(self._end, Result) else 0

    def done(self) -> bool:
        """Whether the end of the task is known here. Asks nobody."""
        return self._end is not None

    def result(self, timeout: float | None = None) -> R:
        """What the task returned.

        Waits up to `timeout` seconds (None: as long as it takes). Raises TaskFailed, TaskCancelled or
        TaskQuarantined for a task that ended without a result, Refused (TooLarge…) or Overloaded for one that the
        master did not take, TimeoutError when it has not ended in time, and Unavailable when no master could be
        reached: within `timeout`, or for the client's own timeout on end.
        """
        self.wait(timeout)
        error = self._error()
        if error is not None:
            raise error
        return cast(R, decode_value(cast(Result, self._end).value))

    def exception(self, timeout: float | None = None) -> QdistError | None:
        """What `result` would raise for the end of this task, or None. Waits and times out as `result` does."""
        self.wait(timeout)
        return self._error()

    def wait(self, timeout: float | None = None) -> None:
        """Return once the task has ended, well or not. Times out as `result` does."""
        if self._end is not None:
            return
        ended = threading.Lock()
        ended.acquire()

        def release(_: "Handle[Any]") -> None:
            ended.release()

        patience = Patience([self._background], timeout, f"the result of {self.id}")
        self.add_watcher(release)
        try:
            while not ended.acquire(timeout=patience()):
                pass
        finally:
            self.remove_watcher(release)

    def state(self) -> State:
        """Where the task stands; asks the master unless it has ended. NotFound when the master has no such task."""
        end = self._end
        return end.state if isinstance(end, Result) else self._show().state

    def cancel(self) -> bool:
        """Cancel the task: whether that comes in time. A running one is stopped by its worker within moments.

        NotFound when the master has no such task.
        """
        if isinstance(self._end, Result):
            return self._end.state == State.CANCELLED
        answer: Cancelled = self._ask(_cancel)
        if self.task_id in answer.unknown:
            raise NotFound(f"there is no task {self.id}")
        state = answer.states[self.task_id]
        return state == State.CANCELLED or not state.final

    def progress(self) -> Progress | None:
        """How far the running attempt says it is (`qdistd.progress` in the task); None where it has said nothing.

        NotFound when the master has no such task.
        """
        return self._show().progress

    def why(self) -> str:
        """Why the task does not run now: one sentence, or nothing where there is nothing to say. As `progress`."""
        return self._show().why

    def partials(self) -> Iterator[Any]:
        """What the task hands out while it runs (`qdistd.partial` in the task), until it has ended, well or not.

        An attempt that follows another begins anew, with its own first partial result. The master keeps the latest
        of the running attempt, in memory: whoever comes late misses those before. As `progress`.
        """
        return partials(self._show, self._rest)

    def cancel_soon(self) -> None:
        """Cancel the task, as soon as the master has it, and do not wait for its answer."""
        self._background.post(self._background.session.ask_about(self, _cancel))

    def settled_id(self) -> bytes:
        """The id of the task for others to refer to: that of a unique one is certain once it is acknowledged.

        Waits for that. Unavailable or TimeoutError when it takes too long.
        """
        session = self._background.session
        if self.task is not None and self.task.unique:
            self._background.call(lambda: session.stored(self))
        return self.task_id

    def _show(self) -> TaskView:
        if isinstance(self._end, QdistError):
            raise again(self._end)
        view: TaskView = self._ask(Show)
        return view

    def _rest(self, seconds: float) -> None:
        """Wait a little, or until the task has ended."""
        with contextlib.suppress(TimeoutError):
            self.wait(seconds)

    def _ask(self, question: Callable[[bytes], Any]) -> Any:
        session = self._background.session
        return self._background.call(lambda: session.ask_about(self, question))

    def __repr__(self) -> str:
        end = self._end
        if end is None:
            return f"<qdistd.Handle {self.id}>"
        return f"<qdistd.Handle {self.id} {end.state.word if isinstance(end, Result) else end.code}>"

    # -- for those who wait

    def add_watcher(self, watcher: Watcher) -> None:
        """Have `watcher` called with this handle when the task ends, or now.

        It runs in the client's own thread, which everybody waits for: it must neither wait nor raise.
        """
        self._background.check()
        with self._background.lock:
            ended = self._end is not None
            if not ended:
                self._watchers = [*(self._watchers or ()), watcher]
        if ended:
            watcher(self)
        elif not self.watch:
            self._background.watch(self)

    def remove_watcher(self, watcher: Watcher) -> None:
        """Forget a watcher."""
        with self._background.lock:
            self._watchers = [other for other in self._watchers or () if other is not watcher] or None

    def ended(self, result: Result) -> None:
        """Called by the session."""
        self._set_end(result)

    def failed(self, error: QdistError) -> None:
        """Called by the session."""
        self._set_end(error)

    def _set_end(self, end: Result | QdistError) -> None:
        with self._background.lock:
            if self._end is not None:
                return
            self._end = end
            watchers, self._watchers = self._watchers, None
        if watchers is not None:
            for watcher in watchers:
                watcher(self)

    def _error(self) -> QdistError | None:
        end = self._end
        assert end is not None
        if isinstance(end, Result):
            return None if end.state == State.SUCCEEDED else _failure_of(end)
        self.seen = True
        return again(end)


class Waited(NamedTuple):
    """What `wait` returns: the handles whose tasks have ended, and the others."""

    done: set[Handle[Any]]
    not_done: set[Handle[Any]]


def as_completed(handles: Iterable[Handle[R]], timeout: float | None = None) -> Iterator[Handle[R]]:
    """The handles, each as soon as its task has ended, well or not.

    TimeoutError when `timeout` seconds after the first call some have not; Unavailable as in `Handle.result`.
    """
    pending = dict.fromkeys(handles)
    if not pending:
        return
    patience = Patience({handle._background for handle in pending}, timeout, f"the end of {len(pending)} tasks")
    arrived: queue.SimpleQueue[Handle[R]] = queue.SimpleQueue()
    tell = arrived.put  # one object, by which it is found again
    try:
        for handle in pending:
            handle.add_watcher(tell)
        while pending:
            handle = _next(arrived, patience)
            del pending[handle]
            yield handle
    finally:
        for handle in pending:
            handle.remove_watcher(tell)


def wait(handles: Iterable[Handle[Any]], timeout: float | None = None) -> Waited:
    """Wait until all the tasks have ended, or until `timeout` seconds are over: those that have, those that have not.

    Unavailable as in `Handle.result`.
    """
    waited = Waited(set(), set(handles))
    try:
        for handle in as_completed(list(waited.not_done), timeout):
            waited.done.add(handle)
            waited.not_done.discard(handle)
    except TimeoutError:
        pass
    return waited


def cancel_all(handles: Sequence[Handle[Any]]) -> int:
    """Cancel tasks that were submitted together, in one go: how many that comes in time for."""
    if not handles:
        return 0
    answer: Cancelled = handles[0]._ask(lambda _: Cancel([handle.task_id for handle in handles]))
    return sum(state == State.CANCELLED or not state.final for state in answer.states.values())


def _cancel(task_id: bytes) -> Cancel:
    return Cancel([task_id])


def _next(arrived: "queue.SimpleQueue[Handle[R]]", patience: Patience) -> Handle[R]:
    while True:
        try:
            return arrived.get_nowait()
        except queue.Empty:
            nap = patience()
        try:
            return arrived.get(timeout=nap)
        except queue.Empty:
            continue


def _failure_of(end: Result) -> TaskFailed:
    """The error that a task's end stands for, with the traceback of the child as its cause."""
    failure = decode_failure(end.value) if end.value else Failure(end.state.word, "")
    attempt = f", attempt {end.attempt}" if end.attempt > 1 else ""
    what = ": ".join(filter(None, (failure.type or failure.kind, failure.message)))
    error = _RAISED.get(end.state, TaskFailed)(f"{what} (task {id_text(end.id)}{attempt})", failure)
    if failure.traceback:
        error.__cause__ = RemoteTraceback(failure.traceback)
    return error
