"""The control socket: a question to a daemon of this host, and its answer once the thing is done.

    qdist-master --reload ──{"verb": "reload", "keys": {…}}──> /run/qdist-master/control ──note──> the daemon's loop
                          <──────{"ok": true, "text": ""}──── after the last step, not before

One line of JSON each way, over a Unix socket that its owner alone may open; who asks is root or the daemon's own user,
as the kernel says (SO_PEERCRED). A `Request` holds nothing but a plain socket: it can outlive an exec of its process,
and the next image answers it (`Request.leave`, then `Request(socket.socket(fileno=…), keys)`).
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from qdistd.errors import Refused, Unavailable

ANSWER = 60.0
"""Seconds the command waits for its answer: less than systemd gives a reload (TimeoutStartSec=), so that we say why."""

HEARING = 5.0
"""Seconds from a connection to its question."""

TELLING = 1.0
"""Seconds that an answer may wait for its reader, while the daemon stands still. It fits into the socket's buffer."""

LARGEST = 512 * 1024
"""Bytes of a line: three keys of the largest size as base64, or a screenful of errors."""

MODE = 0o600

_CREDENTIALS = struct.Struct("3i")


class Ask(msgspec.Struct):
    """What a command wants. `keys`: key files as they are now, by name, for a daemon that lives on credentials."""

    verb: str
    keys: dict[str, bytes] = {}


class Verdict(msgspec.Struct):
    """What came of it. `text`: what a person should read, a line for each problem."""

    ok: bool
    text: str = ""


class Request:
    """A reload that somebody wants: over a connection, or by a signal (None), which nobody waits for."""

    def __init__(self, connection: socket.socket | None = None, keys: Mapping[str, bytes] | None = None) -> None:
        self.keys = keys or {}
        """Fresh key files, by name; only root hands any over."""
        self._connection = connection

    def leave(self) -> tuple[int, dict[str, bytes]]:
        """A descriptor of the connection that waits, for the next image of this program, and the keys.

        -1: nobody waits.
        """
        return os.dup(self._connection.fileno()) if self._connection else -1, dict(self.keys)

    def tell(self, verdict: Verdict) -> None:
        """Answer, once. Who has gone away meanwhile is not missed."""
        if self._connection is None:
            return
        with contextlib.suppress(OSError), self._connection as connection:
            connection.settimeout(TELLING)
            connection.sendall(_line(verdict))
        self._connection = None


class Control:
    """Listens at `path` and gives every request to `hear`, which keeps them in order."""

    def __init__(self, path: Path, hear: Callable[[Request], None]) -> None:
        self._path = path
        self._hear = hear
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        """Listen. The socket that a dead daemon left behind is replaced. OSError where that cannot be."""
        self._path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(self._path))
        self._path.chmod(MODE)  # before it listens: nobody could connect so far
        self._server = await asyncio.start_unix_server(self._met, sock=sock, limit=LARGEST)

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        request = Request(socket.socket(fileno=os.dup(sock.fileno())))
        try:
            uid = _user(sock)
            line = await asyncio.wait_for(reader.readline(), HEARING)
            request.keys = keys_of(uid, line)
        except (Refused, ValueError, OSError, TimeoutError) as problem:  # ValueError: longer than LARGEST
            request.tell(Verdict(False, str(problem)))
        else:
            self._hear(request)
        finally:
            writer.transport.abort()  # the request has a descriptor of its own


def ask(path: Path, question: Ask, patience: float = ANSWER) -> Verdict:
    """Ask the daemon that listens at `path`, and wait for its answer. Unavailable where none comes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(patience)
        try:
            connection.connect(str(path))
            connection.sendall(_line(question))
            with connection.makefile("rb") as answer:
                line = answer.readline(LARGEST)
        except TimeoutError:
            raise Unavailable(f"{path}: no answer within {patience:g} seconds") from None
        except OSError as problem:
            raise Unavailable(f"{path}: no daemon answers there ({problem.strerror})") from None
    try:
        return msgspec.json.decode(line, type=Verdict)
    except msgspec.DecodeError:
        raise Unavailable(f"{path}: the daemon ended before it had answered") from None


def keys_of(uid: int, line: bytes) -> Mapping[str, bytes]:
    """The keys that came with a question of this user. Refused: we do not hear that user, or know no such word."""
    if uid not in (0, os.geteuid()):
        raise Refused(f"user {uid} may not control this daemon")
    try:
        question = msgspec.json.decode(line, type=Ask)
    except msgspec.DecodeError as error:
        raise Refused(f"no question: {error}") from None
    if question.verb != "reload":
        raise Refused(f"{question.verb!r} is nothing this daemon can do")
    return question.keys if uid == 0 else {}


def _user(sock: socket.socket) -> int:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


def _line(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message) + b"\n"
