"""`qdist-master` and `qdist-worker` as the processes that people and systemd start."""

import os
import select
import socket
import subprocess
from pathlib import Path

import pytest
from cluster import Cluster, make_key, reserve_port
from conftest import NewCluster
from daemons import DEADLINE, clean_environ, python

from qdistd import Client


def run(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = python("-m", "qdistd", *arguments)
    environment = {**clean_environ(), **environ}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)


def greeting(address: str) -> bytes:
    """The first bytes that a listener says."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        return connection.recv(64)


# -- the command line


@pytest.mark.parametrize("program", ["master", "worker"])
def test_a_wrong_command_line_is_told_from_a_wrong_configuration(program: str, tmp_path: Path) -> None:
    wrong_word = run(program, "--chekc")
    assert wrong_word.returncode == 64
    assert "No such option" in wrong_word.stderr
    missing = run(program, "-c", str(tmp_path / "nothing.toml"))
    assert missing.returncode == 78
    assert "nothing.toml: there is no such file" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_check_names_every_problem_and_exits_with_1(tmp_path: Path) -> None:
    file = tmp_path / "master.toml"
    file.write_text('[master]\nlisten = "here"\n[limits]\npayloda = "1 KiB"\n')
    checked = run("master", "-c", str(file), "--check")
    assert checked.returncode == 1
    assert f"{file}:2: [master] listen: " in checked.stderr
    assert f"{file}:4: [limits] payloda: unknown key" in checked.stderr


def test_check_reads_the_keys_too(tmp_path: Path) -> None:
    make_key(tmp_path / "work.key").chmod(0o644)
    file = tmp_path / "worker.toml"
    file.write_text(f'[worker]\nkey = "{tmp_path}/work.key"\n')
    checked = run("worker", "-c", str(file), "--check")
    assert checked.returncode == 1
    assert "can be used by others" in checked.stderr
    (tmp_path / "work.key").chmod(0o600)
    valid = run("worker", "-c", str(file), "--check")
    assert (valid.returncode, valid.stdout) == (0, f"{file} is valid\n")


def test_check_leaves_keys_alone_that_systemd_hides_from_reload_commands(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text("[worker]\n")
    checked = run("worker", "-c", str(file), "--check", CREDENTIALS_DIRECTORY=str(tmp_path / "hidden"))
    assert (checked.returncode, checked.stdout) == (0, f"{file} is valid (its keys are hidden here)\n")


def test_a_worker_takes_its_instance_as_a_word_or_an_option_but_not_two(tmp_path: Path) -> None:
    both = run("worker", "gpu", "--instance", "cpu")
    assert both.returncode == 64
    assert "two names for one instance: gpu and cpu" in both.stderr


def test_a_log_file_without_daemon_is_refused(tmp_path: Path, new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    refused = run("master", "-c", str(cluster.folder / "master.toml"), "--log", str(tmp_path / "log"))
    assert refused.returncode == 64
    assert "--log goes with --daemon" in refused.stderr


# -- the master


def test_a_ready_master_answers_at_its_address(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    assert b"#CHALLENGE#" in greeting(cluster.address)
    assert f"STATUS=0 workers, 0 queued, 0 running, listening on {cluster.address}" in cluster.master.notices[-1]
    assert cluster.master.stop() == 0


def test_a_master_listens_on_ipv4_ipv6_and_a_unix_socket_at_once(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    port = cluster.address.rpartition(":")[2]
    addresses = [cluster.address, f"[::1]:{port}", f"unix:{cluster.folder}/master.sock"]
    cluster.configure_master(master={"listen": addresses})
    cluster.master.reload()
    for address in addresses:
        with Client(address, key=cluster.keys["submit"]) as q:
            assert q.status().listen == addresses


def test_a_killed_master_comes_back_on_the_same_port(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    cluster.master.kill()
    with pytest.raises(ConnectionRefusedError):
        greeting(cluster.address)
    cluster.master.start()
    assert b"#CHALLENGE#" in greeting(cluster.address)


def test_a_second_master_on_the_same_address_says_so(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    other = Cluster(cluster.folder.parent, workers=0, master={"master": {"listen": [cluster.address]}})
    other.master.spawn()
    assert other.master.wait() == 75
    assert f"cannot listen on {cluster.address}" in other.master.log
    other.close()


def test_port_0_is_told_in_the_address_file(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    cluster.master.stop()
    cluster.configure_master(master={"listen": ["127.0.0.1:0"]})
    cluster.master.command += ["--address-file", str(cluster.folder / "addresses")]
    cluster.master.start()
    assert b"#CHALLENGE#" in greeting((cluster.folder / "addresses").read_text().strip())


def test_a_reload_listens_at_a_new_address(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    with reserve_port() as holder:
        new = f"127.0.0.1:{holder.getsockname()[1]}"
        cluster.configure_master(master={"listen": [new]})
        assert f"STATUS=0 workers, 0 queued, 0 running, listening on {new}" in cluster.master.reload()
        assert b"#CHALLENGE#" in greeting(new)
    with pytest.raises(ConnectionRefusedError):
        greeting(cluster.address)


def test_a_reload_that_cannot_be_leaves_everything_as_it_was(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for master, reason in (
            ({"listen": [cluster.address, address]}, f"cannot listen on {address}"),
            ({"store": "sqlite:///tmp/other.db"}, "store cannot change"),
            ({"listen": ["nowhere"]}, "master.toml:"),
        ):
            cluster.configure_master(master=master)
            notice = cluster.master.reload()
            assert "reload refused" in notice
            assert reason in notice
            assert b"#CHALLENGE#" in greeting(cluster.address)


def test_a_socket_of_systemd_is_listened_on(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    cluster.master.stop()
    host, port = cluster.address.split(":")
    with socket.create_server((host, int(port))) as given:
        inherit = f'exec 3<&{given.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        cluster.master.command = ["bash", "-c", inherit, "bash", *cluster.master.command]
        cluster.master.start(pass_fds=[given.fileno()])
    assert b"#CHALLENGE#" in greeting(cluster.address)


# -- the worker, and both together


def test_ten_squares_come_back_from_real_workers(cluster: Cluster) -> None:
    with cluster.client() as q:
        tasks = [q.submit("square", number) for number in range(10)]
        assert [task.result(timeout=20) for task in tasks] == [f"{n} * {n} = {n * n}" for n in range(10)]


def test_a_worker_is_ready_without_a_master_and_finds_it_later(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=1)
    cluster.master.kill()
    cluster.workers[0].stop()
    cluster.workers[0].start()
    cluster.master.start()
    with cluster.client() as q:
        assert q.submit("square", 7).result(timeout=20) == "7 * 7 = 49"


def test_a_worker_that_is_told_to_stop_ends_with_0_and_leaves_no_child(cluster: Cluster) -> None:
    worker = cluster.workers[0]
    children = worker.children()
    assert children
    assert worker.stop() == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def test_a_killed_worker_leaves_no_child(cluster: Cluster) -> None:
    worker = cluster.workers[0]
    children = [os.pidfd_open(pid) for pid in worker.children()]
    assert children
    worker.kill()
    for pidfd in children:
        assert select.select([pidfd], [], [], DEADLINE)[0], "a child outlived its worker"
        os.close(pidfd)


def test_a_worker_takes_its_settings_anew_on_reload(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=1)
    cluster.configure_worker("w1", worker={"queues": ["gpu"]})
    assert "reload refused" not in cluster.workers[0].reload()
    with cluster.client() as q:
        assert q.options(queue="gpu").submit("square", 7).result(timeout=20) == "7 * 7 = 49"


def test_a_worker_says_what_only_a_restart_can_change(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=1)
    cluster.configure_worker("w1", worker={"state": "/tmp/elsewhere"})
    assert "reload refused: [worker] state cannot change" in cluster.workers[0].reload()
