"""The control socket: a reload answers when it is in force, or says what is wrong; who may ask; what an end leaves."""

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import reserve_port
from conftest import NewCluster
from daemons import Daemon, clean_environ, python

from qdistd.config.keys import fresh_keys, read_key, renew
from qdistd.config.loading import Place
from qdistd.control import Ask, Verdict, ask, keys_of
from qdistd.errors import ConfigError, Refused, Unavailable

PROBE = str(Path(__file__).with_name("probe.py"))

RELOAD = Ask("reload")

NewProbe = Callable[[str], Daemon]


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.fixture
def new_probe(tmp_path: Path, control: Path) -> Iterator[NewProbe]:
    probes: list[Daemon] = []

    def make(mood: str) -> Daemon:
        probes.append(Daemon(f"probe-{len(probes)}", python(PROBE, mood, f"control={control}"), tmp_path))
        return probes[-1]

    yield make
    for probe in probes:
        probe.close()


def reload_command(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = python("-m", "qdistd", program, *arguments, "--reload")
    return subprocess.run(command, env=clean_environ(), capture_output=True, text=True, timeout=30, check=False)


# -- the socket


def test_the_answer_comes_after_the_reload_and_after_systemd_was_told(new_probe: NewProbe, control: Path) -> None:
    probe = new_probe("calm").start()
    assert ask(control, RELOAD) == Verdict(True)
    assert "STATUS=serving, 1 reloads" in probe.wait_for("READY=1", seconds=0)
    assert re.search(r"RELOADING=1\nMONOTONIC_USEC=\d+$", "\n".join(probe.notices), re.MULTILINE)


def test_a_refused_reload_answers_with_the_reason(new_probe: NewProbe, control: Path) -> None:
    new_probe("stubborn").start()
    assert ask(control, RELOAD) == Verdict(False, "the file names an address twice")


def test_questions_and_signals_at_once_are_one_reload_after_the_other(new_probe: NewProbe, control: Path) -> None:
    probe = new_probe("calm").start()
    verdicts: list[Verdict] = []
    askers = [threading.Thread(target=lambda: verdicts.append(ask(control, RELOAD))) for _ in range(3)]
    for asker in askers:
        asker.start()
    probe.signal(signal.SIGHUP)
    for asker in askers:
        asker.join()
    assert verdicts == [Verdict(True)] * 3
    assert probe.stop() == 0
    said = [line for line in "\n".join(probe.notices).splitlines() if line in ("RELOADING=1", "READY=1")]
    assert said == ["READY=1"] + ["RELOADING=1", "READY=1"] * 4


def test_the_socket_is_for_its_owner_alone_and_goes_with_its_daemon(new_probe: NewProbe, control: Path) -> None:
    probe = new_probe("calm").start()
    assert control.stat().st_mode & 0o777 == 0o600
    assert probe.stop() == 0
    assert not control.exists()


def test_the_socket_of_a_killed_daemon_is_replaced(new_probe: NewProbe, control: Path) -> None:
    probe = new_probe("calm").start()
    probe.kill()
    with pytest.raises(Unavailable, match="no daemon answers there"):
        ask(control, RELOAD)
    probe.start()
    assert ask(control, RELOAD).ok


def test_who_asks_a_daemon_that_dies_is_told_so(new_probe: NewProbe, control: Path) -> None:
    probe = new_probe("thoughtful").start()
    killer = threading.Thread(target=lambda: (probe.wait_for("RELOADING=1"), probe.kill()))
    killer.start()
    with pytest.raises(Unavailable, match="ended before it had answered"):
        ask(control, RELOAD)
    killer.join()


def test_who_asks_a_daemon_that_hangs_does_not_wait_for_ever(new_probe: NewProbe, control: Path) -> None:
    new_probe("thoughtful").start()
    with pytest.raises(Unavailable, match=r"no answer within 0\.1 seconds"):
        ask(control, RELOAD, patience=0.1)


def test_nonsense_is_refused_and_the_next_question_heard(new_probe: NewProbe, control: Path) -> None:
    new_probe("calm").start()
    assert "'dance' is nothing this daemon can do" in ask(control, Ask("dance")).text
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(control))
        stranger.sendall(b"{]\n")
        assert b'"ok":false' in stranger.recv(4096)
    assert ask(control, RELOAD).ok


