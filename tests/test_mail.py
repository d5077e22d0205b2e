"""A mail queue: a thousand mails through a real SMTP server on loopback, each delivered at least once."""

import smtplib
import threading
from collections import Counter
from collections.abc import Iterator
from email import message_from_bytes
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from conftest import NewCluster

from qdistd import Client, Handle

MAILS = 1000


class Mailbox:
    """Counts what is delivered, by Message-ID. `refusals`: how many mails are turned away for now first."""

    def __init__(self) -> None:
        self.delivered: Counter[str] = Counter()
        self.refusals = 0
        self.refused = 0
        self.changed = threading.Condition()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        with self.changed:
            if self.refused < self.refusals:
                self.refused += 1
                return "451 come back later"
            content = envelope.content
            assert isinstance(content, bytes)
            self.delivered[str(message_from_bytes(content)["Message-ID"])] += 1
            self.changed.notify_all()
        return "250 OK"

    def wait_for(self, mails: int) -> None:
        """Return when so many have been delivered."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.delivered.total() >= mails, 120)


class Server(Controller):
    """On whatever port is free, which it learns once it listens."""

    def _trigger_server(self) -> None:
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[attr-defined] # an asyncio.Server has them
        super()._trigger_server()


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def port(mailbox: Mailbox) -> Iterator[int]:
    """The port of a running SMTP server."""
    server = Server(mailbox, hostname="127.0.0.1", port=0, ready_timeout=30)
    server.start()
    yield server.port
    server.stop()


def send(q: Client, port: int, count: int, **options: Any) -> list[Handle[Any]]:
    q = q.options(**options) if options else q  # type: ignore[assignment] # a view submits as its client does
    return [
        q.submit(
            "send_mail",
            f"user{n}@example.org",
            "a thousand mails",
            f"mail number {n}\n",
            sender="qdist@example.org",
            port=port,
            message_id=f"<{n}@test.example.org>",
        )
        for n in range(count)
    ]


def expect_everything(mailbox: Mailbox, handles: list[Handle[Any]], timeout: float = 120) -> None:
    """Each mail at least once, and every repeat announced by `attempt`."""
    for handle in handles:
        handle.result(timeout)
    attempts = {f"<{n}@test.example.org>": handle.attempt for n, handle in enumerate(handles)}
    assert mailbox.delivered.keys() == attempts.keys()
    assert all(times <= attempts[mail] for mail, times in mailbox.delivered.items())


def test_a_thousand_mails_are_each_delivered_once_when_nothing_fails(
    new_cluster: NewCluster, mailbox: Mailbox, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with new_cluster().client() as q:
        handles = send(q, port, MAILS)
        expect_everything(mailbox, handles)
    assert set(mailbox.delivered.values()) == {1}
    assert {handle.attempt for handle in handles} <= {1, 2}, "a task that was handed back unstarted counts two leases"
    with capsys.disabled():
        print(f"\n{MAILS} mails, {mailbox.delivered.total()} deliveries")


def test_mails_survive_workers_that_are_killed_and_repeats_show_in_attempt(
    new_cluster: NewCluster, mailbox: Mailbox, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = new_cluster()
    with cluster.client() as q:
        handles = send(q, port, MAILS)
        for number, worker in enumerate(cluster.workers):
            mailbox.wait_for(MAILS // 4 * (number + 1))
            worker.kill()
            worker.start()
        expect_everything(mailbox, handles)
    with capsys.disabled():
        repeats = mailbox.delivered.total() - MAILS
        print(
            f"\n{MAILS} mails, two workers killed: {repeats} repeats, {sum(h.attempt > 1 for h in handles)} announced"
        )


def test_a_mail_server_that_says_later_is_asked_again_until_it_takes_the_mail(
    new_cluster: NewCluster, mailbox: Mailbox, port: int
) -> None:
    mailbox.refusals = 20
    with new_cluster().client() as q:
        handles = send(q, port, 20, retries=10, backoff=0.2)
        expect_everything(mailbox, handles)
    assert mailbox.refused == 20
    assert set(mailbox.delivered.values()) == {1}


def test_the_server_of_these_tests_is_a_real_one(mailbox: Mailbox, port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as server:
        server.sendmail("a@example.org", ["b@example.org"], "Message-ID: <x@y>\r\n\r\nhello\r\n")
    assert mailbox.delivered == {"<x@y>": 1}
