"""A real SMTP server on loopback, in the process of the test, that counts what it takes and can be difficult.

server = MailServer()
server.start()
server.hold("<7@example.org>")       takes that mail, and keeps its sender waiting until `let_go`
server.refuse_first(2)               answers the first two tries of each mail with 451, come back later
server.port
"""

import asyncio
import threading
from collections import Counter
from email import message_from_bytes

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

TAKEN = "250 Message accepted for delivery"
LATER = "451 Requested action aborted: come back later"

PATIENCE = 60.0
"""Seconds within which mails that are waited for must have come."""


class MailServer(Controller):
    """`delivered` and `refused` count by Message-ID. `start` and `stop` are those of aiosmtpd."""

    def __init__(self) -> None:
        super().__init__(self, hostname="127.0.0.1", port=0, ready_timeout=PATIENCE)
        self.delivered: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._refusals = 0
        self._held: set[str] = set()
        self._changed = threading.Condition()
        self._gate = asyncio.Event()

    def hold(self, message_id: str) -> None:
        """Take this mail, and then keep its sender waiting for the answer."""
        self._held.add(message_id)

    def let_go(self) -> None:
        """Give all answers, the held ones too."""
        self.loop.call_soon_threadsafe(self._gate.set)

    def refuse_first(self, tries: int) -> None:
        """Refuse so many tries of each mail for the time being."""
        self._refusals = tries

    def wait_for(self, mails: int) -> None:
        """Return when so many different mails have been taken."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.delivered) >= mails, PATIENCE), len(self.delivered)

    def wait_for_mail(self, message_id: str) -> None:
        """Return when this mail has been taken."""
        with self._changed:
            assert self._changed.wait_for(lambda: message_id in self.delivered, PATIENCE), message_id

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Called by aiosmtpd for each mail."""
        assert isinstance(envelope.content, bytes)
        message_id = str(message_from_bytes(envelope.content)["Message-ID"])
        if self.refused[message_id] < self._refusals:
            self.refused[message_id] += 1
            return LATER
        with self._changed:
            self.delivered[message_id] += 1
            self._changed.notify_all()
        if message_id in self._held:
            await self._gate.wait()
        return TAKEN

    def _trigger_server(self) -> None:
        """Called by aiosmtpd when it listens: the port is known only now."""
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[attr-defined] # an asyncio.Server has them
        super()._trigger_server()
