"""How a task is to be run: what stands beside its name and its arguments."""

import difflib
from datetime import datetime
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec

from qdistd.errors import Refused
from qdistd.model import Count, Name, Seconds

YEAR_10000 = 253_402_300_800.0
"""The first second that no calendar of Python knows: a `run_at` beyond it is a mistake, most likely milliseconds."""


class Choices(TypedDict, total=False):
    """The options of a task.

    queue     where it waits ("default")
    priority  lower runs first, -1000 to 1000 (0)
    delay     seconds after its arrival at the master before it may run (0)
    run_at    when it may run: a datetime with a time zone, or seconds since 1970 (at once)
    timeout   seconds one attempt may take (0: the worker's own limit); with one, processes that it has started end
              with it wherever the worker runs under systemd
    retries   further attempts that a failure earns (0)
    backoff   seconds before the first retry, doubling with every further one (1)
    key       idempotency key: the same key is the same task, however often it is submitted
    watch     whether its result comes here by itself (True). False for fire and forget: it is fetched if asked for
    """

    queue: str
    priority: int
    delay: float
    run_at: float | datetime
    timeout: float
    retries: int
    backoff: float
    key: str
    watch: bool


class _Shape(msgspec.Struct, forbid_unknown_fields=True):
    """What each option must be; the order is that of `model.Task`."""

    queue: Name = "default"
    priority: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = 0
    delay: Seconds = 0.0
    run_at: Annotated[float, msgspec.Meta(ge=0, lt=YEAR_10000)] = 0.0
    timeout: Seconds = 0.0
    retries: Count = 0
    backoff: Seconds = 1.0
    key: Annotated[str, msgspec.Meta(max_length=500)] = ""
    watch: bool = True


class Options(NamedTuple):
    """Checked options. `fields`: those of `model.Task` after the payload, in its order."""

    fields: tuple[Any, ...]
    key: str
    watch: bool


def read(choices: Choices) -> Options:
    """Check what somebody chose. Refused, naming the option and what was expected."""
    for name in choices:
        if name not in _Shape.__struct_fields__:
            raise Refused(f"there is no option {name!r}{_meant(name)}")
    given: dict[str, Any] = {**choices, "run_at": _seconds(choices.get("run_at", 0.0))}
    try:
        shape = msgspec.convert(given, _Shape)
    except msgspec.ValidationError as error:
        raise Refused(_explain(str(error), given)) from None
    for name in ("queue", "key"):
        check_text(name, getattr(shape, name))
    *fields, watch = msgspec.structs.astuple(shape)
    return Options(tuple(fields), shape.key, watch)


def check_text(what: str, text: str) -> None:
    """Refused for a text that could not be printed (or sent): control characters, lone surrogates."""
    if not text.isprintable():
        raise Refused(f"{what} {text!r} has characters that cannot be printed")


def _seconds(moment: float | datetime) -> float:
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise Refused(f"run_at: {moment} has no time zone; expected for example datetime.now(timezone.utc)")
    return moment.timestamp()


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, _Shape.__struct_fields__, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(_Shape.__struct_fields__)}"


def _explain(message: str, given: dict[str, Any]) -> str:
    """`Expected `int` <= 1000 - at `$.priority`` in our own words."""
    expected, _, path = message.replace("`", "").partition(" - at $.")
    return f"{path}: {given.get(path)!r} will not do; {expected[:1].lower()}{expected[1:]}"


DEFAULTS = read({})
"""What holds where nothing was chosen."""
