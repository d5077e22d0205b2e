"""What people ask a master and tell it to do: thin wrappers over `protocol`.

q.status() ──Status──> master ──StatusView──> q.status()
"""

import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdistd.client.background import Background
from qdistd.client.handle import Handle
from qdistd.client.options import task_id_of
from qdistd.model import State
from qdistd.protocol import (
    LARGEST_BATCH,
    Cancel,
    Drain,
    List,
    Listed,
    Pause,
    Queues,
    Retry,
    Schedules,
    Show,
    Status,
    StatusView,
    Switched,
    Workers,
)
from qdistd.upkeep import Purge, Purged
from qdistd.views import QueueView, ScheduleView, TaskView, WorkerView

if TYPE_CHECKING:
    from qdistd.store.checking import Checked

Ids = Iterable[str | uuid.UUID | Handle[Any]]
States = dict[str, State | None]


class Questions:
    """The side of `Client` that looks at tasks of whatever origin. Every call raises Unavailable, NotAllowed."""

    _background: Background

    def ask(self, question: Any, timeout: float | None = None) -> Any:
        """The answer to any question of `qdistd.protocol` that the key may ask.

        Waits `timeout` seconds (None: the client's own). Raises what the master answers, TimeoutError, Unavailable.
        """
        session = self._background.session
        return self._background.call(lambda: session.ask(question), timeout)

    def handle(self, task_id: str | uuid.UUID) -> Handle[Any]:
        """A handle for a task that was submitted elsewhere. Refused where `task_id` is none; asks nobody."""
        return Handle(self._background, task_id_of(task_id), None, watch=False)

    def result(self, task_id: str | uuid.UUID, timeout: float | None = None) -> Any:
        """The result of a task, whoever submitted it; see `Handle.result`. NotFound when the master has none such."""
        return self.handle(task_id).result(timeout)

    def cancel(self, tasks: Ids) -> States:
        """Cancel tasks; the state of each afterwards, None where there is no such task. Running ones end shortly."""
        return self._change(Cancel, tasks)

    def retry(self, tasks: Ids) -> States:
        """Failed, cancelled and quarantined tasks back to their queues, with fresh budgets; answers as `cancel`."""
        return self._change(Retry, tasks)

    def _change(self, verb: type[Cancel | Retry], tasks: Ids) -> States:
        ids = [task_id_of(task) for task in tasks]
        states: dict[bytes, State] = {}
        for start in range(0, len(ids), LARGEST_BATCH):
            states |= self.ask(verb(ids[start : start + LARGEST_BATCH])).states
        return {str(uuid.UUID(bytes=task_id)): states.get(task_id) for task_id in ids}

    def pause(self, *queues: str) -> Switched:
        """Have nothing more begin of these queues; what runs goes on. It outlives restarts of the master.

        Answers which were not paused before, and which nobody has heard of. NotAllowed without a key for `admin`, as
        for `resume`, `drain` and `undrain`.
        """
        return self._switch(Pause([*queues]))

    def resume(self, *queues: str) -> Switched:
        """The other way round: which were paused before."""
        return self._switch(Pause([*queues], on=False))

    def drain(self, *names: str) -> Switched:
        """Have nothing more begin on these workers, or on all workers of these hosts.

        What they run goes on. It holds for whoever has such a name later, too, until `undrain`.
        """
        return self._switch(Drain([*names]))

    def undrain(self, *names: str) -> Switched:
        """The other way round: which were drained before."""
        return self._switch(Drain([*names], on=False))

    def _switch(self, question: Pause | Drain) -> Switched:
        switched: Switched = self.ask(question)
        return switched

    def show(self, task: str | uuid.UUID | Handle[Any]) -> TaskView:
        """Everything about one task. NotFound when the master has none such."""
        view: TaskView = self.ask(Show(task_id_of(task)))
        return view

    def list(
        self, states: Sequence[State] = (), queue: str = "", name: str = "", before: int = 0, limit: int = 100
    ) -> Listed:
        """A page of tasks, newest first. The page after it starts at its `before` (0: there is none)."""
        page: Listed = self.ask(List([*states], queue, name, before, limit))
        return page

    def queues(self) -> "Sequence[QueueView]":
        """All queues, and how many of their tasks stand where."""
        queues: Sequence[QueueView] = self.ask(Queues()).queues
        return queues

    def workers(self) -> "Sequence[WorkerView]":
        """All workers the master has heard of lately."""
        workers: Sequence[WorkerView] = self.ask(Workers()).workers
        return workers

    def schedules(self) -> "Sequence[ScheduleView]":
        """What the master submits by the clock: when each is due next, and what became of its last task."""
        schedules: Sequence[ScheduleView] = self.ask(Schedules()).schedules
        return schedules

    def purge(
        self,
        older_than: float = 0.0,
        *,
        states: Sequence[State] = (),
        queue: str = "",
        name: str = "",
        dry_run: bool = False,
        told: Callable[[int], None] = lambda _tasks: None,
    ) -> int:
        """Delete tasks that ended at least so many seconds ago, with their results; how many (`dry_run`: would be).

        No `states`: however they ended. What has not ended is never touched. `told` hears of the tasks of each step.
        """
        purge = Purge(older_than, 0.0, list(states), queue, name, dry=dry_run)
        tasks = 0
        while True:
            done: Purged = self.ask(purge)
            tasks += done.tasks
            told(done.tasks)
            purge.before, purge.cursor = done.before, done.cursor
            if not done.cursor:
                return tasks

    def backup(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        told: Callable[[int, int], None] = lambda _done, _of: None,
    ) -> "Checked":
        """Write a copy of all that the master has to a new file here, consistent and checked, while it serves.

        Refused where the file is there, unless `overwrite`; Overloaded while another backup is made. Whatever goes
        wrong leaves no file. `told` hears how much is done, of how much.
        """
        from qdistd.client.backup import fetch  # with SQLite, which nothing else here needs

        return fetch(self.ask, Path(path), overwrite=overwrite, told=told)

    def status(self) -> StatusView:
        """How the master is."""
        view: StatusView = self.ask(Status())
        return view
