"""The stack machine that a pickle is a program for, with the opcodes of plain data and no others.

    (7,)  =  \x80\x04  K\x07  \x85  \x94  .            PROTO 4, BININT1 7, TUPLE1, MEMOIZE, STOP

Every opcode costs about as much as it is long: nothing is hashed but text, bytes and numbers, no length is believed
before the bytes are there, the memo grows by one at a time. See Lib/pickletools.py.
"""

import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from qdistd.errors import Malformed, TooLarge

Maker = Callable[[tuple[object, ...]], object]
"""Makes the value that a call of a global with these arguments stands for."""

Names = Mapping[tuple[str, str], Maker]
"""The globals that may be called, by module and name."""

EXPECTED = "send None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset or complex"

_LONGEST_INT = 64
"""Bytes of an int at most: arithmetic on huge ones is slow, and no task needs them."""

_INT_KEY = 2**60
"""The hash of a smaller int is the int itself, so that no two of them collide."""

_DEEPEST_MARK = 1000
"""Containers under construction inside one another: far more than any limit of depth allows in the end."""

_KEYS = frozenset({type(None), bool, int, float, str, bytes})


class Name:
    """A global that stands on the stack, to be called by the next REDUCE. Never part of a value."""

    __slots__ = ("make",)

    def __init__(self, make: Maker) -> None:
        self.make = make


class Machine:
    """Runs one pickle. `_OPCODES` is its table.

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
        start = self.at
        self.at += size
        return int.from_bytes(self.data[start : self.at], "little")

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
            raise Malformed(f"{f'{module}.{name}'[:160]!r} is not plain data: {EXPECTED}")
        self.stack.append(Name(make))


_Step = Callable[[Machine], None]


def _constant(value: object) -> _Step:
    return lambda machine: machine.stack.append(value)


def _fresh(kind: Callable[[], object]) -> _Step:
    return lambda machine: machine.stack.append(kind())


def _protocol(machine: Machine) -> None:
    machine.at += 1


def _frame(machine: Machine) -> None:
    size = machine.number(8)
    if machine.at + size > len(machine.data):
        raise Malformed(f"byte {machine.at}: a frame of {size} bytes, which are not there")


def _unsigned(size: int) -> _Step:
    return lambda machine: machine.stack.append(machine.number(size))


def _signed(machine: Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(4), "little", signed=True))


def _long(machine: Machine) -> None:
    size = machine.number(1)
    if size > _LONGEST_INT:
        raise Malformed(f"byte {machine.at}: an int has at most {_LONGEST_INT} bytes")
    machine.stack.append(int.from_bytes(machine.take(size), "little", signed=True))


def _float(machine: Machine) -> None:
    machine.stack.append(*struct.unpack(">d", machine.take(8)))


def _text(size: int) -> _Step:
    def step(machine: Machine) -> None:
        machine.stack.append(machine.take(machine.number(size)).decode("utf-8", "surrogatepass"))

    return step


def _raw(size: int) -> _Step:
    return lambda machine: machine.stack.append(machine.take(machine.number(size)))


def _mark(machine: Machine) -> None:
    if len(machine.outer) >= _DEEPEST_MARK:
        raise Malformed(f"byte {machine.at}: more than {_DEEPEST_MARK} containers inside one another")
    machine.outer.append(machine.stack)
    machine.stack = []


def _tuple(machine: Machine) -> None:
    items = machine.marked()
    machine.stack.append(tuple(items))


def _tuple_1(machine: Machine) -> None:
    stack = machine.stack
    stack[-1] = (stack[-1],)


def _tuple_2(machine: Machine) -> None:
    stack = machine.stack
    last = stack.pop()
    stack[-1] = (stack[-1], last)


def _tuple_3(machine: Machine) -> None:
    stack = machine.stack
    last, middle = stack.pop(), stack.pop()
    stack[-1] = (stack[-1], middle, last)


def _append(machine: Machine) -> None:
    item = machine.stack.pop()
    machine.target(list).append(item)


def _appends(machine: Machine) -> None:
    items = machine.marked()
    machine.target(list).extend(items)


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.update([key, value])


def _set_items(machine: Machine) -> None:
    machine.update(machine.marked())


def _add_items(machine: Machine) -> None:
    members = machine.marked()
    _must_be_keys(members)
    machine.target(set).update(members)


def _frozen_set(machine: Machine) -> None:
    members = machine.marked()
    _must_be_keys(members)
    machine.stack.append(frozenset(members))


def _memoize(machine: Machine) -> None:
    machine.memo.append(machine.stack[-1])


def _put(size: int) -> _Step:
    return lambda machine: machine.put(machine.number(size))


def _get(size: int) -> _Step:
    return lambda machine: machine.stack.append(machine.memo[machine.number(size)])


def _global(machine: Machine) -> None:
    end = machine.data.index(b"\n", machine.data.index(b"\n", machine.at) + 1)
    module, name = machine.take(end - machine.at).decode().split("\n")
    machine.at += 1
    machine.find(module, name)


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.find(module, name)


def _reduce(machine: Machine) -> None:
    arguments = machine.target(tuple)
    machine.stack.pop()
    made = machine.target(Name).make(arguments)
    machine.stack[-1] = made


def _unknown(machine: Machine) -> None:
    opcode = machine.data[machine.at - 1]
    raise Malformed(f"byte {machine.at}: opcode 0x{opcode:02x} is no part of plain data")


_STOP: Final = pickle.STOP[0]

_KNOWN: Final = {
    code[0]: step
    for code, step in (
        (pickle.PROTO, _protocol),
        (pickle.FRAME, _frame),
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
        (pickle.TUPLE1, _tuple_1),
        (pickle.TUPLE2, _tuple_2),
        (pickle.TUPLE3, _tuple_3),
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
