"""How a task is to be run: what stands beside its name and its arguments.

client.toml [options]  <  @task(…)  <  client.options(…)  ──read──>  Options, checked, as `model.Task` has them
"""

import difflib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec

from qdistd.errors import Refused
from qdistd.model import MOST_PREDECESSORS, Count, Labels, Name, Seconds, Task, TaskId, id_from_text

if TYPE_CHECKING:
    from qdistd.client.handle import Handle

YEAR_10000 = 253_402_300_800.0
"""The first second that no calendar of Python knows: a `run_at` beyond it is a mistake, most likely milliseconds."""

Span = float | timedelta
"""A length of time: seconds, or a timedelta."""


class Choices(TypedDict, total=False):
    """The options of a task. Lengths of time are seconds or a timedelta.

    queue            where it waits ("default")
    priority         lower runs first, -1000 to 1000 (0)
    delay            time after its arrival at the master before it may run (0)
    run_at           when it may run: a datetime with a time zone, or seconds since 1970 (at once)
    expires          when it is not worth running any more: a time after its arrival, or a datetime with a time zone;
                     what has not begun by then is cancelled (0: never)
    timeout          time one attempt may take (0: the worker's own limit); with one, processes that it has started
                     end with it wherever the worker runs under systemd
    soft_timeout     time after which `SoftTimeout` is raised in the task, so that it can end by itself (0: none)
    retries          further attempts that a failure earns (0)
    backoff          time before the first retry, doubling with every further one (1), drawn below that
    backoff_cap      what it never doubles beyond (an hour)
    requires         labels that a worker must have: ["gpu", "site=berlin"]
    concurrency_key  how many tasks with one key run at once is limited by `per_key` of their queue
    key              idempotency key: the same key is the same task, however often it is submitted
    unique           "queued": while another one like it waits, this submit is that other task; "running": or runs
    unique_key       what makes tasks alike (their queue, name and arguments)
    coalesce         where this submit is another task that waits, that one gets the arguments of this one
    after            tasks that must have ended before: handles or ids, up to 1000
    if_failed        when one of those ends without a result: "cancel" this one, "run" it all the same, or "wait"
                     until somebody retries that one ("cancel")
    take             the results of those come before its own arguments: "args" one by one, "list" as one list
    watch            whether its result comes here by itself (True). False for fire and forget: it is fetched if asked
    patient          whether a submit that finds the master overloaded is repeated until it is taken, for as long as
                     the client's timeout (False: it fails with Overloaded)
    """

    queue: str
    priority: int
    delay: Span
    run_at: float | datetime
    expires: Span | datetime
    timeout: Span
    soft_timeout: Span
    retries: int
    backoff: Span
    backoff_cap: Span
    requires: Sequence[str]
    concurrency_key: str
    key: str
    unique: Literal["", "queued", "running"]
    unique_key: str
    coalesce: bool
    after: "Sequence[Handle[Any] | str | uuid.UUID] | Handle[Any]"
    if_failed: Literal["cancel", "run", "wait"]
    take: Literal["", "args", "list"]
    watch: bool
    patient: bool


class _Shape(msgspec.Struct, forbid_unknown_fields=True):
    """What each option must be; those of `model.Task` have their names and defaults there."""

    queue: Name = "default"
    priority: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = 0
    delay: Seconds = 0.0
    run_at: Annotated[float, msgspec.Meta(ge=0, lt=YEAR_10000)] = 0.0
    expires: Seconds = 0.0
    timeout: Seconds = 0.0
    soft_timeout: Seconds = 0.0
    retries: Count = 0
    backoff: Seconds = 1.0
    backoff_cap: Seconds = 3600.0
    requires: Labels = ()
    concurrency_key: Annotated[str, msgspec.Meta(max_length=200)] = ""
    key: Annotated[str, msgspec.Meta(max_length=500)] = ""
    unique: str = ""
    unique_key: Annotated[str, msgspec.Meta(max_length=500)] = ""
    coalesce: bool = False
    after: Annotated[tuple[TaskId, ...], msgspec.Meta(max_length=MOST_PREDECESSORS)] = ()
    if_failed: str = "cancel"
    take: str = ""
    watch: bool = True
    patient: bool = False


_WORDS = {
    "unique": ("", "queued", "running"),
    "if_failed": ("cancel", "run", "wait"),
    "take": ("", "args", "list"),
}
"""Options that are one word of a few."""

_TEXTS = ("queue", "key", "concurrency_key", "unique_key")
"""Options that people read."""

_BARE = Task(bytes(16), "bare", b"")
"""A task for which nothing was chosen."""

_FIELDS = Task.__struct_fields__[3:]
"""What follows the payload in a `model.Task`."""


class Options(NamedTuple):
    """Checked options. `fields`: those of `model.Task` after the payload, in its order.

    `until`: the moment (seconds since 1970) at which it expires, where one was named; else 0.
    """

    fields: tuple[Any, ...]
    key: str
    watch: bool
    patient: bool
    until: float


