"""The package on fresh hosts of both releases: installed offline, confined, upgraded under load, gone without a trace.

Two hosts for all tests, in this order: `a` (Debian 12) and `b` (Debian 13). At first each is by itself; then the
master of `a` serves the workers of both.
"""

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import qdistd
from qdistd.model import State
from tests.hosts.host import Host
from tests.hosts.images import Image
from tests.hosts.lab import Lab
from tests.patience import until

APT = "DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet -o Dpkg::Options::=--force-confold"

SCORE = {"qdist-master": 1.1, "qdist-worker@1": 1.4}
"""The most that `systemd-analyze security` may give to each, in points of exposure."""

STRICT_SCORE = 0.2

WORKING_PROBES = 52
"""At least so many things that a task may want to do work in it."""

EDIT_OF_WORKER = r's|^#masters = .*|masters = ["a:5000"]|'

DOOR = "/run/qdist-master/tests.sock"
"""The way in for clients of this process, who are not in the network of the lab."""

LISTEN = f'[master]\nlisten = ["0.0.0.0:5000", "unix:{DOOR}"]\n'

TASKS = '[worker]\ntasks = ["qdistd.tasks", "probes"]\npath = ["/srv/tasks"]\n'

STORM = """
import socket, sys, threading
stop, counts = threading.Event(), [0, 0]
def connect():
    while not stop.is_set():
        try:
            with socket.create_connection((sys.argv[1], 5000), 20) as connection:
                counts[not connection.recv(1)] += 1
        except OSError as error:
            counts[1] += 1
            print(repr(error), file=sys.stderr)
threads = [threading.Thread(target=connect) for _ in range(4)]
for thread in threads:
    thread.start()
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
print(*counts)
"""
"""Connects and waits for the first byte, again and again, until its input ends; how many got it, and how many not."""

FOREIGN = ("/var/log/journal", "/root/", "/etc/passwd", "/etc/group", "/etc/hosts")


@pytest.fixture(scope="module")
def pair(shared_lab: Lab, bare_bookworm: Image, bare_trixie: Image, deb: Path) -> Lab:
    """Both hosts, with the package installed from a file and nothing else done."""
    for host in shared_lab.up(a=bare_bookworm, b=bare_trixie):
        install(host, deb)
    return shared_lab


@pytest.fixture(params=["a", "b"])
def host(pair: Lab, request: pytest.FixtureRequest) -> Host:
    return pair[request.param]


@pytest.fixture(scope="module")
def together(pair: Lab) -> Lab:
    """The master of `a` serves a worker on each host. On `b` one line is edited and a key is copied."""
    a, b = pair["a"], pair["b"]
    a.write("/etc/qdist/master.d/listen.toml", LISTEN)
    a.systemctl("restart", "qdist-master")
    b.write("/etc/qdist/keys/work.key", a.read("/etc/qdist/keys/work.key"), mode=0o600)
    b.run("sed", "-i", EDIT_OF_WORKER, "/etc/qdist/worker.toml")
    for each in (a, b):
        for module in Path(__file__).with_name("probes").glob("*.py"):
            each.write(f"/srv/tasks/probes/{module.name}", module.read_text())
        each.write("/etc/qdist/worker.d/tasks.toml", TASKS)
        each.run(
            "sh", "-c", f"printf '[instance.{each.name}]\\nqueues = [\"{each.name}\"]\\n' >>/etc/qdist/worker.toml"
        )
        each.systemctl("restart", "qdist-worker@1", f"qdist-worker@{each.name}")
    with client(a) as q:
        until(lambda: sum(worker.state == "connected" for worker in q.workers()) == 4, "four workers")
    return pair


def install(host: Host, package: Path) -> None:
    host.copy(package, "/root/qdist.deb")
    host.sh(f"{APT} install /root/qdist.deb")


def client(host: Host) -> qdistd.Client:
    key = host.read("/etc/qdist/keys/admin.key").removesuffix("\n").encode()
    return qdistd.Client(f"unix:{host.path(DOOR)}", key=key)


