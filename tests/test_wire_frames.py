"""A stream may be cut anywhere: the frames that come out are the frames that went in."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdistd.errors import Malformed, TooLarge
from qdistd.wire.frames import FrameReader, framed

LIMIT = 300

bodies = st.lists(st.binary(max_size=LIMIT + 40), max_size=12)
cuts = st.lists(st.integers(1, 60), min_size=1, max_size=40)


def chunks(stream: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """The stream in pieces of these sizes, over and over."""
    at = 0
    while at < len(stream):
        for size in sizes:
            yield stream[at : at + size]
            at += size


def read(reader: FrameReader, stream: Iterator[bytes]) -> list[bytes | None]:
    """All frames; None for one that was too large."""
    found: list[bytes | None] = []
    for chunk in stream:
        reader.feed(chunk)
        while True:
            try:
                frame = reader.next()
            except TooLarge:
                found.append(None)
                continue
            if frame is None:
                break
            found.append(bytes(frame))
    return found


@given(bodies, cuts)
def test_frames_come_out_as_they_went_in_and_one_too_large_costs_no_other(bodies: list[bytes], cuts: list[int]) -> None:
    reader = FrameReader(LIMIT)
    found = read(reader, chunks(b"".join(map(framed, bodies)), cuts))
    assert found == [body if len(body) <= LIMIT else None for body in bodies]
    assert reader.held == 0


@given(st.lists(st.binary(max_size=LIMIT), max_size=8), cuts)
def test_frames_may_be_taken_later_than_they_came(bodies: list[bytes], cuts: list[int]) -> None:
    reader = FrameReader(LIMIT)
    stream = b"".join(map(framed, bodies))
    for chunk in chunks(stream, cuts):
        reader.feed(chunk)
    assert reader.held == len(stream)
    assert read(reader, iter([b""])) == bodies


def test_a_frame_stays_as_it_was_when_more_comes() -> None:
    reader = FrameReader(LIMIT)
    reader.feed(framed(b"first") + b"\0")
    first = reader.next()
    reader.feed(b"\0\0\6second")
    second = reader.next()
    assert (first, second) == (b"first", b"second")


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\x80\0\0\0"])
def test_a_length_that_no_frame_can_have_is_malformed(length: bytes) -> None:
    reader = FrameReader(LIMIT)
    reader.feed(length)
    with pytest.raises(Malformed, match="announced"):
        reader.next()


def test_the_limit_may_grow_between_frames() -> None:
    reader = FrameReader(4)
    reader.feed(framed(b"tiny") + framed(b"much larger"))
    assert reader.next() == b"tiny"
    reader.limit = LIMIT
    assert reader.next() == b"much larger"


def test_an_announced_frame_takes_no_memory_before_its_bytes_are_there() -> None:
    reader = FrameReader(0x7FFFFFFF)
    reader.feed(b"\x7f\xff\xff\xff12345")
    assert reader.next() is None
    assert reader.held == 9
