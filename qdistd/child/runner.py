"""Runs one task: name and payload in, outcome and value out. Nothing that the task does gets past here."""

from collections.abc import Callable, Mapping
from typing import Any

from qdistd.call import decode_call, encode_failure, encode_value
from qdistd.child.catalog import Catalog
from qdistd.child.failures import failure_of
from qdistd.errors import Malformed, NotAllowed, NotFound, Refused, TooLarge
from qdistd.model import Failure, Outcome
from qdistd.shares import MARK, resolve

_TOO_LARGE = "Write it to a file and return its path, or raise [limits] result in the worker's configuration"

NONE: Mapping[str, str] = {}


class Runner:
    """Runs the tasks of a catalog. `limit`: bytes of an encoded result, 0 for any. `shares`: their paths by name."""

    def __init__(self, catalog: Catalog, limit: int, shares: Mapping[str, str] = NONE) -> None:
        self._catalog = catalog
        self._limit = limit
        self._shares = shares

    def run(self, name: str, payload: bytes | bytearray) -> tuple[Outcome, bytes]:
        """The outcome, SUCCEEDED or FAILED, and its value as `Settlement` has it."""
        try:
            function = self._catalog.find(name)
            args, kwargs = decode_call(payload)
            if MARK in payload:
                args, kwargs = resolve((args, kwargs), self._shares)
        except (NotFound, NotAllowed) as error:
            return _failed(Failure(error.code, str(error)))
        except Malformed as error:
            return _failed(Failure("undecodable", f"{name}: {error}"))
        except RecursionError:
            return _failed(Failure("undecodable", f"{name}: the arguments are nested too deeply to look for shares"))
        return self._called(name, function, args, kwargs)

    def _called(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Outcome, bytes]:
        try:
            value = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - the door: whatever a task raises is how it ended
            return _failed(failure_of(error))
        try:
            return Outcome.SUCCEEDED, encode_value(value, self._limit)
        except TooLarge:
            return _failed(Failure("too-large", f"the result of {name} is over {self._limit} bytes. {_TOO_LARGE}"))
        except Refused as error:
            return _failed(Failure("unserializable", f"the result of {name} cannot be sent: {error}"))
        except MemoryError as error:
            return _failed(failure_of(error))


def _failed(failure: Failure) -> tuple[Outcome, bytes]:
    return Outcome.FAILED, encode_failure(failure)
