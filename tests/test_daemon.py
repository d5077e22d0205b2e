"""Daemon shell: readiness, signals, reload, watchdog, exit codes, PID files and the classic way into the background."""

import os
import re
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemons import DEADLINE, Daemon, clean_environ, python

PROBE = str(Path(__file__).with_name("probe.py"))

NewProbe = Callable[..., Daemon]


@pytest.fixture
def new_probe(tmp_path: Path) -> Iterator[NewProbe]:
    probes: list[Daemon] = []

    def make(*arguments: str, **environ: str) -> Daemon:
        probe = Daemon(f"probe-{len(probes)}", python(PROBE, *arguments), tmp_path, **environ)
        probes.append(probe)
        return probe

    yield make
    for probe in probes:
        probe.close()


def test_it_says_ready_with_a_status_and_ends_with_0_on_a_signal(new_probe: NewProbe) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        probe = new_probe("calm")
        probe.spawn()
        assert "STATUS=serving, 0 reloads" in probe.wait_for("READY=1")
        probe.signal(number)
        assert probe.wait() == 0
        assert "STOPPING=1" in "".join(probe.notices)


def test_the_first_signal_drains_and_the_second_hurries(new_probe: NewProbe) -> None:
    probe = new_probe("busy").start()
    probe.signal(signal.SIGTERM)
    assert "STATUS=draining" in probe.wait_for("STOPPING=1")
    probe.signal(signal.SIGTERM)
    assert probe.wait() == 0


def test_a_bug_in_a_callback_of_the_loop_ends_the_daemon_so_that_systemd_starts_a_sound_one(
    new_probe: NewProbe,
) -> None:
    probe = new_probe("broken")
    probe.spawn()
    assert probe.wait() == 70
    assert re.search(r"internal error [0-9a-f]{8}: ZeroDivisionError: a bug", probe.log)


def test_a_long_drain_asks_systemd_for_more_time(new_probe: NewProbe) -> None:
    probe = new_probe("busy", WATCHDOG_USEC="300000").start()
    probe.signal(signal.SIGTERM)
    probe.wait_for("EXTEND_TIMEOUT_USEC=")
    probe.signal(signal.SIGTERM)
    assert probe.wait() == 0


def test_a_signal_during_the_start_ends_it_without_ready(new_probe: NewProbe) -> None:
    probe = new_probe("slow", WATCHDOG_USEC="300000")
    probe.spawn()
    probe.wait_for("STATUS=starting slowly")
    assert probe.stop() == 0
    assert "READY=1" not in "".join(probe.notices)


def test_a_reload_is_announced_with_its_time_and_ends_with_ready(new_probe: NewProbe) -> None:
    probe = new_probe("calm").start()
    assert "STATUS=serving, 1 reloads" in probe.reload()
    assert re.search(r"RELOADING=1\nMONOTONIC_USEC=\d+$", "\n".join(probe.notices), re.MULTILINE)


def test_a_refused_reload_says_why_and_the_service_goes_on(new_probe: NewProbe) -> None:
    probe = new_probe("stubborn").start()
    assert "; reload refused: the file names an address twice" in probe.reload()
    assert "; reload refused" in probe.wait_for("WATCHDOG=1")
    assert probe.stop() == 0
    assert "the old settings go on" in probe.log


def test_the_watchdog_is_fed_in_a_third_of_its_time(new_probe: NewProbe) -> None:
    probe = new_probe("calm", WATCHDOG_USEC="900000").start()
    for _ in range(3):
        probe.wait_for("WATCHDOG=1", seconds=2)


def test_a_service_that_makes_no_progress_is_not_spoken_for(new_probe: NewProbe) -> None:
    probe = new_probe("stuck", WATCHDOG_USEC="300000").start()
    for _ in range(3):
        assert "no progress: the disk sleeps" in probe.wait_for("STATUS=", seconds=2)
    assert "WATCHDOG=1" not in "".join(probe.notices)
    assert probe.log.count("no progress: the disk sleeps; without any the watchdog ends this process") == 1
    assert probe.stop() == 0


def test_more_time_is_asked_for_as_long_as_the_drain_may_take_and_no_longer(new_probe: NewProbe) -> None:
    probe = new_probe("busy", WATCHDOG_USEC="300000", DRAIN="-15").start()
    probe.signal(signal.SIGTERM)
    probe.wait_for("STOPPING=1")
    probe.notices.clear()
    for _ in range(5):
        probe.wait_for("WATCHDOG=1")
    assert "EXTEND_TIMEOUT_USEC" not in "".join(probe.notices)
    probe.signal(signal.SIGTERM)
    assert probe.wait() == 0


