"""The handshake, both sides against each other and against the one of CPython."""

import random
import threading
from collections.abc import Callable, Generator, Iterator
from multiprocessing import AuthenticationError, Pipe
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdistd.errors import Malformed, WrongKey
from qdistd.protocol import Role
from qdistd.wire.handshake import FAILURE, LONGEST, greet, serve
from qdistd.wire.keyring import Key, Keyring

randbytes = random.Random(3).randbytes

OLD = Key(b"old" * 12, frozenset({Role.SUBMIT}), "old")
NEW = Key(b"new" * 12, frozenset({Role.WORK}), "new")
RING = Keyring([OLD, NEW])
LEGACY_HAIL = b"#CHALLENGE#" + b"l" * 20


def talk(server: Generator[bytes, bytes, Key], client: Generator[bytes, bytes, bytes]) -> Key:
    """Let both sides speak until the server knows the key."""
    next(client)
    message = next(server)
    while True:
        assert len(message) <= LONGEST
        try:
            answer = client.send(message)
        except StopIteration as end:
            answer = end.value
        try:
            message = server.send(answer)
        except StopIteration as end:
            return end.value


def speak(side: Generator[bytes, bytes, Any], connection: Connection) -> Any:
    """One of our sides on a connection of multiprocessing; what it returns."""
    message = next(side)
    while True:
        if message:
            connection.send_bytes(message)
        try:
            message = side.send(connection.recv_bytes())
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("key", [OLD, NEW], ids=lambda key: key.label)
def test_the_key_that_was_shown_is_told(key: Key) -> None:
    assert talk(serve(RING, randbytes), greet(key.secret, randbytes)) == key


def test_another_key_is_refused() -> None:
    with pytest.raises(WrongKey):
        talk(serve(RING, randbytes), greet(b"another", randbytes))


def test_an_empty_keyring_admits_nobody() -> None:
    with pytest.raises(WrongKey):
        talk(serve(Keyring([]), randbytes), greet(b"", randbytes))


@pytest.mark.parametrize("key", [OLD, NEW], ids=lambda key: key.label)
def test_every_key_is_tried_whichever_fits(key: Key) -> None:
    class Counting(Keyring):
        tried = 0

        def __iter__(self) -> Iterator[Key]:
            for entry in super().__iter__():
                self.tried += 1
                yield entry

    ring = Counting(RING)
    ring.tried = 0
    talk(serve(ring, randbytes), greet(key.secret, randbytes))
    assert ring.tried == 2


def test_the_stock_client_of_this_python_is_understood() -> None:
    ours, theirs = Pipe()

    def stock() -> None:
        answer_challenge(theirs, NEW.secret)
        deliver_challenge(theirs, NEW.secret)

    thread = threading.Thread(target=stock)
    thread.start()
    assert speak(serve(RING, randbytes), ours) == NEW
    thread.join()


def test_the_stock_server_of_this_python_is_understood() -> None:
    ours, theirs = Pipe()

    def stock() -> None:
        deliver_challenge(theirs, NEW.secret)
        answer_challenge(theirs, NEW.secret)

    thread = threading.Thread(target=stock)
    thread.start()
    ours.send_bytes(speak(greet(NEW.secret, randbytes, "md5"), ours))
    thread.join()


def test_a_stock_server_with_another_key_says_so() -> None:
    ours, theirs = Pipe()
    seen: list[str] = []

    def stock() -> None:
        try:
            deliver_challenge(theirs, b"another")
        except AuthenticationError as error:
            seen.append(str(error))

    thread = threading.Thread(target=stock)
    thread.start()
    with pytest.raises(WrongKey, match="does not accept"):
        speak(greet(NEW.secret, randbytes, "md5"), ours)
    thread.join()
    assert seen == ["digest received was wrong"]


def test_a_server_that_insists_on_sha256_refuses_a_bare_md5() -> None:
    side = serve(RING, randbytes, "sha256")
    next(side)
    with pytest.raises(WrongKey, match="MD5 only"):
        side.send(b"m" * 16)


def test_our_client_does_not_answer_a_challenge_for_md5() -> None:
    side = greet(OLD.secret, randbytes)
    next(side)
    with pytest.raises(WrongKey, match="MD5 only"):
        side.send(LEGACY_HAIL)


def test_a_server_without_the_key_gets_no_client_to_vouch_for_it() -> None:
    victim, other = (greet(OLD.secret, randbytes) for _ in range(2))
    next(victim)
    victim.send(b"#CHALLENGE#{sha256}" + b"r" * 40)
    challenge = victim.send(b"#WELCOME#")
    next(other)
    with pytest.raises(WrongKey, match="of another client"):
        other.send(challenge)


def test_a_server_that_cannot_answer_has_the_wrong_key() -> None:
    side = greet(OLD.secret, randbytes)
    next(side)
    side.send(b"#CHALLENGE#{sha256}" + b"r" * 40)
    side.send(b"#WELCOME#")
    with pytest.raises(WrongKey):
        side.send(b"{sha256}" + b"0" * 32)


@pytest.mark.parametrize("side", [lambda: serve(RING, randbytes), lambda: greet(OLD.secret, randbytes)])
@given(
    st.lists(
        st.sampled_from([LEGACY_HAIL, b"#CHALLENGE#{sha256}" + b"x" * 40, b"#WELCOME#", FAILURE]) | st.binary(),
        min_size=1,
        max_size=4,
    )
)
def test_a_stranger_gets_no_further_whatever_it_says(side: Callable[[], Any], messages: list[bytes]) -> None:
    speaker = side()
    next(speaker)
    with pytest.raises((Malformed, WrongKey)):
        for message in (*messages, b"the end"):
            speaker.send(message)
