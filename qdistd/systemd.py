"""The protocols between a service and systemd: a few datagrams and environment variables.

    READY, STATUS, WATCHDOG …   ──datagram──> $NOTIFY_SOCKET       sd_notify(3)
    listening sockets           <──fds 3, 4 …─ $LISTEN_FDS          sd_listen_fds(3)
    log records with fields     ──datagram──> the journal          systemd.io/JOURNAL_NATIVE_PROTOCOL

systemd promises that these stay as they are, so no library stands between.
"""

import array
import errno
import fcntl
import hashlib
import logging
import os
import select
import socket
import struct
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

FIRST_FD = 3
"""Descriptors handed over start here (SD_LISTEN_FDS_START)."""

PATIENCE = 5.0
"""Seconds that a message waits for a busy manager. Losing READY=1 would cost the whole start."""

MACHINE_ID = 32
"""Characters of a machine id; on a first boot the file may hold the word `uninitialized`."""

JOURNAL = Path("/run/systemd/journal/socket")

PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""The syslog priority of a level, and of those up to the one before; below INFO it is 7, debug."""

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""journald takes a message by descriptor only when nobody can change it any more."""


def notify(*, fds: Sequence[int] = (), patience: float = PATIENCE, **fields: object) -> bool:
    """Tell the service manager, e.g. `notify(READY=1, STATUS="3 running")` or `notify(fds=[7], FDSTORE=1)`.

    Never raises: False where there is no manager, or where it has not taken the message after `patience`
    seconds (0: do not wait at all, for what is said again soon).
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    text = "\n".join(f"{key}={' '.join(str(value).splitlines())}" for key, value in fields.items())
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(patience)
        try:
            # connected, or else poll() would call a full queue writable and the wait would be a busy one
            sender.connect("\0" + address[1:] if address[0] == "@" else address)
            sender.sendmsg([text.encode(errors="backslashreplace")], rights)
        except OSError:
            return False
    return True


def barrier(patience: float = PATIENCE) -> None:
    """Return when the manager has done what was said to it so far, or after `patience` seconds (sd_notify_barrier)."""
    reader, writer = os.pipe()
    told = notify(fds=[writer], BARRIER=1)
    os.close(writer)
    if told:
        ended = select.poll()
        ended.register(reader, 0)
        ended.poll(patience * 1000)
    os.close(reader)


def listen_fds(environ: MutableMapping[str, str]) -> list[tuple[str, int]]:
    """The sockets that the manager hands over, as (name, descriptor), in its order.

    Takes the variables out of `environ`, as the sockets are not for the children of this process.
    """
    pid, count, names = (environ.pop(f"LISTEN_{key}", "") for key in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    fds = range(FIRST_FD, FIRST_FD + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    named = names.split(":") if names else ["unknown"] * len(fds)
    return list(zip(named, fds, strict=False))


def watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Seconds after which the manager ends a service that did not say WATCHDOG=1; None: it does not watch."""
    period, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not period.isdigit() or pid not in ("", str(os.getpid())):
        return None
    return int(period) / 1_000_000


def machine() -> str:
    """A name of this machine that is the same after a boot; empty where it has none.

    Made of its machine id, which itself is not for the network (machine-id(5)).
    """
    number = _line(Path("/etc/machine-id"))
    return hashlib.sha256(b"qdist" + number.encode()).hexdigest()[:32] if len(number) == MACHINE_ID else ""


def boot() -> str:
    """A name of this boot of the machine."""
    return _line(Path("/proc/sys/kernel/random/boot_id"))


def invocation(environ: Mapping[str, str]) -> str:
    """A name of this start of the unit; empty where this process is not the one that systemd started."""
    return environ.get("INVOCATION_ID", "") if environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()) else ""


def _line(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def stderr_is_journal(environ: Mapping[str, str]) -> bool:
    """Whether what is written to descriptor 2 goes to the journal, and not to a pipe or file set later."""
    stat = os.fstat(2)
    return environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What a caller attached with `extra={"qdist": {"TASK_ID": ...}}`."""
    fields: dict[str, object] = getattr(record, "qdist", {})
    return fields


def _message_id(record: logging.LogRecord) -> dict[str, object]:
    """The MESSAGE_ID that a caller attached with `extra={"message_id": …}`."""
    known: str = getattr(record, "message_id", "")
    return {"MESSAGE_ID": known} if known else {}


class JournalHandler(logging.Handler):
    """Writes records to the journal; a field TASK_ID becomes QDIST_TASK_ID, for `journalctl QDIST_TASK_ID=…`.

    `emit` blocks for as long as journald does not read: give records to it from a thread (`logs.Relay`).
    """

    def __init__(self, program: str, path: Path = JOURNAL) -> None:
        super().__init__()
        self._program = program
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record. One that cannot be formatted or sent is shown on stderr, as `logging` does."""
        try:
            self._send(b"".join(_field(*item) for item in self._fields(record).items()))
        except (OSError, ValueError, TypeError, LookupError):
            self.handleError(record)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> dict[str, object]:
        return {
            "MESSAGE": self.format(record),
            "PRIORITY": next((number for level, number in PRIORITIES if record.levelno >= level), 7),
            "SYSLOG_IDENTIFIER": self._program,
            "LOGGER": record.name,
            "THREAD_NAME": record.threadName,
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName,
            **_message_id(record),
            **{f"QDIST_{key.upper()}": value for key, value in fields_of(record).items()},
        }

    def _send(self, message: bytes) -> None:
        try:
            self._socket.sendto(message, self._path)
        except OSError as problem:
            if problem.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_sealed(message)

    def _send_sealed(self, message: bytes) -> None:
        """A message too large for a datagram travels as a file in memory."""
        with os.fdopen(os.memfd_create("qdist-log", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC), "wb") as file:
            file.write(message)
            file.flush()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))
            self._socket.sendmsg([], [rights], 0, self._path)


def _field(name: str, value: object) -> bytes:
    data = str(value).encode(errors="backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
