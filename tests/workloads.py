"""Real work for tests of faults: it can be stopped in its middle, and says itself whether it has come back whole.

work.begin(q)            everything is submitted
work.reach_middle()      one task of it runs, and goes on running
work.held                that task; None where it cannot be told which one
work.let_go()            it may come to its end
work.finish()            wait for all results, check every one
work.tasks               how many tasks it was
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from daemons import DEADLINE
from gate import Gate
from mail_server import MailServer

from qdistd import Client, Handle

PATIENCE = 60.0
"""Seconds for all results of a workload after its last fault."""


class Workload(Protocol):
    """See the head of this file."""

    tasks: int
    held: Handle[Any] | None

    def begin(self, q: Client) -> None: ...
    def reach_middle(self) -> None: ...
    def let_go(self) -> None: ...
    def finish(self) -> None: ...


class Squares:
    """A stream of squares that lasts until it is finished: whatever happens, it happens in its middle."""

    WINDOW = 1000

    def __init__(self, folder: Path) -> None:
        self.tasks = 0
        self.held = None
        self._over = threading.Event()
        self._flows = threading.Event()
        self._executor = ThreadPoolExecutor(1)
        self._stream: Future[None]

    def begin(self, q: Client) -> None:
        self._stream = self._executor.submit(self._run, q)

    def reach_middle(self) -> None:
        assert self._flows.wait(DEADLINE), self._stream

    def let_go(self) -> None:
        self._over.set()

    def finish(self) -> None:
        self._stream.result(PATIENCE)
        self._executor.shutdown()

    def _run(self, q: Client) -> None:
        for n, result in enumerate(q.map("square", self._numbers(), window=self.WINDOW)):
            assert result == f"{n} * {n} = {n * n}"
            if n == self.WINDOW:
                self._flows.set()

    def _numbers(self) -> Iterator[int]:
        while not self._over.is_set():
            yield self.tasks
            self.tasks += 1


class Files:
    """Files whose lines are counted. One of them has an end only when the test says so."""

    LINES = range(20)

    def __init__(self, folder: Path) -> None:
        self.tasks = len(self.LINES) + 1
        self.held: Handle[int] | None = None
        self.gate = Gate(folder / "gate")
        self._handles: list[Handle[int]] = []
        self._folder = folder

    def begin(self, q: Client) -> None:
        self.held = q.submit("count_lines", self.gate.path)
        for lines in self.LINES:
            path = self._folder / f"{lines} lines.log"
            path.write_text("one line of a log\n" * lines)
            self._handles.append(q.submit("count_lines", str(path)))

    def reach_middle(self) -> None:
        self.gate.reached()

    def let_go(self) -> None:
        self.gate.let_go(lines=3)

    def finish(self) -> None:
        assert self.held and self.held.result(PATIENCE) == 3
        assert [handle.result(PATIENCE) for handle in self._handles] == list(self.LINES)


class Mails:
    """Mails to a real server, which has taken one of them and keeps its sender waiting for the answer."""

    MAILS = 50
    HELD = 7

    def __init__(self, folder: Path) -> None:
        self.tasks = self.MAILS
        self.held: Handle[Any] | None = None
        self.server = MailServer()
        self._handles: list[Handle[Any]] = []

    def begin(self, q: Client) -> None:
        self.server.start()
        self.server.hold(message_id(self.HELD))
        self._handles = [submit_mail(q, self.server, number) for number in range(self.MAILS)]
        self.held = self._handles[self.HELD]

    def reach_middle(self) -> None:
        self.server.wait_for_mail(message_id(self.HELD))

    def let_go(self) -> None:
        self.server.let_go()

    def finish(self) -> None:
        for number, handle in enumerate(self._handles):
            assert handle.result(PATIENCE) == {"message_id": message_id(number), "refused": {}}
            assert 1 <= self.server.delivered[message_id(number)] <= handle.attempt
        assert self.held and self.server.delivered[message_id(self.HELD)] == self.held.attempt
        self.server.stop()


def message_id(number: int) -> str:
    """The Message-ID of a mail."""
    return f"<{number}@test.example.org>"


def submit_mail(q: Any, server: MailServer, number: int) -> Handle[Any]:
    """Have one mail sent."""
    return q.submit(  # type: ignore[no-any-return] # a client, or a view of one
        "send_mail",
        f"user{number}@example.org",
        f"Report {number}",
        f"This is report number {number}.\n",
        sender="qdist@example.org",
        port=server.port,
        message_id=message_id(number),
    )
