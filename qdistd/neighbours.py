"""What the version before understands, and what it is told instead of the rest. Masters, workers and clients are
upgraded one after the other, in any order.

    client ──submit──> a master of before    would drop the options it does not know: refused here, it never sees them
    worker ──report──> a master of before    hears of no outcome that it does not know
    master ──answer──> a client of before    hears of no state that it does not know

Each side says its `protocol.VERSION`, with `Hello` and with `Welcome`.
"""

from msgspec.structs import replace

from qdistd.errors import Refused
from qdistd.model import Outcome, Settlement, State, Task
from qdistd.protocol import Refusal, Submit
from qdistd.views import TaskView

LIFE = 2
"""The version since which tasks wait for others, can be rejected, and have the options that follow `mailbox`."""

_SINCE_LIFE = Task.__struct_fields__[Task.__struct_fields__.index("mailbox") + 1 :]
_DEFAULTS = dict(zip(reversed(Task.__struct_fields__), reversed(Task.__struct_defaults__), strict=False))


def hold_back(submit: Submit, version: int) -> list[Refusal]:
    """Take out of a request what a master of that version would store otherwise than it was asked to; why."""
    if version >= LIFE:
        return []
    refusals = [Refusal(task.id, Refused.code, why) for task in submit.tasks if (why := _beyond(task, submit.atomic))]
    refused = {refusal.id for refusal in refusals}
    submit.tasks = [task for task in submit.tasks if task.id not in refused]
    return refusals


def _beyond(task: Task, atomic: bool) -> str:
    """What the older master cannot do with this task, in a sentence; empty: nothing."""
    names = [name for name in _SINCE_LIFE if getattr(task, name) != _DEFAULTS[name]]
    lacks = f"knows no {', '.join(names)}" if names else "stores no tasks all together or not at all" if atomic else ""
    return f"{task.name}: the master is of an older version and {lacks}: upgrade it first" if lacks else ""


def state_for(version: int, state: State) -> State:
    """A state as a client of that version knows it."""
    return State.SCHEDULED if state is State.BLOCKED and version < LIFE else state


def view_for(version: int, view: TaskView) -> TaskView:
    """A task as a client of that version knows it."""
    return view if version >= LIFE else replace(view, state=state_for(version, view.state))


def settlements_for(version: int, settled: list[Settlement]) -> list[Settlement]:
    """Ends of attempts as a master of that version knows them: it tries again what was rejected, if it has retries."""
    if version >= LIFE:
        return settled
    return [replace(end, outcome=Outcome.FAILED) if end.outcome is Outcome.REJECTED else end for end in settled]
