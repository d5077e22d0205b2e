"""The handshake of `multiprocessing.connection`, without any I/O: both sides as generators over messages.

    client                               server
       ◄── #CHALLENGE#{sha256}<40 random> ──
       ── {sha256}<mac>, or bare md5 ──────►     tried against every key: the one that fits gives the roles
       ◄── #WELCOME# or #FAILURE# ──────────
       ── #CHALLENGE#<client's own> ───────►
       ◄── mac ─────────────────────────────
       ── #WELCOME# ───────────────────────►

CPython up to 3.11 challenges with 20 bare bytes and answers every challenge with a bare HMAC-MD5; from 3.12 on
challenge and answer name their digest (gh-61460, Lib/multiprocessing/connection.py).

The stock handshake lets a server without the key have one client answer the challenge of another. Our clients mark
their challenges and refuse to answer a marked one, so that none of them can be made to vouch for such a server.
"""

import hmac
from collections.abc import Callable, Generator
from typing import Literal

from qdistd.errors import Malformed, WrongKey
from qdistd.wire.keyring import Key, Keyring

Digest = Literal["md5", "sha256"]
RandomBytes = Callable[[int], bytes]

LONGEST = 256
"""Bytes in a message of the handshake at most; the stock side refuses longer ones too."""

FAILURE = b"#FAILURE#"
"""What a server tells a peer that it does not admit, whatever the reason."""

_CHALLENGE = b"#CHALLENGE#"
_WELCOME = b"#WELCOME#"
_MODERN = b"{sha256}"
_OURS = _MODERN + b"qdist client:"
_NONCE = 40
_LEGACY_CHALLENGE = 20
_LEGACY_ANSWER = 16


def serve(keyring: Keyring, randbytes: RandomBytes, min_digest: Digest = "md5") -> Generator[bytes, bytes, Key]:
    """The server's side: yields what to send, takes what came, returns the key that the client holds.

    WrongKey: the client holds none of them; Malformed: it says something else. Either way it hears `FAILURE`.
    """
    challenge = _MODERN + randbytes(_NONCE)
    answer = yield _CHALLENGE + challenge
    key = _holder(keyring, challenge, answer, min_digest)
    theirs = yield _WELCOME
    verdict = yield _answer(key.secret, _challenge_in(theirs), min_digest)
    _must_welcome(verdict)
    return key


def greet(secret: bytes, randbytes: RandomBytes, min_digest: Digest = "sha256") -> Generator[bytes, bytes, bytes]:
    """The client's side: first yields nothing, as the server speaks first; returns the last message to send.

    WrongKey: the server does not hold `secret`; Malformed: it does not speak this protocol.
    """
    hail = yield b""
    challenge = _challenge_in(hail)
    if challenge.startswith(_OURS):
        raise WrongKey("the server passes on the challenge of another client: it does not hold the key")
    verdict = yield _answer(secret, challenge, min_digest)
    _must_welcome(verdict)
    ours = _OURS + randbytes(_NONCE)
    proof = yield _CHALLENGE + ours
    _holder(Keyring([Key(secret, frozenset())]), ours, proof, min_digest)
    return _WELCOME


def _holder(keyring: Keyring, challenge: bytes, answer: bytes, min_digest: Digest) -> Key:
    """The key that answers the challenge so. Every key is tried, whichever fits, so that time tells nothing."""
    digest, mac = _taken_apart(answer)
    _must_suffice(digest, min_digest)
    holder = None
    for key in keyring:
        if hmac.compare_digest(_mac(key.secret, challenge, digest), mac):
            holder = key
    if holder is None:
        raise WrongKey("the other side does not hold this key")
    return holder


def _answer(secret: bytes, challenge: bytes, min_digest: Digest) -> bytes:
    if len(challenge) == _LEGACY_CHALLENGE:
        _must_suffice("md5", min_digest)
        return _mac(secret, challenge, "md5")
    if not challenge.startswith(_MODERN):
        raise Malformed("a challenge has 20 bytes or starts with {sha256}")
    return _MODERN + _mac(secret, challenge, "sha256")


def _taken_apart(answer: bytes) -> tuple[Digest, bytes]:
    if len(answer) == _LEGACY_ANSWER:
        return "md5", answer
    if answer.startswith(_MODERN):
        return "sha256", answer.removeprefix(_MODERN)
    if answer == FAILURE:
        raise WrongKey("the other side does not hold this key")
    raise Malformed("an answer to a challenge has 16 bytes or starts with {sha256}")


def _challenge_in(message: bytes) -> bytes:
    if not message.startswith(_CHALLENGE):
        raise Malformed(f"expected #CHALLENGE#, got {message[:20]!r}")
    return message.removeprefix(_CHALLENGE)


def _must_welcome(verdict: bytes) -> None:
    if verdict == FAILURE:
        raise WrongKey("the other side does not accept this key")
    if verdict != _WELCOME:
        raise Malformed(f"expected #WELCOME#, got {verdict[:20]!r}")


def _must_suffice(digest: Digest, min_digest: Digest) -> None:
    if digest == "md5" and min_digest == "sha256":
        raise WrongKey("the other side offers MD5 only (CPython 3.11 or older), sha256 is required")


def _mac(secret: bytes, message: bytes, digest: Digest) -> bytes:
    try:
        return hmac.digest(secret, message, digest)
    except ValueError as error:
        raise WrongKey(f"this host does not allow {digest} (FIPS mode): {error}") from error
