"""The only thing in qdist that reads a pickle from a peer, and it is no unpickler.

    bytes ──► opcodes of plain data, one by one ──► value ──► counted as if nothing were shared ──► value
                   anything else: Malformed                     too much, too deep: TooLarge, Malformed

Plain data: None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, complex. Keys of dicts and members
of sets are None, bool, int below 2**60, float, str or bytes: their hashes are cheap and cannot be made to collide.

Forbidding globals in `pickle.Unpickler` is not enough: nested tuples as keys crash or freeze it, nine bytes make it
allocate 4 GB (cpython#115952). So the opcodes are interpreted here, without recursion, each at a bounded price.
"""

import pickle
import queue
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from qdistd.errors import Malformed, TooLarge

PROTOCOL = 4
"""The pickle protocol of everything sent: the newest that CPython 3.8 sends by default, and all later ones read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one message may cost. `nodes`: values in it, a shared one counted wherever it stands."""

    bytes: int = 68 * 1024
    nodes: int = 100_000
    depth: int = 64


Names = Mapping[tuple[str, str], Callable[[tuple[object, ...]], object]]
"""The globals that may be called, by module and name, and what makes the value of their arguments."""


def _complex(arguments: tuple[object, ...]) -> complex:
    match arguments:
        case (float(real), float(imag)):
            return complex(real, imag)
    raise Malformed("complex takes two floats")


def _without_arguments(kind: type[Exception]) -> Callable[[tuple[object, ...]], object]:
    def make(arguments: tuple[object, ...]) -> object:
        if arguments:
            raise Malformed(f"{kind.__name__} takes no arguments")
        return kind()

    return make


PLAIN: Final[Names] = MappingProxyType({("builtins", "complex"): _complex, ("__builtin__", "complex"): _complex})
"""What a client may name: protocols 0 to 2 write `__builtin__`."""

REPLY: Final[Names] = MappingProxyType(
    {
        **PLAIN,
        ("_queue", "Empty"): _without_arguments(queue.Empty),
        ("queue", "Empty"): _without_arguments(queue.Empty),
        ("queue", "Full"): _without_arguments(queue.Full),
    }
)
"""What a server may name besides: the two exceptions of a queue."""


def encode(value: object) -> bytes:
    """The pickle of a plain value, as every CPython since 3.8 reads it."""
    return pickle.dumps(value, PROTOCOL)


def decode(data: bytes | memoryview, limits: Limits, names: Names = PLAIN) -> Any:
    """The plain value in a pickle. TooLarge where it is over the limits, Malformed where it is anything else."""
    if len(data) > limits.bytes:
        raise TooLarge(f"a message of {len(data)} bytes is over the limit of {limits.bytes} bytes")
    value = _Machine(bytes(data), names).run(limits.nodes * _STEPS_PER_NODE + _STEPS_BESIDES)
    _measure(value, limits)
    return value


_STEPS_PER_NODE = 4
"""Opcodes that a pickler spends on one value at most: a set with one member takes six for two."""

_STEPS_BESIDES = 64
"""Opcodes of the frame around the values."""

_LONGEST_INT = 64
"""Bytes of an int at most: arithmetic on huge ones is slow, and no task needs them."""

_INT_KEY = 2**60
"""The hash of a smaller int is the int itself, so that no two of them collide."""

_KEYS = frozenset({type(None), bool, int, float, str, bytes})
_SEQUENCES = frozenset({list, tuple, set, frozenset})


