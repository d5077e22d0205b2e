"""The tasks that come with qdist."""

import os
import socket
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from qdistd import tasks
from qdistd.call import decode_value, encode_value


@pytest.mark.parametrize(("n", "text"), [(7, "7 * 7 = 49"), (0, "0 * 0 = 0"), (-3, "-3 * -3 = 9")])
def test_square_says_what_the_original_said(n: int, text: str) -> None:
    assert tasks.square(n) == text


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", 0),
        (b"one", 1),
        (b"one\n", 1),
        (b"one\ntwo", 2),
        (b"\n\n\n", 3),
        (b"\xff\xfe\n\0", 2),
        (b"x" * tasks.BLOCK, 1),
        (b"x" * (tasks.BLOCK - 1) + b"\n", 1),
        (b"x" * (tasks.BLOCK - 1) + b"\ny", 2),
        (b"line\n" * tasks.BLOCK, tasks.BLOCK),
    ],
)
def test_count_lines_counts_the_last_one_too(content: bytes, lines: int, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    assert tasks.count_lines(str(path)) == lines


def test_count_lines_counts_what_comes_in_pieces(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"one\ntwo\nthree")
    os.close(writer)
    assert tasks.count_lines(f"/dev/fd/{reader}") == 3
    os.close(reader)


def test_count_lines_fails_where_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tasks.count_lines(str(tmp_path / "nothing"))


class Postbox:
    """A mail server that refuses whoever is called `nobody`."""

    def __init__(self) -> None:
        self.mails: list[Envelope] = []

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody"):
            return "550 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.mails.append(envelope)
        return "250 OK"


class AnyPort(Controller):
    """A controller whose server listens where the system finds a free port."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@pytest.fixture
def server() -> Iterator[AnyPort]:
    controller = AnyPort(Postbox(), hostname="127.0.0.1", port=0)
    controller.start()
    yield controller
    controller.stop()


def test_a_mail_arrives_as_it_was_written(server: AnyPort) -> None:
    answer = tasks.send_mail("ops@example.org", "Grüße", "It works.\n", sender="qdist@example.org", port=server.port)
    [envelope] = server.handler.mails
    mail = message_from_bytes(envelope.content)
    assert (envelope.mail_from, envelope.rcpt_tos) == ("qdist@example.org", ["ops@example.org"])
    assert mail["From"] == "qdist@example.org"
    assert mail["To"] == "ops@example.org"
    assert mail["Date"]
    assert mail.get_payload(decode=True) == b"It works.\r\n"
    assert answer == {"message_id": mail["Message-ID"], "refused": {}}
    assert mail["Message-ID"].endswith("@example.org>")
    assert decode_value(encode_value(answer)) == answer


def test_a_mail_that_is_sent_again_keeps_its_id(server: AnyPort) -> None:
    for _ in range(2):
        tasks.send_mail("a@b.c", "s", "b", sender="d@e.f", port=server.port, message_id="<report-1@e.f>")
    ids = [message_from_bytes(envelope.content)["Message-ID"] for envelope in server.handler.mails]
    assert ids == ["<report-1@e.f>"] * 2


def test_recipients_that_the_server_refuses_are_named(server: AnyPort) -> None:
    answer = tasks.send_mail(["a@b.c", "nobody@b.c"], "s", "b", sender="d@e.f", port=server.port)
    assert answer["refused"] == {"nobody@b.c": "550 no such user here"}


def test_a_mail_that_nobody_gets_is_a_failure(server: AnyPort) -> None:
    with pytest.raises(OSError, match="no such user here"):
        tasks.send_mail("nobody@b.c", "s", "b", sender="d@e.f", port=server.port)


def test_a_header_cannot_be_smuggled_in(server: AnyPort) -> None:
    with pytest.raises(ValueError, match="linefeed"):
        tasks.send_mail("a@b.c", "s\nBcc: all@b.c", "b", sender="d@e.f", port=server.port)


def test_a_server_that_is_not_there_is_an_error() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            tasks.send_mail("a@b.c", "s", "b", sender="d@e.f", port=closed.getsockname()[1])