def read(choices: Mapping[str, Any]) -> Options:
    """Check what somebody chose (`Choices`). Refused, naming the option and what was expected.

    Where `after` names the handle of a unique task that is still on its way, this waits for its acknowledgement: only
    then its id is known.
    """
    for name in choices:
        if name not in _Shape.__struct_fields__:
            raise Refused(f"there is no option {name!r}{_meant(name)}")
    given = {name: _PLAIN[name](name, value) if name in _PLAIN else value for name, value in choices.items()}
    until = given.pop("expires").timestamp() if isinstance(given.get("expires"), datetime) else 0.0
    try:
        shape = msgspec.convert(given, _Shape)
    except msgspec.ValidationError as error:
        raise Refused(_explain(str(error), given)) from None
    for name in _TEXTS:
        check_text(name, getattr(shape, name))
    _check_together(shape)
    fields = tuple(getattr(shape, name, getattr(_BARE, name)) for name in _FIELDS)
    return Options(fields, shape.key, shape.watch, shape.patient, until)


def check_text(what: str, text: str) -> None:
    """Refused for a text that could not be printed (or sent): control characters, lone surrogates."""
    if not text.isprintable():
        raise Refused(f"{what} {text!r} has characters that cannot be printed")


def _check_together(shape: _Shape) -> None:
    """What is right alone and makes no sense with the rest."""
    for wrong, why in (
        (shape.coalesce and not shape.unique, "coalesce: only a unique task can be another one: choose unique as well"),
        (shape.unique_key and not shape.unique, "unique_key: the task is not unique: choose unique as well"),
        (shape.take and not shape.after, "take: there is nothing to take without after: say whose results it gets"),
        (shape.key and shape.unique, "key and unique: a task has the one or the other, for both say which task it is"),
        (
            0 < shape.timeout <= shape.soft_timeout,
            f"soft_timeout: {shape.soft_timeout:g} s is not before the timeout of {shape.timeout:g} s",
        ),
        (
            0 < shape.expires <= shape.delay,
            f"expires: after {shape.expires:g} s, and it may not run before {shape.delay:g} s (delay)",
        ),
    ):
        if wrong:
            raise Refused(why)


# -- from what people write to plain values


def _span(_: str, value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _moment(name: str, value: Any) -> Any:
    return _aware(name, value).timestamp() if isinstance(value, datetime) else value


def _span_or_moment(name: str, value: Any) -> Any:
    return _aware(name, value) if isinstance(value, datetime) else _span(name, value)


def _aware(name: str, moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise Refused(f"{name}: {moment} has no time zone; expected for example datetime.now(timezone.utc)")
    return moment


def _labels(name: str, value: Any) -> Any:
    labels = [value] if isinstance(value, str) else value
    if not isinstance(labels, list | tuple | set | frozenset) or not all(isinstance(label, str) for label in labels):
        raise Refused(f'{name}: {value!r} will not do; expected a list of labels such as ["gpu", "site=berlin"]')
    for label in labels:
        check_text(name, label)
    return tuple(sorted(set(labels)))


def _word(name: str, value: Any) -> Any:
    words = _WORDS[name]
    if value not in words:
        close = difflib.get_close_matches(str(value), words, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise Refused(f"{name}: {value!r} will not do; expected {' or '.join(repr(w) for w in words if w)}{hint}")
    return value


def _tasks(name: str, value: Any) -> tuple[bytes, ...]:
    """The ids of the tasks that `after` names."""
    several = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    ids = tuple(task_id_of(each) for each in several)
    if len(ids) > MOST_PREDECESSORS:
        raise Refused(f"{name}: {len(ids)} tasks; one task may come after {MOST_PREDECESSORS} at most")
    if len(set(ids)) < len(ids):
        raise Refused(f"{name}: the same task stands there twice")
    return ids


def task_id_of(task: Any) -> bytes:
    """The id of a task named by a handle, or by its id as text or UUID. Refused where it is none."""
    settled = getattr(task, "settled_id", None)
    if settled is not None:
        return bytes(settled())
    try:
        return id_from_text(str(task))
    except ValueError:
        raise Refused(f"{task!r} is no task id; expected something like 0192f0c1-2b3c-7d4e-8f90-a1b2c3d4e5f6") from None


_PLAIN = {
    **dict.fromkeys(("delay", "timeout", "soft_timeout", "backoff", "backoff_cap"), _span),
    **dict.fromkeys(_WORDS, _word),
    "run_at": _moment,
    "expires": _span_or_moment,
    "requires": _labels,
    "after": _tasks,
}
"""How the value of an option becomes plain, by its name; the others are so already."""


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, _Shape.__struct_fields__, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(_Shape.__struct_fields__)}"


def _explain(message: str, given: dict[str, Any]) -> str:
    """`Expected `int` <= 1000 - at `$.priority`` in our own words."""
    expected, _, path = message.replace("`", "").partition(" - at $.")
    name = path.partition("[")[0]
    return f"{name}: {given.get(name)!r} will not do; {expected[:1].lower()}{expected[1:]}"


DEFAULTS = read({})
"""What holds where nothing was chosen."""
