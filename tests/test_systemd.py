"""What we say to systemd and to the journal, as a service manager and a journal of our own receive it."""

import array
import logging
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import DEADLINE, clean_environ, python

from qdistd.events import Event
from qdistd.logs import BACKLOG, LineFormatter, Relay
from qdistd.systemd import JournalHandler, barrier, listen_fds, notify, stderr_is_journal, watchdog_seconds


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(DEADLINE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "journal"))
        receiver.settimeout(DEADLINE)
        yield receiver


@pytest.fixture
def to_journal(tmp_path: Path, journal: socket.socket) -> Iterator[logging.Logger]:
    handler = JournalHandler("qdist-test", tmp_path / "journal")
    yield logger_with(handler)
    handler.close()


def logger_with(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("qdistd.test")
    logger.addHandler(handler)
    return logger


def parse(message: bytes) -> dict[str, str]:
    """The fields of a journal message, read as journald reads it."""
    fields = {}
    while message:
        head, _, message = message.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", message)
            value, message = message[8 : 8 + length], message[8 + length + 1 :]
        fields[name.decode()] = value.decode()
    return fields


# -- the service manager


def test_without_a_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("", "vsock:2:1234", "/no/such/socket"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert notify(READY=1) is False


def test_one_datagram_carries_all_fields(manager: socket.socket) -> None:
    assert notify(READY=1, STATUS="3 running")
    assert manager.recv(4096) == b"READY=1\nSTATUS=3 running"


def test_a_status_cannot_forge_another_field(manager: socket.socket) -> None:
    notify(STATUS="refused\nMAINPID=1\r\nREADY=1 \udcff")
    assert manager.recv(4096) == b"STATUS=refused MAINPID=1 READY=1 \\udcff"


def test_a_manager_may_live_at_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(b"")  # the kernel picks an abstract name
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + receiver.getsockname()[1:].decode())
        assert notify(WATCHDOG=1)
        assert receiver.recv(4096) == b"WATCHDOG=1"


def test_a_descriptor_can_be_stored_with_the_manager(manager: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        notify(fds=[listener.fileno()], FDSTORE=1, FDNAME="listen")
        message, fds, _, _ = socket.recv_fds(manager, 4096, 1)
        assert message == b"FDSTORE=1\nFDNAME=listen"
        with socket.socket(fileno=fds[0]) as stored:
            assert stored.getsockname() == listener.getsockname()


def test_a_manager_that_does_not_read_is_not_waited_for(manager: socket.socket) -> None:
    while notify(patience=0, WATCHDOG=1):
        pass
    assert notify(patience=0.01, WATCHDOG=1) is False


def test_listening_sockets_come_with_their_names() -> None:
    program = "import os, qdistd.systemd as s; print(s.listen_fds(os.environ), 'LISTEN_FDS' in os.environ)"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = f'exec 3<&{listener.fileno()} 4<&3; LISTEN_PID=$$ exec "$@"'
        done = subprocess.run(
            ["bash", "-c", command, "bash", *python("-c", program)],
            env={**clean_environ(), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "rpc:local"},
            pass_fds=[listener.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == "[('rpc', 3), ('local', 4)] False\n"


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "PATH": "/bin"}
    assert listen_fds(environ) == []
    assert environ == {"PATH": "/bin"}


def test_the_watchdog_period_is_read_in_seconds() -> None:
    assert watchdog_seconds({}) is None
    assert watchdog_seconds({"WATCHDOG_USEC": "20000000"}) == 20.0
    assert watchdog_seconds({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}) == 20.0
    assert watchdog_seconds({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}) is None


# -- the journal


def test_a_record_reaches_the_journal_with_its_fields(to_journal: logging.Logger, journal: socket.socket) -> None:
    to_journal.warning("task %s failed", "abc", extra={"qdist": {"TASK_ID": "abc", "attempt": 2}})
    fields = parse(journal.recv(65536))
    assert fields["MESSAGE"] == "task abc failed"
    assert fields["PRIORITY"] == "4"
    assert fields["SYSLOG_IDENTIFIER"] == "qdist-test"
    assert fields["LOGGER"] == "qdistd.test"
    assert fields["CODE_FUNC"] == "test_a_record_reaches_the_journal_with_its_fields"
    assert (fields["QDIST_TASK_ID"], fields["QDIST_ATTEMPT"]) == ("abc", "2")


def test_newlines_and_odd_characters_survive(to_journal: logging.Logger, journal: socket.socket) -> None:
    to_journal.info("two\nlines \udcff \ud800", extra={"qdist": {"ERROR": "a=b\nPRIORITY=0"}})
    fields = parse(journal.recv(65536))
    assert fields["MESSAGE"] == "two\nlines \\udcff \\ud800"
    assert fields["QDIST_ERROR"] == "a=b\nPRIORITY=0"
    assert fields["PRIORITY"] == "6"


def test_a_traceback_goes_with_its_message(to_journal: logging.Logger, journal: socket.socket) -> None:
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError:
        to_journal.exception("internal error")
    message = parse(journal.recv(65536))["MESSAGE"]
    assert message.startswith("internal error\nTraceback")
    assert message.endswith("ZeroDivisionError: a bug")


def test_a_message_too_large_for_a_datagram_travels_as_a_sealed_file(
    to_journal: logging.Logger, journal: socket.socket
) -> None:
    text = "x" * 4_000_000
    to_journal.error(text)
    fds = array.array("i")
    _, ancillary, _, _ = journal.recvmsg(16, socket.CMSG_SPACE(fds.itemsize))
    fds.frombytes(ancillary[0][2])
    with os.fdopen(fds[0], "rb") as file:
        file.seek(0)
        assert parse(file.read())["MESSAGE"] == text
        with pytest.raises(OSError, match="not permitted"):
            os.truncate(file.fileno(), 0)


def test_a_journal_that_is_gone_costs_a_line_on_stderr_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = JournalHandler("qdist-test", tmp_path / "nothing")
    logger_with(handler).error("lost")
    handler.close()
    assert "No such file or directory" in capsys.readouterr().err


def test_the_journal_is_used_only_where_stderr_is_the_journal() -> None:
    stat = os.fstat(2)
    assert stderr_is_journal({"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
    assert not stderr_is_journal({"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino + 1}"})
    assert not stderr_is_journal({})


# -- logging that never blocks


class Gate(logging.Handler):
    """A log that is read only when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.opened, self.reached = threading.Event(), threading.Event()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.reached.set()
        self.opened.wait(DEADLINE)
        self.lines.append(record.getMessage())


def test_a_log_that_is_not_read_blocks_nobody_and_what_is_dropped_is_counted() -> None:
    gate = Gate()
    relay = Relay(gate, backlog=2)
    logger = logger_with(relay)
    logger.info("first")
    assert gate.reached.wait(DEADLINE)
    for number in range(5):
        logger.info("number %d", number)
    gate.opened.set()
    relay.close()
    assert gate.lines[0] == "first"
    assert gate.lines[1].startswith("3 log records were dropped")
    assert gate.lines[2:] == ["number 0", "number 1"]


def test_a_journal_that_stands_still_stops_nobody_and_misses_nothing_of_the_backlog(
    journal: socket.socket, tmp_path: Path
) -> None:
    relay = Relay(JournalHandler("qdist-test", tmp_path / "journal"))
    logger = logger_with(relay)
    logged = BACKLOG + BACKLOG // 5
    for number in range(logged):  # returns although nobody reads: that is the claim
        logger.warning("%d", number)
    numbers: list[int] = []
    dropped = 0
    while len(numbers) + dropped < logged:
        record = parse(journal.recv(4096))
        if record.get("MESSAGE_ID") == Event.RECORDS_DROPPED:
            dropped += int(record["MESSAGE"].split()[0])
        else:
            numbers.append(int(record["MESSAGE"]))
    relay.close()
    assert numbers[:BACKLOG] == list(range(BACKLOG))
    assert 0 < dropped <= logged - BACKLOG


def test_details_never_crowd_out_a_warning(journal: socket.socket, tmp_path: Path) -> None:
    relay = Relay(JournalHandler("qdist-test", tmp_path / "journal"))
    logger = logger_with(relay)
    for _ in range(2 * BACKLOG):
        logger.info("a detail")
    logger.warning("trouble")
    while parse(journal.recv(4096))["MESSAGE"] != "trouble":
        pass
    relay.close()


def test_a_record_says_what_its_arguments_were_when_it_was_logged() -> None:
    gate = Gate()
    relay = Relay(gate)
    held = ["a"]
    logger_with(relay).info("held: %s", held)
    held.append("b")
    gate.opened.set()
    relay.close()
    assert gate.lines == ["held: ['a']"]


def test_a_line_for_people_ends_with_its_fields() -> None:
    record = logging.LogRecord("qdistd.worker", logging.ERROR, __file__, 1, "task failed", (), None)
    record.qdist = {"TASK_ID": "abc", "QUEUE": "mail"}
    line = LineFormatter().format(record)
    when, rest = line.split(" ", 1)
    assert rest == "error qdistd.worker task failed task_id=abc queue=mail"
    assert when[10] == "T"
    assert when[-6] in "+-"


def test_a_barrier_waits_until_the_manager_has_read_it(manager: socket.socket) -> None:
    waiting = threading.Thread(target=barrier)
    waiting.start()
    message, fds, _, _ = socket.recv_fds(manager, 4096, 1)
    assert (message, len(fds), waiting.is_alive()) == (b"BARRIER=1", 1, True)
    os.close(fds[0])
    waiting.join(DEADLINE)
    assert not waiting.is_alive()


def test_without_a_manager_a_barrier_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    barrier()