def test_only_root_and_the_own_user_are_heard_and_only_root_hands_over_keys() -> None:
    question = b'{"verb":"reload","keys":{"work.key":"YWJj"}}\n'
    assert keys_of(0, question) == {"work.key": b"abc"}
    with pytest.raises(Refused, match="user 54321 may not control"):
        keys_of(54321, question)
    if os.geteuid():
        assert keys_of(os.geteuid(), question) == {}


# -- the commands


def test_reload_returns_when_the_new_configuration_is_in_force(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    file, control = str(cluster.folder / "master.toml"), str(cluster.folder / "c")
    cluster.master.stop()
    cluster.master.command += ["--control", control]
    cluster.master.start()
    with reserve_port() as holder:
        new = "127.0.0.1", holder.getsockname()[1]
        cluster.configure_master(master={"listen": [cluster.address, f"127.0.0.1:{new[1]}"]})
        done = reload_command("master", "-c", file, "--control", control)
        assert (done.returncode, done.stderr) == (0, "")
        socket.create_connection(new).close()


def test_reload_of_a_bad_file_names_file_and_line_and_leaves_the_daemon_alone(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=1)
    worker, control, file = cluster.workers[0], str(cluster.folder / "c"), cluster.folder / "w1.toml"
    worker.stop()
    worker.command += ["--control", control]
    worker.start()
    sound = file.read_text()
    file.write_text(sound + "[limits]\ntimeuot = 3\n")
    done = reload_command("worker", "w1", "-c", str(file), "--control", control)
    assert done.returncode == 1
    assert f"{file}:{len(sound.splitlines()) + 2}: [limits] timeuot: unknown key" in done.stderr
    assert "RELOADING" not in "".join(worker.notices)


def test_what_only_the_daemon_can_find_wrong_comes_back_from_it(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    pidfile = cluster.folder / "m.pid"
    cluster.master.stop()
    cluster.master.command += ["--pidfile", str(pidfile)]
    cluster.master.start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        cluster.configure_master(master={"listen": [address]})
        file = str(cluster.folder / "master.toml")
        done = reload_command("master", "-c", file, "--pidfile", str(pidfile))
    assert done.returncode == 1
    assert f"cannot listen on {address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_reload_without_a_daemon_says_where_none_answers(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    nobody = cluster.folder / "nobody"
    done = reload_command("master", "-c", str(cluster.folder / "master.toml"), "--control", str(nobody))
    assert done.returncode == 1
    assert f"{nobody}: no daemon answers there" in done.stderr


# -- keys


def test_fresh_keys_go_before_the_credentials_they_renew(tmp_path: Path) -> None:
    credentials, runtime, etc = tmp_path / "credentials", tmp_path / "run", tmp_path / "etc"
    for folder in (credentials, runtime, etc / "keys"):
        folder.mkdir(parents=True)
    place = Place({"CREDENTIALS_DIRECTORY": str(credentials), "RUNTIME_DIRECTORY": str(runtime)}, etc)
    credential, source = credentials / "work.key", etc / "keys/work.key"
    for path, letter in ((credential, "a"), (source, "b")):
        path.touch(mode=0o600)
        path.write_text(letter * 32 + "\n")
    assert read_key(credential, place=place) == b"a" * 32
    renew(fresh_keys(["work.key", "submit.key"], place=place), place=place)
    assert read_key(credential, place=place) == b"b" * 32
    assert (runtime / "keys/work.key").stat().st_mode & 0o077 == 0
    credential.write_text("c" * 32)  # systemd makes it anew when the service starts again
    assert read_key(credential, place=place) == b"c" * 32


def test_only_what_is_a_credential_of_the_service_is_taken(tmp_path: Path) -> None:
    place = Place({"CREDENTIALS_DIRECTORY": str(tmp_path), "RUNTIME_DIRECTORY": str(tmp_path)})
    renew({"admin.key": b"x" * 32, "../evil": b"x"}, place=place)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "admin.key").symlink_to("elsewhere")
    with pytest.raises(ConfigError):
        read_key(tmp_path / "admin.key", place=place)
