"""Calls as bytes: what goes in comes out, and what is not plain data is refused with advice."""

import collections
import contextlib
import datetime
import functools
import math
import operator
import os
import pathlib
import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdistd import call
from qdistd.errors import Malformed, Refused, TooLarge
from qdistd.model import Failure

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
)
PLAIN = st.recursive(
    ATOMS | st.sets(ATOMS) | st.frozensets(ATOMS),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


class Evil:
    """Pickles into a call of `os.getpid`."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return os.getpid, ()


def module_level() -> None:
    """A function that a worker could import."""


@given(PLAIN)
def test_plain_data_comes_back_equal_and_of_the_same_types(value: object) -> None:
    back = call.decode_value(call.encode_value(value))
    assert back == value
    assert repr(back) == repr(value) or isinstance(value, set | frozenset | dict | list | tuple)


@given(st.lists(ATOMS).map(tuple), st.dictionaries(st.text(), ATOMS))
def test_a_call_comes_back(args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    assert call.decode_call(call.encode_call(args, kwargs)) == (args, kwargs)


def test_a_list_that_holds_itself_is_plain_data() -> None:
    value: list[object] = []
    value.append(value)
    back = call.decode_value(call.encode_value(value))
    assert back[0] is back


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (pathlib.PurePosixPath("/a"), "PurePosixPath is not plain data: send str(path)"),
        (bytearray(b"x"), "bytearray is not plain data: send bytes(value)"),
        (collections.OrderedDict(), "collections.OrderedDict is not plain data: send dict(value)"),
        (datetime.datetime(2024, 1, 1), "datetime.datetime is not plain data: send value.isoformat()"),
        (range(3), "range is not plain data: send list(value)"),
        (True.__class__, "bool is not plain data"),
        (lambda: 0, "function is not plain data"),
        (Evil(), "Evil is not plain data"),
        ([{"deep": (Evil(),)}], "Evil is not plain data"),
        (ValueError("x"), "ValueError is not plain data"),
        (pickle.PickleBuffer(b"x"), "cannot be sent"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_advice(value: object, words: str) -> None:
    with pytest.raises(Refused) as refusal:
        call.encode_value(value)
    assert words in str(refusal.value)


async def answer() -> int:
    return 42


def test_a_coroutine_is_no_result_and_the_refusal_says_what_to_do() -> None:
    coroutine = answer()
    with pytest.raises(Refused, match=r"coroutine is not plain data: .* asyncio.run\(value\)"):
        call.encode_value(coroutine)
    coroutine.close()


def test_a_value_that_changes_while_it_is_written_is_refused() -> None:
    value: dict[int, complex] = {0: 1j, 1: 2j}
    sys.setprofile(lambda *_: value.setdefault(len(value), 0j))  # runs in the middle, as another thread might
    try:
        with pytest.raises(Refused, match="the value changed while it was written"):
            call.encode_value(value)
    finally:
        sys.setprofile(None)


def test_a_value_nested_too_deeply_is_refused() -> None:
    value: list[object] = []
    for _ in range(sys.getrecursionlimit() * 100):
        value = [value]
    with pytest.raises(Refused, match="nested too deeply"):
        call.encode_value(value)


def test_a_value_over_the_limit_is_refused_and_one_at_the_limit_passes() -> None:
    size = len(call.encode_value(b"x" * 1000))
    assert call.encode_value(b"x" * 1000, size)
    with pytest.raises(TooLarge, match="write a file and send its path"):
        call.encode_value(b"x" * 1000, size - 1)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_names_code_is_refused_before_it_runs(protocol: int) -> None:
    with pytest.raises(Malformed):
        call.decode_value(pickle.dumps(Evil(), protocol))


# Opcodes that size the unpickler's memo by a number of their own (LONG_BINPUT) cost memory, up to gigabytes, and
# are not what is tested here.
LONG_BINPUT = pickle.LONG_BINPUT


@given(st.binary(max_size=200).filter(lambda data: LONG_BINPUT not in data))
def test_rubbish_is_malformed_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        call.decode_value(data)


@given(PLAIN, st.data())
def test_a_damaged_value_is_malformed_or_other_plain_data(value: object, data: st.DataObject) -> None:
    whole = bytearray(call.encode_value(value))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    if LONG_BINPUT in whole:
        return
    with contextlib.suppress(Malformed):
        call.decode_value(bytes(whole))


@pytest.mark.parametrize("value", [7, (1,), ((), {}, ()), ([], {}), ((), [])])
def test_bytes_that_are_no_call_are_malformed(value: object) -> None:
    with pytest.raises(Malformed, match="not a call"):
        call.decode_call(call.encode_value(value))


def test_a_failure_comes_back() -> None:
    failure = Failure("signal", "killed", number=9)
    assert call.decode_failure(call.encode_failure(failure)) == failure


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", call.encode_value(7)])
def test_bytes_that_are_no_failure_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed, match="not a failure"):
        call.decode_failure(data)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (math.factorial, "math.factorial"),
        (operator.add, "operator.add"),
        (len, "builtins.len"),
        (os.path.join, "posixpath.join"),
        (module_level, f"{__name__}.module_level"),
    ],
)
def test_a_function_goes_by_the_module_where_others_find_it(function: object, name: str) -> None:
    assert call.name_of(function) == name  # type: ignore[arg-type]  # mypy sees the join of all rows


def impostor() -> None:
    """Says that it is `math.factorial`."""


impostor.__module__, impostor.__qualname__ = "math", "factorial"


def in_script() -> None:
    """Says that it stands in the script."""


in_script.__module__ = "__main__"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: 0, "lambda"),
        (functools.wraps(len)(functools.partial(len)), "something else"),
        (functools.partial(len), "has no name"),
        ("a".upper, "is a method"),
        (str.upper, "is a method"),
        (pathlib.Path.exists, "is a method"),
        (impostor, "something else"),
        (in_script, "stands in the script itself"),
    ],
)
def test_a_function_that_a_worker_cannot_import_is_refused(function: object, words: str) -> None:
    with pytest.raises(Refused, match=words):
        call.name_of(function)  # type: ignore[arg-type]  # mypy sees the join of all rows


def test_a_nested_function_is_refused() -> None:
    def nested() -> None: ...

    with pytest.raises(Refused, match="inside a function"):
        call.name_of(nested)
