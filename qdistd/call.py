"""What a call is, as bytes.

    client   encode_call(args, kwargs) ──Task.payload──> child   decode_call
    child    encode_value(result)      ──────value─────> client  decode_value
    anybody  encode_failure(Failure)   ──────value─────> client  decode_failure

Arguments and results are plain data: None, bool, int, float, complex, str, bytes, list, tuple, dict, set and
frozenset, exactly these types, nested as you like. They travel as pickle protocol 4, written and read in C, by a
pickler that refuses every other type and an unpickler that knows no name but `complex`: no byte of a payload can
run code.
"""

import io
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import msgspec

from qdistd.errors import Malformed, Refused, TooLarge
from qdistd.model import Failure

PROTOCOL = 4
"""What every CPython since 3.4 reads."""

LONGEST_NAME = 500
"""Characters of the name of a type, and of its module, that are kept."""

_ADVICE = {
    "bytearray": "send bytes(value)",
    "memoryview": "send bytes(value)",
    "range": "send list(value)",
    "generator": "send list(value)",
    "coroutine": "a task is a plain function, so run it there: asyncio.run(value)",
    "datetime.datetime": "send value.isoformat() or value.timestamp()",
    "datetime.date": "send value.isoformat()",
    "decimal.Decimal": "send str(value)",
    "uuid.UUID": "send str(value)",
    "collections.OrderedDict": "send dict(value)",
    "collections.defaultdict": "send dict(value)",
}
_PLAIN = "plain data is None, bool, int, float, complex, str, bytes, list, tuple, dict, set and frozenset"


def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The payload of a task. Refused, naming the type, where an argument is not plain data."""
    return encode_value((args, kwargs))


def decode_call(payload: bytes | bytearray) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `encode_call` was given. Malformed where the bytes are no call."""
    call = decode_value(payload)
    if type(call) is not tuple or len(call) != 2 or type(call[0]) is not tuple or type(call[1]) is not dict:
        raise Malformed("the payload is not a call: expected the pair (arguments, keyword arguments)")
    return call


def encode_value(value: object, limit: int = 0) -> bytes:
    """A result as bytes. Refused, naming the type, where it is not plain data; TooLarge over `limit` (0: any)."""
    file = _BoundedFile(limit) if limit else io.BytesIO()
    try:
        _PlainPickler(file, PROTOCOL).dump(value)
    except RecursionError:
        raise Refused("the value is nested too deeply to be sent: flatten it") from None
    except RuntimeError as error:  # another thread has put its hands on it
        raise Refused(f"the value changed while it was written ({error}): return a copy that is yours alone") from None
    except pickle.PicklingError as error:
        raise Refused(f"the value cannot be sent ({error}): {_PLAIN}") from None
    return file.getvalue()


def decode_value(data: bytes | bytearray) -> Any:
    """What `encode_value` was given. Malformed where the bytes are something else."""
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except _UNREADABLE as error:
        raise Malformed(f"the bytes are not plain data: {error}") from None


def encode_failure(failure: Failure) -> bytes:
    """A failure as bytes (MessagePack)."""
    return _failure_encoder.encode(failure)


def decode_failure(data: bytes) -> Failure:
    """What `encode_failure` was given. Malformed where the bytes are something else."""
    try:
        return _failure_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the bytes are not a failure: {error}") from None


def name_of(function: Callable[..., Any]) -> str:
    """`module.function`, the name by which a worker finds the same function.

    Refused, saying why, for whatever another process cannot import by name: lambdas, nested functions,
    methods, partial objects, and everything that stands in the script itself.
    """
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        raise Refused(f"{function!r} has no name: a task is a function that stands in a module")
    if "<lambda>" in name:
        raise Refused("a lambda has no name that a worker could look up: write a function in a module")
    if "<locals>" in name:
        raise Refused(f"{name} is defined inside a function: move it to the top of its module")
    if "." in name or not isinstance(getattr(function, "__self__", None), ModuleType | None):
        raise Refused(f"{name} is a method: a task is a function that stands at the top of a module")
    return f"{_home(function, name)}.{name}"


def _home(function: Callable[..., Any], name: str) -> str:
    """The module where a worker finds `function`. C twins such as `_operator` go by their public name."""
    module = getattr(function, "__module__", None) or "builtins"
    if module == "__main__":
        raise Refused(f"{name} stands in the script itself: move it to a module that the workers can import")
    for candidate in (module.removeprefix("_"), module):
        if getattr(sys.modules.get(candidate), name, None) is function:
            return str(candidate)
    raise Refused(f"{module}.{name} is something else than {function!r}: a worker would run the wrong thing")


class _BoundedFile(io.BytesIO):
    """Memory that refuses to grow over `limit` bytes, so that a huge value is refused before it is copied."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._limit:
            raise TooLarge(f"the value is larger than {self._limit} bytes: write a file and send its path")
        return super().write(data)


class _PlainPickler(pickle.Pickler):
    """The C pickler, for plain data only: what it does not know by heart it asks `reducer_override` about."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is complex or value is complex:
            return NotImplemented
        raise Refused(_not_plain(value))


class _PlainUnpickler(pickle.Unpickler):
    """The C unpickler, with every name refused but `complex`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("builtins", "complex"), ("__builtin__", "complex")):
            return complex
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")


def type_name(kind: type) -> str:
    """`module.Class`, for builtins `Class` alone. Runs nothing of the class and of its metaclass, whatever they are."""
    module, name = _MODULE(kind), str.__str__(_QUALNAME(kind))[:LONGEST_NAME]
    if type(module) is not str or module == "builtins":
        return name
    return f"{module[:LONGEST_NAME]}.{name}"


_MODULE, _QUALNAME, _ANCESTORS, _MEMBERS = (
    vars(type)[name].__get__ for name in ("__module__", "__qualname__", "__mro__", "__dict__")
)
"""As `type` has them: a metaclass may have others, which are user's code."""


def _not_plain(value: object) -> str:
    # A bytearray arrives here as its class: at protocol 4 the pickler takes it apart by itself.
    kind = type(value)
    if issubclass(kind, type):
        kind = cast(type, value)
    name = type_name(kind)
    return f"{name} is not plain data: {_advice(name, kind)}"


def _advice(name: str, kind: type) -> str:
    if name in _ADVICE:
        return _ADVICE[name]
    if any("__fspath__" in _MEMBERS(ancestor) for ancestor in _ANCESTORS(kind)):
        return "send str(path)"
    for plain in (bool, int, float, str, bytes, list, tuple, dict, set, frozenset):
        if issubclass(kind, plain):
            return f"send {plain.__name__}(value)"
    return _PLAIN


# What the C unpickler is known to raise on bytes that are no pickle of ours.
_UNREADABLE = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError),
    *(AttributeError, OverflowError, MemoryError, RecursionError),
)
_failure_encoder = msgspec.msgpack.Encoder()
_failure_decoder = msgspec.msgpack.Decoder(Failure)
