"""The decoder gives for plain data what pickle gives, and refuses all else before it costs anything."""

import collections
import datetime
import decimal
import fractions
import gc
import os
import pathlib
import pickle
import queue
import random
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdistd.errors import Malformed, Refused, TooLarge
from qdistd.wire import plain

LIMITS = plain.Limits()

LARGE = plain.Limits(bytes=4 * 1024 * 1024)

PROMPTLY = 0.05
"""Seconds of processor time in which anything hostile must be refused."""

texts = st.text(st.characters(exclude_categories=()), max_size=300)
keys = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60) + 1, 2**60 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=300)
)
scalars = keys | st.integers(-(2**500), 2**500) | st.floats() | st.complex_numbers()
values = st.recursive(
    scalars | st.sets(keys, max_size=5) | st.frozensets(keys, max_size=5),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.lists(inner, max_size=6).map(tuple),
        st.dictionaries(keys, inner, max_size=6),
    ),
    max_leaves=40,
)


def shape(value: Any) -> Any:
    """The value with its types made visible, so that 1, True and 1.0 differ and nan equals nan."""
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, value))
    if isinstance(value, dict):
        return dict, [(repr(key), shape(item)) for key, item in value.items()]
    return type(value), repr(value)


@settings(max_examples=400, deadline=None)
@given(values, st.sampled_from([4, 5]))
def test_plain_data_is_what_pickle_says_it_is(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert shape(plain.decode(data, LIMITS)) == shape(pickle.loads(data))


@given(values)
def test_what_we_encode_both_decoders_read(value: object) -> None:
    assert shape(plain.decode(plain.encode(value), LIMITS)) == shape(value)
    assert shape(pickle.loads(plain.encode(value))) == shape(value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value", [(None, "put", (7,), {}), [1.5, True, {"a": -70000, "b": [2**40]}, 2 + 3j], "é" * 300]
)
def test_older_protocols_are_read_too(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert plain.decode(data, LIMITS) == value


def test_long_lists_and_large_bytes_are_read() -> None:
    value = [list(range(3000)), {str(n): n for n in range(3000)}, set(range(3000)), b"x" * 100_000, "y" * 100_000]
    assert plain.decode(pickle.dumps(value, 4), LARGE) == value


def test_a_value_that_stands_twice_is_the_same_value() -> None:
    shared = [1]
    one, other = plain.decode(pickle.dumps([shared, shared], 4), LIMITS)
    assert one is other


class Gadget:
    """Pickles as a call of anything."""

    def __init__(self, *reduced: object) -> None:
        self._reduced = reduced

    def __reduce__(self) -> Any:
        return self._reduced


def request(argument: object) -> bytes:
    return pickle.dumps(("7f", "put", (argument,), {}), 4)


def circle() -> list[object]:
    items: list[object] = []
    items.append(items)
    return items


NOT_PLAIN = {
    "os.system": Gadget(os.system, ("touch /tmp/never",)),
    "eval": Gadget(eval, ("1",)),
    "getattr": Gadget(getattr, ("", "join")),
    "complex of text": Gadget(complex, ("1",)),
    "complex of three": Gadget(complex, (1.0, 2.0, 3.0)),
    "complex with state": Gadget(complex, (1.0, 2.0), {"a": 1}),
    "the type complex": complex,
    "Empty": queue.Empty(),
    "ValueError": ValueError("x"),
    "datetime": datetime.datetime(2026, 1, 1),
    "Decimal": decimal.Decimal(1),
    "Fraction": fractions.Fraction(1, 2),
    "OrderedDict": collections.OrderedDict(a=1),
    "deque": collections.deque([1]),
    "range": range(3),
    "slice": slice(3),
    "bytearray": bytearray(b"x"),
    "path": pathlib.PurePosixPath("/x"),
    "an object": object(),
    "a class": dict,
    "a function": len,
    "a tuple as key": {(1, 2): 3},
    "a frozenset as key": {frozenset([1]): 3},
    "a complex as key": {1j: 3},
    "a huge int as key": {2**60: 3},
    "a tuple in a set": {(1, 2)},
    "a circle": circle(),
    "600 bits": 2**600,
    "65 lists": pickle.loads(b"]" * 65 + b"a" * 64 + b"."),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plain_data_is_refused_and_named(name: str) -> None:
    with pytest.raises(Refused) as refusal:
        plain.decode(request(NOT_PLAIN[name]), LIMITS)
    assert len(str(refusal.value)) < 300


def test_the_refusal_names_the_type_and_what_to_send() -> None:
    with pytest.raises(Malformed, match=r"'fractions\.Fraction' is not plain data: send None, bool"):
        plain.decode(request(fractions.Fraction(1, 2)), LIMITS)


START = b"\x80\x04"
TUPLE_KEY = b"}(%bK\x01u."

MANY = 60_000
"""Repetitions that still fit into the message limit of a server."""

BOMBS = {
    "many nested tuples as key": START + b"}(" + b")" + b"\x85" * MANY + b"K\x01u.",
    "an exponential tuple as key": START + b"}(" + b"K\x01" + b"\x94h\x00\x86" * 1 + b"\x942\x86" * 60 + b"K\x01u.",
    "the same through the memo": START
    + b"}(K\x01\x94"
    + b"".join(b"h%ch%c\x86\x94" % (n, n) for n in range(60))
    + b"K\x01u.",
    "a billion laughs": START + b"]\x94" + b"".join(b"](h%ch%ce\x94" % (n, n) for n in range(60)) + b".",
    "laughs in a tuple": START + b"(]\x94" + b"".join(b"h%ch%c\x86\x94" % (n, n) for n in range(60)) + b"t.",
    "wide laughs": START + b"](" + b"K\x01" * 20_000 + b"e\x94(" + b"h\x00" * 20_000 + b"l.",
    "wide laughs in a tuple": START + b"](" + b"K\x01" * 20_000 + b"e\x94(" + b"h\x00" * 20_000 + b"t.",
    "a list in itself": START + b"]\x94h\x00a.",
    "a dict in itself": START + b"}\x94K\x01h\x00s.",
    "many memo entries": START + b"K\x01r\x00\x00\x00\x10.",
    "a huge memo index": START + b"K\x01r\xff\xff\xff\xff.",
    "colliding ints": START
    + b"}("
    + b"".join(pickle.dumps(n * (2**61 - 1), 2)[2:-1] + b"N" for n in range(1, 20_000))
    + b"u.",
    "many marks": START + b"(" * MANY + b".",
    "a terabyte of bytes": START + b"\x8e" + struct.pack("<Q", 2**40) + b".",
    "an exabyte of text": START + b"\x8d" + struct.pack("<Q", 2**60) + b".",
    "more text than there are numbers": START + b"\x8d" + b"\xff" * 8 + b".",
    "a frame without end": START + b"\x95" + b"\xff" * 8 + b"K\x01.",
    "an int of 255 bytes": START + b"\x8a\xff" + b"\x7f" * 255 + b".",
    "an int of many bytes": START + b"\x8b" + struct.pack("<i", MANY) + b"\x7f" * MANY + b".",
    "a decimal int of many digits": b"L" + b"9" * MANY + b"L\n.",
    "a global named by a bomb": START
    + b"K\x01\x94"
    + b"".join(b"h%ch%c\x86\x94" % (n, n) for n in range(60))
    + b"N\x93.",
    "many newlines": START + b"c" + b"\n" * MANY + b".",
    "no newline": START + b"c" * MANY + b".",
    "ext1": START + b"\x82\x01.",
    "inst": b"(ios\nsystem\n.",
    "obj": b"(cos\nsystem\no.",
    "newobj": START + b"c__builtin__\nobject\n)\x81.",
    "build": START + b"}}b.",
    "persistent id": b"Pid\n.",
    "binary persistent id": START + b"K\x01Q.",
    "reduce on text": START + b"\x8c\x01a)R.",
    "a call left on the stack": START + b"c__builtin__\ncomplex\n.",
    "a call inside": START + b"(c__builtin__\ncomplex\nK\x01t.",
    "a call as key": START + b"}c__builtin__\ncomplex\nK\x01s.",
    "a call in a set": START + b"\x8f(c__builtin__\ncomplex\n\x90.",
    "dup": START + b"K\x012\x86.",
    "pop": START + b"K\x01K\x020.",
    "append to a tuple": START + b")K\x01a.",
    "items of a list": START + b"](K\x01K\x02u.",
    "a key without a value": START + b"}(K\x01u.",
    "bytes after the end": START + b"K\x01..",
    "two values": START + b"K\x01K\x02.",
    "no value": START + b".",
    "an open mark": START + b"(K\x01.",
    "nothing": b"",
    "not UTF-8": START + b"\x8c\x02\xff\xfe.",
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Spares a measured test the collector's visits to what other tests left."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(name: str, no_collector: None) -> None:
    spent = []
    for _ in range(3):
        start = time.thread_time()
        with pytest.raises(Refused):
            plain.decode(BOMBS[name], LIMITS)
        spent.append(time.thread_time() - start)
    assert min(spent) < PROMPTLY


@pytest.mark.parametrize("opcode", [b"]", b"}", b"\x8f", b"(", b")\x85", b"K\x01", b"K\x01\x94h\x00"])
def test_a_large_limit_does_not_make_a_million_tiny_values_cheap(opcode: bytes) -> None:
    with pytest.raises(Refused):
        plain.decode(START + b"(" + opcode * 10**6 + b"t.", LARGE)


def test_a_message_over_the_limit_is_not_even_looked_at() -> None:
    with pytest.raises(TooLarge, match="1001 bytes is over the limit of 1000"):
        plain.decode(b"?" * 1001, plain.Limits(bytes=1000))


def test_the_price_of_a_message_is_its_nodes() -> None:
    limits = plain.Limits(nodes=1000)
    assert len(plain.decode(pickle.dumps([0] * 999, 4), limits)) == 999
    with pytest.raises(TooLarge, match="more than 1000 values"):
        plain.decode(pickle.dumps([0] * 1000, 4), limits)


@pytest.mark.parametrize(
    "value",
    [
        set(range(300)),
        [{n} for n in range(300)],
        [frozenset([n]) for n in range(300)],
        [{n: ()} for n in range(300)],
    ],
)
def test_no_honest_value_within_the_nodes_runs_out_of_opcodes(value: object) -> None:
    assert plain.decode(pickle.dumps(value, 4), plain.Limits(nodes=1000)) == value


@pytest.mark.parametrize("error", [queue.Empty(), queue.Full()], ids=repr)
def test_a_reply_may_carry_the_two_errors_of_a_queue(error: Exception) -> None:
    kind, found = plain.decode(pickle.dumps(("#ERROR", error), 4), LIMITS, plain.REPLY)
    assert kind == "#ERROR" and type(found) is type(error)


@pytest.mark.parametrize("error", [ValueError("x"), queue.Empty("x"), KeyError(1), OSError(2, "x")], ids=repr)
def test_a_reply_may_carry_no_other_error(error: Exception) -> None:
    with pytest.raises(Malformed):
        plain.decode(pickle.dumps(("#ERROR", error), 4), LIMITS, plain.REPLY)


def test_every_beginning_of_a_pickle_is_refused() -> None:
    data = request([1, 2.5, "text", b"bytes", {"a": {1}}, frozenset([2]), 3j, 2**70, None, True])
    assert plain.decode(data, LIMITS)
    for end in range(len(data)):
        with pytest.raises(Refused):
            plain.decode(data[:end], LIMITS)


def test_whatever_is_changed_in_a_pickle_it_is_read_or_refused() -> None:
    rng = random.Random(2)
    seeds = [request(value) for value in (7, [1, 2.5, {"a": {1}}], (frozenset([2]), 3j, 2**70), "text" * 20, b"x" * 20)]
    seeds += [BOMBS["a billion laughs"], BOMBS["a call inside"]]
    for _ in range(15_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        try:
            value = plain.decode(bytes(data), LIMITS)
        except Refused:
            continue
        assert shape(plain.decode(pickle.dumps(value, 4), LIMITS)) == shape(value)