def test_a_watchdog_for_another_process_does_not_count(new_probe: NewProbe) -> None:
    probe = new_probe("calm", WATCHDOG_USEC="1", WATCHDOG_PID="1").start()
    probe.wait_for("WATCHDOG=1")
    with pytest.raises(AssertionError, match="in time"):
        probe.wait_for("WATCHDOG=1", seconds=0.3)


def test_a_process_ended_by_the_watchdog_shows_where_it_stood(new_probe: NewProbe) -> None:
    probe = new_probe("calm").start()
    probe.signal(signal.SIGABRT)
    assert probe.wait() == -signal.SIGABRT
    assert "most recent call first" in probe.log


def test_the_exit_code_says_what_went_wrong(new_probe: NewProbe) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for mood, code, words in (
            ("misconfigured", 78, "master.toml: [master] listen: expected a list"),
            ("taken", 75, "address already in use"),
            ("buggy", 70, "internal error"),
        ):
            probe = new_probe(mood, PORT=str(taken.getsockname()[1]))
            probe.spawn()
            assert probe.wait() == code
            assert words in probe.log


def test_only_a_bug_shows_a_traceback_and_its_id(new_probe: NewProbe) -> None:
    bug, refusal = new_probe("buggy"), new_probe("misconfigured")
    for probe in (bug, refusal):
        probe.spawn()
        probe.wait()
    assert re.search(r"internal error [0-9a-f]{8}: ZeroDivisionError: a bug\nTraceback", bug.log)
    assert "Traceback" not in refusal.log


def test_a_person_at_a_terminal_sees_no_traceback() -> None:
    ours, theirs = os.openpty()
    done = subprocess.run(python(PROBE, "buggy"), stdout=theirs, stderr=theirs, env=clean_environ(), check=False)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 70
    assert "internal error" in shown
    assert "Traceback" not in shown


def test_a_second_daemon_with_the_same_pid_file_is_told_who_runs(new_probe: NewProbe, tmp_path: Path) -> None:
    pidfile = tmp_path / "probe.pid"
    first = new_probe("calm", f"pidfile={pidfile}").start()
    assert pidfile.read_text() == f"{first.pid}\n"
    second = new_probe("calm", f"pidfile={pidfile}")
    second.spawn()
    assert second.wait() == 75
    assert f"already running (pid {first.pid})" in second.log


def test_a_pid_file_goes_with_its_daemon_and_a_stale_one_is_taken_over(new_probe: NewProbe, tmp_path: Path) -> None:
    pidfile = tmp_path / "probe.pid"
    probe = new_probe("calm", f"pidfile={pidfile}").start()
    probe.kill()
    assert pidfile.exists()
    probe.start()
    assert pidfile.read_text() == f"{probe.pid}\n"
    probe.stop()
    assert not pidfile.exists()


def test_detached_the_command_returns_when_it_serves(tmp_path: Path) -> None:
    pidfile, log = tmp_path / "probe.pid", tmp_path / "probe.log"
    done = detached("calm", f"pidfile={pidfile}", f"log={log}")
    assert (done.returncode, done.stderr) == (0, "")
    pid = int(pidfile.read_text())
    pidfd = os.pidfd_open(pid)
    assert os.getsid(pid) != os.getsid(0)
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert "already running" in detached("calm", f"pidfile={pidfile}", f"log={log}").stderr
    os.kill(pid, signal.SIGTERM)
    assert select.select([pidfd], [], [], DEADLINE)[0], log.read_text()
    assert not pidfile.exists()
    assert "SIGTERM: stopping" in log.read_text()
    assert log.stat().st_mode & 0o007 == 0


def test_detached_a_failed_start_is_told_with_its_exit_code(tmp_path: Path) -> None:
    pidfile = tmp_path / "probe.pid"
    done = detached("misconfigured", f"pidfile={pidfile}", f"log={tmp_path / 'probe.log'}")
    assert done.returncode == 78
    assert "probe: master.toml: [master] listen" in done.stderr
    assert not pidfile.exists()


def test_detached_with_a_log_that_cannot_be_written_says_so_at_once(tmp_path: Path) -> None:
    done = detached("calm", f"log={tmp_path / 'no' / 'probe.log'}")
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr


def detached(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = python(PROBE, *arguments)
    return subprocess.run(command, env=clean_environ(), capture_output=True, text=True, timeout=20, check=False)
