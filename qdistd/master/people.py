"""The verbs of people: look at what there is, cancel, try again."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from msgspec.structs import replace

from qdistd import protocol as say
from qdistd.broker import Broker, Flow, Live, Seat
from qdistd.errors import NotFound
from qdistd.master.guest import Guest
from qdistd.model import State, id_text
from qdistd.neighbours import state_for, view_for
from qdistd.store import Page, Store
from qdistd.views import QueueView, TaskView


class Put(Protocol):
    """Have `run` done by the writer, and `answer` called with what it returned; `weight`: tasks it touches."""

    def __call__(
        self, guest: Guest, number: int, run: Callable[[], Any], answer: Callable[[Any], None], weight: int = 1
    ) -> None: ...


class People:
    """`verbs` serves them by their word. `ordered` is told which workers have an order to hear."""

    def __init__(
        self,
        broker: Broker,
        store: Store,
        *,
        status: Callable[[], say.StatusView],
        put: Put,
        ordered: Callable[[Iterable[Seat]], None],
    ) -> None:
        self._broker = broker
        self._store = store
        self._status = status
        self._put = put
        self._ordered = ordered
        self.verbs: dict[str, Callable[[Guest, int, Any], None]] = {
            "cancel": self._cancel,
            "retry": self._retry,
            "show": self._show,
            "list": self._list,
            "queues": self._queues,
            "workers": self._workers,
            "status": self._say_status,
            "pause": self._pause,
            "drain": self._drain,
        }

    def _cancel(self, guest: Guest, number: int, cancel: say.Cancel) -> None:
        def answer(done: tuple[dict[bytes, State], list[Seat]]) -> None:
            states, seats = done
            guest.peer.answer(number, _cancelled(guest, cancel.ids, states))
            self._ordered(seats)

        self._put(guest, number, lambda: self._broker.cancel(cancel.ids), answer, len(cancel.ids))

    def _retry(self, guest: Guest, number: int, retry: say.Retry) -> None:
        def answer(states: dict[bytes, State]) -> None:
            guest.peer.answer(number, _cancelled(guest, retry.ids, states))

        self._put(guest, number, lambda: self._broker.retry(retry.ids), answer, len(retry.ids))

    def _show(self, guest: Guest, number: int, show: say.Show) -> None:
        def run() -> TaskView:
            view = self._store.view(show.id)
            if view is None:
                raise NotFound(f"there is no task {id_text(show.id)}: it never came, or its retention is over")
            return replace(_live(view, self._broker.live(view.id, view.attempt)), why=self._broker.why(view))

        self._put(guest, number, run, lambda view: guest.peer.answer(number, view_for(guest.version, view)))

    def _list(self, guest: Guest, number: int, ask: say.List) -> None:
        page = Page(ask.states, ask.queue, ask.name, ask.before, ask.limit)

        def answer(found: tuple[list[TaskView], int]) -> None:
            views, before = found
            guest.peer.answer(number, say.Listed([view_for(guest.version, view) for view in views], before))

        self._put(guest, number, lambda: self._store.page(page), answer, ask.limit)

    def _queues(self, guest: Guest, number: int, _: say.Queues) -> None:
        guest.peer.answer(number, say.QueueList(queue_views(self._store, self._broker.flow)))

    def _pause(self, guest: Guest, number: int, pause: say.Pause) -> None:
        def run() -> say.Switched:
            known = {*self._store.counts(), *self._broker.settings.queues, *self._broker.flow.paused}
            known.update(*(worker.queues for worker in self._broker.workers()))
            changed = self._broker.pause(pause.queues, on=pause.on)
            return say.Switched(changed, [queue for queue in pause.queues if queue not in known])

        self._put(guest, number, run, lambda done: guest.peer.answer(number, done), len(pause.queues))

    def _drain(self, guest: Guest, number: int, drain: say.Drain) -> None:
        def run() -> tuple[say.Switched, list[Seat]]:
            known = {name for worker in self._broker.workers() for name in (worker.name, worker.host)}
            known.update(self._broker.flow.drained)
            changed, seats = self._broker.drain(drain.names, on=drain.on)
            return say.Switched(changed, [name for name in drain.names if name not in known]), seats

        def answer(done: tuple[say.Switched, list[Seat]]) -> None:
            switched, seats = done
            guest.peer.answer(number, switched)
            self._ordered(seats)

        self._put(guest, number, run, answer, len(drain.names))

    def _workers(self, guest: Guest, number: int, _: say.Workers) -> None:
        guest.peer.answer(number, say.WorkerList(self._broker.workers()))

    def _say_status(self, guest: Guest, number: int, _: say.Status) -> None:
        self._put(guest, number, self._status, lambda view: guest.peer.answer(number, view))


def _live(view: TaskView, live: Live | None) -> TaskView:
    """With what the latest attempt has told of itself, and, while it runs, has printed so far."""
    if live is None:
        return view
    attempts = view.attempts
    if view.state is State.LEASED:
        attempts = [*attempts[:-1], replace(attempts[-1], output=bytes(live.output))]
    partials, before = list(live.partials), live.partials_before
    return replace(view, attempts=attempts, progress=live.progress, partials=partials, partials_before=before)


def queue_views(store: Store, flow: Flow) -> list[QueueView]:
    """All queues, where their tasks stand, and how they flow."""
    counts = store.counts()
    return [
        QueueView(
            name,
            {state.word: tasks for state, tasks in sorted(counts.get(name, {}).items())},
            flow.paused.get(name, 0.0),
            flow.limits(name).words(),
        )
        for name in sorted({*counts, *flow.paused})
    ]


def _cancelled(guest: Guest, ids: Iterable[bytes], states: dict[bytes, State]) -> say.Cancelled:
    known = {task_id: state_for(guest.version, state) for task_id, state in states.items()}
    return say.Cancelled(known, [task_id for task_id in ids if task_id not in states])
