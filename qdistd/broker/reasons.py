"""Why tasks do not run, for people: of one task, and of all that nobody can take."""

from collections.abc import Iterable

from qdistd.broker.flow import Flow
from qdistd.broker.seats import Seat
from qdistd.model import State, id_text
from qdistd.protocol import Stuck
from qdistd.store import Store, labels_of
from qdistd.views import TaskView

MOST_LINES = 1000
"""Queues, with the labels that their tasks require, that `stuck` looks at: more than anybody reads."""


def stuck(store: Store, flow: Flow, seats: Iterable[Seat]) -> list[Stuck]:
    """Ready tasks that no worker can take, by queue and the labels they require, and why."""
    here = [seat for seat in seats if not seat.row.stock and not seat.gone]
    found = []
    for queue, lane, tasks in sorted(store.lines(MOST_LINES)):
        requires = [*labels_of(lane)]
        reason = _obstacle(queue, requires, flow, here)
        if reason:
            found.append(Stuck(queue, requires, tasks, reason))
    return found


def why(view: TaskView, store: Store, flow: Flow, seats: Iterable[Seat]) -> str:
    """Why this task does not run now, or not for long: a sentence, or nothing where there is nothing to say."""
    if view.state is State.BLOCKED:
        return _why_blocked(view, store)
    if view.state is State.SCHEDULED:
        return "its retry is not due yet" if view.attempt else "its time has not come yet"
    if view.state is State.LEASED:
        cancelled = any(seat.claims[view.id].cancel for seat in seats if view.id in seat.claims)
        return "somebody has cancelled it, and its worker is stopping it" if cancelled else ""
    if view.state.final:
        return ""
    here = [seat for seat in seats if not seat.row.stock and not seat.gone]
    obstacle = _obstacle(view.queue, view.requires, flow, here) or _why_full(view.queue, flow)
    return obstacle or "no worker that could take it has room yet"


def _obstacle(queue: str, requires: list[str], flow: Flow, here: list[Seat]) -> str:
    if queue in flow.paused:
        return f"the queue is paused (`qdist resume {queue}` goes on)"
    serving = [seat for seat in here if queue in seat.queues]
    if not serving:
        return "no worker that is here serves this queue"
    able = [seat for seat in serving if seat.labels.issuperset(requires)]
    if not able:
        return _missing(requires, serving)
    if all(seat.drained for seat in able):
        return f"every worker that could take it is drained: {_named(able)}"
    return ""


def _missing(requires: list[str], serving: list[Seat]) -> str:
    missing = [label for label in requires if not any(label in seat.labels for seat in serving)]
    troubles = sorted({f"{seat.row.name}: {trouble}" for seat in serving for trouble in seat.troubles})
    if missing:
        words = f"no worker of this queue has {', '.join(missing)}"
    else:
        words = f"no worker of this queue has all of {', '.join(requires)}"
    return f"{words} ({'; '.join(troubles)})" if troubles else words


def _named(seats: list[Seat]) -> str:
    return ", ".join(sorted(seat.row.name for seat in seats))


def _why_full(queue: str, flow: Flow) -> str:
    if flow.room(queue, idle=1) > 0:
        return ""
    limits = flow.limits(queue).words()
    words = ", ".join(f"{name} {limits[name]}" for name in ("concurrency", "rate") if name in limits)
    return f"the limits of the queue are reached: {words}"


def _why_blocked(view: TaskView, store: Store) -> str:
    if not view.blocked_by:
        return f"other tasks with the concurrency key {view.concurrency_key} run, or are next"
    states = store.states(view.after)
    waited_for = [f"{id_text(other)} ({state.word})" for other, state in states.items() if state is not State.SUCCEEDED]
    if not waited_for:
        return "what it comes after has ended: it is about to go on"
    shown, more = waited_for[:3], len(waited_for) - 3
    return f"it comes after {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")
