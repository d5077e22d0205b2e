"""The tasks that come with qdist: to try it, and to show how one is written.

A task is a plain function in a module that `[worker] tasks` names. Its arguments and its result are plain data. It
may start more than once, when a worker dies under it, so it is best written so that a repeat does no harm.

    qdist submit --wait square 7
    qdist submit --wait count_lines /var/log/syslog
    qdist submit send_mail ops@example.org "disk full" "on host7" --kw sender=qdist@example.org
"""

import smtplib
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

BLOCK = 1 << 20
"""Bytes read at once: few system calls, and it fits into the cache of a processor."""

SMTP_PATIENCE = 30.0
"""Seconds that a mail server may take for each answer; RFC 5321 wants minutes, but a retry is better than a wait."""


def square(n: int) -> str:
    """The square of a number in words: `square(7)` is `"7 * 7 = 49"`.

    qdist submit --wait square 7
    """
    return f"{n} * {n} = {n * n}"


def count_lines(path: str) -> int:
    """How many lines the file `path` has; a last line without a newline at its end counts.

    The path must mean the same on every worker of the queue: use a share, or a queue for each host. OSError where
    the file cannot be read.

    qdist submit --wait count_lines /srv/share/access.log
    """
    lines, block, last = 0, bytearray(BLOCK), bytearray(b"\n")
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - Path.open is the same with one more step
        while size := file.readinto(block):
            lines += block.count(b"\n", 0, size)
            last = block[size - 1 : size]
    return lines + (last != b"\n")


def send_mail(
    to: str | Sequence[str],
    subject: str,
    body: str,
    *,
    sender: str,
    host: str = "127.0.0.1",
    port: int = 25,
    message_id: str | None = None,
) -> dict[str, object]:
    """Send a plain text mail through the mail server at `host`, by default the one of the worker's own host.

    Returns `{"message_id": …, "refused": {address: reason}}`: the server took it for all others. If it refuses every
    recipient, the sender or the text, the task fails with its words (`smtplib.SMTPException`), and with OSError if
    it does not answer within half a minute. Give a `message_id` of your own (`"<report-2024-05@example.org>"`) and
    a repeat can be told from a second mail, by people and by servers that drop duplicates.

    qdist submit --retries 5 send_mail ops@example.org Hello "It works." --kw sender=qdist@example.org
    """
    recipients = [to] if isinstance(to, str) else list(to)
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, ", ".join(recipients), subject
    mail["Date"] = formatdate(localtime=True)
    mail["Message-ID"] = message_id or make_msgid(domain=sender.rpartition("@")[2] or None)
    mail.set_content(body)
    with smtplib.SMTP(host, port, timeout=SMTP_PATIENCE) as server:
        refused = server.send_message(mail, sender, recipients)
    reasons = {address: f"{code} {words.decode(errors='replace')}" for address, (code, words) in refused.items()}
    return {"message_id": str(mail["Message-ID"]), "refused": reasons}
