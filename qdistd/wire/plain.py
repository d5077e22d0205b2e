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
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from qdistd.errors import Malformed, TooLarge
from qdistd.wire.machine import EXPECTED, Machine, Maker, Name, Names

PROTOCOL = 4
"""The pickle protocol of everything sent: the newest that CPython 3.8 sends by default, and all later ones read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one message may cost. `nodes`: values in it, a shared one counted wherever it stands."""

    bytes: int = 68 * 1024
    nodes: int = 100_000
    depth: int = 64


def _complex(arguments: tuple[object, ...]) -> complex:
    match arguments:
        case (float(real), float(imag)):
            return complex(real, imag)
    raise Malformed("complex takes two floats")


def _without_arguments(kind: type[Exception]) -> Maker:
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
    value = Machine(bytes(data), names).run(limits.nodes * _STEPS_PER_NODE + _STEPS_BESIDES)
    _measure(value, limits)
    return value


_STEPS_PER_NODE = 4
"""Opcodes that a pickler spends on one value at most: a set with one member takes six for two."""

_STEPS_BESIDES = 64
"""Opcodes of the frame around the values."""

_SEQUENCES = frozenset({list, tuple, set, frozenset})


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
            elif kind is Name:
                raise Malformed(f"a type itself is not plain data: {EXPECTED}")
            else:
                continue
            if nodes > limits.nodes:
                raise TooLarge(f"more than {limits.nodes} values in one message")
            below.extend(children)
        if not below:
            return
        level = below
    raise Malformed(f"nested more than {limits.depth} levels deep")
