"""Runs one task: name and payload in, outcome and value out. Nothing that the task does gets past here."""

from collections.abc import Mapping
from typing import Any

from qdistd.call import decode_call, decode_value, encode_failure, encode_value
from qdistd.child.catalog import Catalog
from qdistd.child.conveyor import Assignment
from qdistd.child.failures import failure_of, message_of
from qdistd.child.frames import ASKED, TAKES, WAIT, details_of
from qdistd.child.stage import Stage
from qdistd.errors import (
    LONGEST_PAUSE,
    Cancelled,
    Malformed,
    NotAllowed,
    NotFound,
    Refused,
    Reject,
    Retry,
    SoftTimeout,
    TooLarge,
)
from qdistd.model import Failure, Outcome
from qdistd.shares import MARK, resolve

_TOO_LARGE = "Write it to a file and return its path, or raise [limits] result in the worker's configuration"

NONE: Mapping[str, str] = {}

Ended = tuple[int, bytes]
"""An `Outcome` with the marks of `frames`, and its value as `Settlement` has it."""


class Runner:
    """Runs the tasks of a catalog on a stage. `limit`: bytes of an encoded result, 0 for any.

    `memory`: bytes that this process was limited to, so that a MemoryError is no surprise; 0: it was not. `shares`:
    their paths by name.
    """

    def __init__(
        self, catalog: Catalog, stage: Stage, limit: int = 0, memory: int = 0, shares: Mapping[str, str] = NONE
    ) -> None:
        self._catalog = catalog
        self._stage = stage
        self._limit = limit
        self._memory = memory
        self._shares = shares

    def run(self, task: Assignment) -> Ended:
        """How it has ended: SUCCEEDED, FAILED, REJECTED, or CANCELLED where it ended because it was told to."""
        name = task.name
        try:
            function = self._catalog.find(name)
            args, kwargs = decode_call(task.payload)
            if task.take:
                args = (*_inputs(task), *args)
            if MARK in task.payload or (task.take and MARK in task.details):
                args, kwargs = resolve((args, kwargs), self._shares)
        except (NotFound, NotAllowed) as error:
            return _failed(Failure(error.code, str(error)))
        except Malformed as error:
            return _failed(Failure("undecodable", f"{name}: {error}"))
        except RecursionError:
            return _failed(Failure("undecodable", f"{name}: the arguments are nested too deeply to look for shares"))
        try:
            value = self._stage.run(function, args, kwargs)
        except BaseException as error:  # noqa: BLE001 - the door: whatever a task raises is how it ended
            return self._raised(name, error)
        try:
            return Outcome.SUCCEEDED, encode_value(value, self._limit)
        except TooLarge:
            return _failed(Failure("too-large", f"the result of {name} is over {self._limit} bytes. {_TOO_LARGE}"))
        except Refused as error:
            return _failed(Failure("unserializable", f"the result of {name} cannot be sent: {error}"))
        except MemoryError as error:
            return self._raised(name, error)

    def _raised(self, name: str, error: BaseException) -> Ended:
        kind = type(error)  # not isinstance, which asks the exception itself, and that is user's code
        if issubclass(kind, Retry):
            return Outcome.FAILED | ASKED, WAIT.pack(_wish(error)) + encode_failure(failure_of(error, "retry"))
        if issubclass(kind, Reject):
            return Outcome.REJECTED, encode_failure(failure_of(error, "rejected"))
        if issubclass(kind, Cancelled) and self._stage.told:
            return Outcome.CANCELLED, b""  # who has told it knows why
        if issubclass(kind, SoftTimeout):
            return _failed(failure_of(error, "soft-timeout"))
        if issubclass(kind, MemoryError) and self._memory:
            return _failed(self._starved(name, error))
        return _failed(failure_of(error))

    def _starved(self, name: str, error: BaseException) -> Failure:
        failure = failure_of(error, "memory")
        limit = f"{name} wanted more memory than its limit of {self._memory / (1 << 20):.0f} MiB"
        message = f"{limit}: {text}" if (text := message_of(error)) else limit
        return Failure(failure.kind, message, failure.type, failure.traceback)


def _inputs(task: Assignment) -> list[Any]:
    """What the task gets before its own arguments. Malformed where that is no plain data."""
    values = [decode_value(data) if data else None for data in details_of(task.details).inputs]
    return [values] if TAKES[task.take] == "list" else values


def _wish(error: BaseException) -> float:
    """The seconds that it wants to wait, -1 for none: a class of the user's own may have put anything there."""
    after = _ATTRIBUTES(error).get("after")
    return float(after) if type(after) in (int, float) and 0 <= after <= LONGEST_PAUSE else -1.0


_ATTRIBUTES = vars(BaseException)["__dict__"].__get__
"""As every exception has them, whatever its own class says."""


def _failed(failure: Failure) -> Ended:
    return Outcome.FAILED, encode_failure(failure)