def score(host: Host, unit: str) -> float:
    told = host.run("systemd-analyze", "security", "--no-pager", unit).stdout
    found = re.search(r"exposure level for \S+ ([0-9.]+)", told)
    assert found, told
    return float(found[1])


def main_pids(host: Host, *units: str) -> dict[str, str]:
    return {unit: host.show(unit, "MainPID")["MainPID"] for unit in units}


def units_alive(host: Host) -> str:
    """Services, sockets and so on of qdist that run, are about to, or have failed."""
    return host.systemctl("list-units", "--plain", "--no-legend", "--state=active,activating,failed", "qdist*")


@contextmanager
def storm(lab: Lab, host: Host) -> Iterator[Callable[[], tuple[int, int]]]:
    """Connections to the master of `host` all the time; call it for how many were served, and how many not."""
    process = lab.popen(
        sys.executable,
        "-c",
        STORM,
        host.ip,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def count() -> tuple[int, int]:
        out, err = process.communicate(timeout=60)
        served, failed = map(int, out.split())
        assert served > 100, err
        return served, failed

    try:
        yield count
    finally:
        process.kill()
        process.wait()


def test_a_fresh_host_has_a_master_after_one_command(host: Host) -> None:
    assert host.show("qdist-master", "ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}
    assert host.systemctl("is-enabled", "qdist-master", "qdist-workers.target").split() == ["enabled", "enabled"]
    assert host.systemctl("is-active", "qdist-workers.target") == "active\n"
    assert host.systemctl("is-enabled", "qdist-master.socket", check=False) == "disabled\n"
    assert host.systemctl("list-units", "--plain", "--no-legend", "qdist-worker@*") == ""


def test_a_worker_is_one_command_more_and_tasks_flow(host: Host) -> None:
    host.systemctl("enable", "--now", "qdist-worker@1")
    assert host.run("qdist", "submit", "square", "7", "--wait").stdout == "7 * 7 = 49\n"


@pytest.mark.parametrize("unit", SCORE)
def test_a_unit_is_as_confined_as_it_claims(host: Host, unit: str) -> None:
    assert score(host, unit) <= SCORE[unit]


def test_systemd_finds_nothing_wrong_with_the_units(host: Host) -> None:
    told = host.run("sh", "-c", "systemd-analyze verify --man=no /lib/systemd/system/qdist* 2>&1", check=False)
    assert (told.returncode, told.stdout) == (0, "")


def test_with_the_strict_drop_in_the_master_has_no_network_and_serves(host: Host) -> None:
    page = host.read("/usr/share/doc/qdist/examples/strict.conf")
    for command in re.findall(r"^#   (\S.*)$", page, re.MULTILINE):
        host.sh(command)
    assert score(host, "qdist-master") <= STRICT_SCORE
    assert host.run("qdist", "submit", "square", "8", "--wait").stdout == "8 * 8 = 64\n"
    host.sh("rm -r /etc/systemd/system/qdist-master.service.d; systemctl daemon-reload")
    host.systemctl("stop", "qdist-master.socket", "qdist-master")
    host.systemctl("start", "qdist-master")


def test_nobody_else_can_read_keys_or_state(host: Host) -> None:
    places = ("/etc/qdist/keys", "/var/lib/qdist", "/run/credentials/qdist-master.service", "/run/qdist-worker/1")
    open_to_all = host.sh(f"find {' '.join(places)} ! -type l -perm /o=rw")
    assert open_to_all == ""
    assert host.run("cat", "/etc/qdist/keys/work.key", user="qdist-worker", check=False).returncode


def test_tasks_may_do_what_they_need_and_nothing_that_they_should_not(together: Lab) -> None:
    for name in ("a", "b"):
        with client(together["a"]) as q:
            names = q.options(queue=name).submit("names").result(30)
            on_host = q.options(queue=name, retries=0)
            answers = {name: on_host.submit("probe", name) for name in names}
            refused = {name: error for name, task in answers.items() if (error := task.result(60))}
        for probe in names:
            print(f"{together[name].image.name[:14]:14} {probe:40} {refused.get(probe, 'works')}")
        assert {probe for probe in names if probe.startswith("no_")} == set(refused)
        assert len(names) - len(refused) >= WORKING_PROBES


def newer(deb: Path, folder: Path) -> Path:
    """The same package as a later version: it has a task more, and another sample of the settings of workers."""
    subprocess.run(["dpkg-deb", "--raw-extract", deb, folder], check=True)
    control = folder / "DEBIAN/control"
    control.write_text(re.sub(r"^(Version: .*)$", r"\1+1", control.read_text(), flags=re.MULTILINE))
    with (folder / "etc/qdist/worker.toml").open("a") as sample:
        sample.write("# a later version\n")
    with (folder / "usr/lib/python3/dist-packages/qdistd/tasks.py").open("a") as tasks:
        tasks.write('\n\ndef later() -> str:\n    return "new code"\n')
    made = folder.with_suffix(".deb")
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", folder, made], check=True, capture_output=True)
    return made


def new_code_runs(q: qdistd.Client) -> bool:
    """Whether the worker `b` knows the task of the later version."""
    with contextlib.suppress(qdistd.TaskFailed):
        return bool(q.options(queue="b", retries=0).submit("later").result(30) == "new code")
    return False


def test_an_upgrade_under_load_loses_nothing_refuses_nobody_and_ends_no_task(
    together: Lab, deb: Path, tmp_path: Path
) -> None:
    a, b = together["a"], together["b"]
    later = newer(deb, tmp_path / "later")
    workers = ("qdist-worker@1", "qdist-worker@b")
    pids, master = main_pids(b, *workers), main_pids(a, "qdist-master")
    edited = b.read("/etc/qdist/worker.toml")
    b.systemctl("enable", "--now", "qdist-worker@idle")
    b.systemctl("stop", "qdist-worker@idle")
    b.sh("mkfifo -m 666 /var/lib/qdist/worker/fifo")
    with client(a) as q, storm(together, a) as count:
        long = q.options(queue="b").submit("wait_for", "/var/lib/qdist/worker/fifo")
        until(lambda: q.show(long).state == State.LEASED, "a worker has the long task")
        tasks = [q.submit("square", number) for number in range(1000)]
        for each in (b, a):
            install(each, later)
            tasks += [q.submit("square", number) for number in range(1000)]
        assert [task.result(60) for task in tasks] == [f"{n} * {n} = {n * n}" for n in [*range(1000)] * 3]
        until(lambda: new_code_runs(q), "new code in the worker that has gone on")
        b.sh("echo done >/var/lib/qdist/worker/fifo")
        assert (long.result(30), long.attempt) == ("done\n", 1)
        served, failed = count()
    print(f"{served} connections during two upgrades, {failed} failed")
    assert failed == 0
    assert main_pids(b, *workers) == pids and main_pids(a, "qdist-master") != master
    assert b.read("/etc/qdist/worker.toml") == edited
    assert b.systemctl("is-active", "qdist-worker@idle", check=False) == "inactive\n", "who was stopped stays so"
    for each in (a, b):
        assert each.run("dpkg-query", "--show", "--showformat=${Version}", "qdist").stdout.endswith("+1")


def test_a_removed_package_runs_no_more_and_keeps_what_a_person_made(together: Lab) -> None:
    for each in (together["a"], together["b"]):
        each.sh(f"{APT} remove qdist")
        assert units_alive(each) == ""
        assert each.path("/etc/qdist/keys/work.key").exists() and each.path("/var/lib/qdist/qdist.db").exists()


def test_a_purged_package_leaves_no_trace(together: Lab) -> None:
    for each in (together["a"], together["b"]):
        each.sh(f"rm -r /etc/qdist/*.d; {APT} purge qdist </dev/null")
        found = each.sh("find / -xdev -name '*qdist*'; find /run -name '*qdist*'").splitlines()
        assert [path for path in found if not path.startswith(FOREIGN)] == []
        assert units_alive(each) == ""
        assert each.systemctl("is-system-running", check=False) == "running\n"
