"""A thousand mails through a real SMTP server: each is delivered at least once, and `attempt` announces each repeat."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from audit import causes_of_repeats
from cluster import Cluster
from mail_server import MailServer
from workloads import PATIENCE, message_id, submit_mail

from qdistd import Client, Handle, TaskFailed

MAILS = 1000


@pytest.fixture
def server() -> Iterator[MailServer]:
    """A running mail server."""
    server = MailServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def q(cluster: Cluster) -> Iterator[Client]:
    """A client of `cluster`."""
    with cluster.client() as client:
        yield client


def submit_mails(q: Any, server: MailServer, mails: int) -> list[Handle[Any]]:
    return [submit_mail(q, server, number) for number in range(mails)]


def attempts_of(handles: list[Handle[Any]]) -> dict[str, int]:
    """How often each mail was started, once all have ended well."""
    for number, handle in enumerate(handles):
        assert handle.result(PATIENCE) == {"message_id": message_id(number), "refused": {}}
    return {message_id(number): handle.attempt for number, handle in enumerate(handles)}


def test_a_thousand_mails_are_delivered_once_each(
    q: Client, server: MailServer, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    attempts = attempts_of(submit_mails(q, server, MAILS))
    seconds = time.monotonic() - began
    assert server.delivered == dict.fromkeys(attempts, 1)
    assert causes_of_repeats(q, MAILS).keys() <= {"released"}, "an attempt that had not begun may be handed back"
    with capsys.disabled():
        print(f"\n{MAILS} mails in {seconds:.1f} s, each delivered once")


def test_every_repeat_by_a_worker_that_was_killed_is_announced_by_attempt(
    q: Client, server: MailServer, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    unanswered = {message_id(MAILS // 4), message_id(MAILS // 2)}
    for mail in sorted(unanswered):
        server.hold(mail)
    handles = submit_mails(q, server, MAILS)
    for mail in unanswered:
        server.wait_for_mail(mail)
    for worker in cluster.workers:
        worker.kill()
        worker.start()
    server.let_go()
    attempts = attempts_of(handles)
    assert server.delivered.keys() == attempts.keys()
    repeated = {mail for mail, times in server.delivered.items() if times > 1}
    assert unanswered <= repeated
    assert all(times <= attempts[mail] for mail, times in server.delivered.items())
    assert all(server.delivered[mail] == attempts[mail] == 2 for mail in unanswered)
    causes = causes_of_repeats(q, MAILS)
    assert causes.keys() <= {"lost", "released"}
    with capsys.disabled():
        print(
            f"\n{MAILS} mails, both workers killed: {len(repeated)} delivered twice, {causes.total()} attempts repeated"
        )


def test_a_server_that_says_later_is_asked_again_until_it_takes_the_mail(q: Client, server: MailServer) -> None:
    server.refuse_first(2)
    attempts = attempts_of(submit_mails(q.options(retries=2, backoff=0.2), server, 50))
    assert server.delivered == dict.fromkeys(attempts, 1)
    assert server.refused == dict.fromkeys(attempts, 2)
    assert causes_of_repeats(q, 50)["failed"] == 100


def test_a_mail_whose_retries_are_used_up_fails_with_the_words_of_the_server(q: Client, server: MailServer) -> None:
    server.refuse_first(2)
    with pytest.raises(TaskFailed, match=r"SMTPDataError: \(451, .*come back later.*attempt 2"):
        submit_mail(q.options(retries=1, backoff=0.2), server, 1).result(PATIENCE)
    assert not server.delivered