class _Name:
    """A global that stands on the stack, to be called by the next REDUCE. Never part of a value."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[tuple[object, ...]], object]) -> None:
        self.make = make


class _Machine:
    """The stack machine that a pickle is a program for; `_OPCODES` is its table. See Lib/pickletools.py.

    A read past the end yields short bytes; the program then never reaches its STOP, and is refused for that.
    """

    __slots__ = ("at", "data", "memo", "names", "outer", "stack")

    def __init__(self, data: bytes, names: Names) -> None:
        self.data = data
        self.names = names
        self.at = 0
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: list[Any] = []

    def run(self, steps: int) -> object:
        """The value that stands on the stack at STOP."""
        data, table = self.data, _OPCODES
        try:
            for _ in range(steps):
                code = data[self.at]
                self.at += 1
                if code == _STOP:
                    return self.result()
                table[code](self)
        except UnicodeDecodeError as error:
            raise Malformed(f"byte {self.at}: text is not UTF-8: {error.reason}") from None
        except (IndexError, ValueError, struct.error):
            raise Malformed(f"byte {self.at}: the data end too early, or take more than they gave") from None
        raise TooLarge(f"more than {steps} opcodes")

    def result(self) -> object:
        if self.outer or len(self.stack) != 1 or self.at != len(self.data):
            raise Malformed("expected exactly one value, and nothing after it")
        return self.stack[0]

    def take(self, size: int) -> bytes:
        start = self.at
        self.at += size
        return self.data[start : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def marked(self) -> list[Any]:
        """What was pushed since the last MARK."""
        items = self.stack
        self.stack = self.outer.pop()
        return items

    def target(self, kind: type) -> Any:
        """The value on top, which must be of this kind."""
        value = self.stack[-1]
        if type(value) is not kind:
            raise Malformed(f"byte {self.at}: expected a {kind.__name__} on top of the stack")
        return value

    def put(self, index: int) -> None:
        """Remember the value on top. Indexes grow one by one, so that none of them makes the memo large."""
        if index == len(self.memo):
            self.memo.append(self.stack[-1])
        else:
            self.memo[index] = self.stack[-1]

    def update(self, pairs: list[Any]) -> None:
        if len(pairs) % 2:
            raise Malformed(f"byte {self.at}: a key without a value")
        keys = pairs[::2]
        _must_be_keys(keys)
        self.target(dict).update(zip(keys, pairs[1::2], strict=True))

    def find(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:  # nothing else may be hashed or printed here
            raise Malformed(f"byte {self.at}: a global is named by two strings")
        make = self.names.get((module, name))
        if make is None:
            raise Malformed(f"{module[:80]}.{name[:80]} is not plain data: {_EXPECTED}")
        self.stack.append(_Name(make))


_EXPECTED = "send None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset or complex"

_Step = Callable[[_Machine], None]


def _constant(value: object) -> _Step:
    return lambda machine: machine.stack.append(value)


def _fresh(kind: Callable[[], object]) -> _Step:
    return lambda machine: machine.stack.append(kind())


def _skip(size: int) -> _Step:
    def step(machine: _Machine) -> None:
        machine.at += size

    return step


def _unsigned(size: int) -> _Step:
    return lambda machine: machine.stack.append(machine.number(size))


def _signed(machine: _Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(4), "little", signed=True))


def _long(machine: _Machine) -> None:
    size = machine.number(1)
    if size > _LONGEST_INT:
        raise Malformed(f"byte {machine.at}: an int has at most {_LONGEST_INT} bytes")
    machine.stack.append(int.from_bytes(machine.take(size), "little", signed=True))


def _float(machine: _Machine) -> None:
    machine.stack.append(*struct.unpack(">d", machine.take(8)))


def _text(size: int) -> _Step:
    def step(machine: _Machine) -> None:
        machine.stack.append(machine.take(machine.number(size)).decode("utf-8", "surrogatepass"))

    return step


def _raw(size: int) -> _Step:
    return lambda machine: machine.stack.append(machine.take(machine.number(size)))


def _mark(machine: _Machine) -> None:
    machine.outer.append(machine.stack)
    machine.stack = []


def _tuple(machine: _Machine) -> None:
    items = machine.marked()
    machine.stack.append(tuple(items))


def _tuple_of(size: int) -> _Step:
    def step(machine: _Machine) -> None:
        stack = machine.stack
        if len(stack) < size:
            raise Malformed(f"byte {machine.at}: a tuple of more than there is")
        stack[-size:] = [tuple(stack[-size:])]

    return step


def _append(machine: _Machine) -> None:
    item = machine.stack.pop()
    machine.target(list).append(item)


def _appends(machine: _Machine) -> None:
    items = machine.marked()
    machine.target(list).extend(items)


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.update([key, value])


def _set_items(machine: _Machine) -> None:
    machine.update(machine.marked())


def _add_items(machine: _Machine) -> None:
    members = machine.marked()
    _must_be_keys(members)
    machine.target(set).update(members)


def _frozen_set(machine: _Machine) -> None:
    members = machine.marked()
    _must_be_keys(members)
    machine.stack.append(frozenset(members))


def _memoize(machine: _Machine) -> None:
    machine.memo.append(machine.stack[-1])


def _put(size: int) -> _Step:
    return lambda machine: machine.put(machine.number(size))


def _get(size: int) -> _Step:
    return lambda machine: machine.stack.append(machine.memo[machine.number(size)])


def _global(machine: _Machine) -> None:
    end = machine.data.index(b"\n", machine.data.index(b"\n", machine.at) + 1)
    module, name = machine.take(end - machine.at).decode().split("\n")
    machine.at += 1
    machine.find(module, name)


def _stack_global(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.find(module, name)


def _reduce(machine: _Machine) -> None:
    arguments = machine.target(tuple)
    machine.stack.pop()
    made = machine.target(_Name).make(arguments)
    machine.stack[-1] = made


def _unknown(machine: _Machine) -> None:
    opcode = machine.data[machine.at - 1]
    raise Malformed(f"byte {machine.at}: opcode 0x{opcode:02x} is no part of plain data")


_STOP: Final = pickle.STOP[0]

_KNOWN: Final = {
    code[0]: step
    for code, step in (
        (pickle.PROTO, _skip(1)),
        (pickle.FRAME, _skip(8)),
        (pickle.MARK, _mark),
        (pickle.NONE, _constant(None)),
        (pickle.NEWTRUE, _constant(True)),
        (pickle.NEWFALSE, _constant(False)),
        (pickle.BININT, _signed),
        (pickle.BININT1, _unsigned(1)),
        (pickle.BININT2, _unsigned(2)),
        (pickle.LONG1, _long),
        (pickle.BINFLOAT, _float),
        (pickle.SHORT_BINUNICODE, _text(1)),
        (pickle.BINUNICODE, _text(4)),
        (pickle.BINUNICODE8, _text(8)),
        (pickle.SHORT_BINBYTES, _raw(1)),
        (pickle.BINBYTES, _raw(4)),
        (pickle.BINBYTES8, _raw(8)),
        (pickle.EMPTY_TUPLE, _constant(())),
        (pickle.TUPLE1, _tuple_of(1)),
        (pickle.TUPLE2, _tuple_of(2)),
        (pickle.TUPLE3, _tuple_of(3)),
        (pickle.TUPLE, _tuple),
        (pickle.EMPTY_LIST, _fresh(list)),
        (pickle.APPEND, _append),
        (pickle.APPENDS, _appends),
        (pickle.EMPTY_DICT, _fresh(dict)),
        (pickle.SETITEM, _set_item),
        (pickle.SETITEMS, _set_items),
        (pickle.EMPTY_SET, _fresh(set)),
        (pickle.ADDITEMS, _add_items),
        (pickle.FROZENSET, _frozen_set),
        (pickle.MEMOIZE, _memoize),
        (pickle.BINPUT, _put(1)),
        (pickle.LONG_BINPUT, _put(4)),
        (pickle.BINGET, _get(1)),
        (pickle.LONG_BINGET, _get(4)),
        (pickle.GLOBAL, _global),
        (pickle.STACK_GLOBAL, _stack_global),
        (pickle.REDUCE, _reduce),
    )
}

_OPCODES: Final = tuple(_KNOWN.get(code, _unknown) for code in range(256))


def _must_be_keys(values: list[Any]) -> None:
    if not _KEYS.issuperset(map(type, values)):
        raise Malformed("keys and members of sets: expected None, bool, int, float, str or bytes")
    for value in values:
        if type(value) is int and not -_INT_KEY < value < _INT_KEY:
            raise Malformed("keys and members of sets: expected an int below 2**60")


def _measure(root: object, limits: Limits) -> None:
    """Refuse what is too large, too deep or contains itself: level by level, so that a circle is just deep."""
    level, nodes = [root], 1
    for _ in range(limits.depth):
        below: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                nodes += 2 * len(value)  # type: ignore[arg-type] # a dict has a length
                children: Iterable[Any] = value.values()  # type: ignore[attr-defined] # and values
            elif kind in _SEQUENCES:
                nodes += len(value)  # type: ignore[arg-type] # as have these
                children = value  # type: ignore[assignment] # and can be walked
            elif kind is _Name:
                raise Malformed(f"a type itself is not plain data: {_EXPECTED}")
            else:
                continue
            if nodes > limits.nodes:
                raise TooLarge(f"more than {limits.nodes} values in one message")
            below.extend(children)
        if not below:
            return
        level = below
    raise Malformed(f"nested more than {limits.depth} levels deep")
