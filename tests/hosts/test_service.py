"""The daemons as services of real hosts: ready, watched, reloaded, restarted in a storm, and known by their lives."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qdistd import Client, State
from tests.hosts.cluster import MASTER_PORT, HostCluster
from tests.hosts.host import Host
from tests.hosts.storm import THREADS, storming
from tests.patience import until

MASTER, WORKER = "qdist-master", "qdist-worker@1"

WATCHDOG = 3
"""Seconds of WatchdogSec= here: what it means is the same, and the tests are over sooner."""

GRACE = 5.0
"""Seconds on top of WatchdogSec= until whatever hangs has been started anew."""

BACKLOG = 100_000
"""Tasks in the store that nobody runs, while restarts are timed."""

RESTARTS = 25
"""In a row, of each kind."""

WORKER_TOML = '[worker]\ntasks = ["qdistd.tasks", "noted"]\npath = ["/opt/tasks"]\n'

BUSY_DISK = "while :; do dd if=/dev/zero of=/var/lib/busy bs=64k count=8 oflag=dsync; done 2>/dev/null"

MODULE = """
import ctypes, pathlib, time, qdistd

@qdistd.task
def hold(seconds):
    ctypes.PyDLL(None).sleep(seconds)  # in C, and the interpreter lock is not given away
    return "held"

@qdistd.task
def note(number, seconds=0.2):
    time.sleep(seconds)
    with open("/var/lib/qdist/worker/noted", "a") as noted:
        noted.write(f"{number}\\n")
    return number
"""


@pytest.fixture(scope="module")
def cluster(three_hosts: HostCluster) -> HostCluster:
    """The three hosts, with tasks of our own on the workers."""
    for host in three_hosts.worker_hosts:
        host.write("/opt/tasks/noted.py", MODULE)
        host.write("/etc/qdist/worker.d/tests.toml", WORKER_TOML)
        host.systemctl("restart", "qdist-worker@1", "qdist-worker@2")
    return three_hosts


def drop_in(host: Host, unit: str, *lines: str) -> None:
    """Give a unit other settings until the next boot."""
    host.write(f"/run/systemd/system/{unit}.service.d/tests.conf", "\n".join(["[Service]", *lines, ""]))
    host.systemctl("daemon-reload")


@pytest.fixture
def settings() -> Iterator[Callable[..., None]]:
    """`drop_in`, taken back after the test."""
    done: list[tuple[Host, str]] = []

    def change(host: Host, unit: str, *lines: str) -> None:
        done.append((host, unit))
        drop_in(host, unit, *lines)

    yield change
    for host, unit in done:
        drop_in(host, unit)
        host.systemctl("restart", unit)


def pid(host: Host, unit: str) -> int:
    return int(host.show(unit, "MainPID")["MainPID"])


def restarts(host: Host, unit: str) -> int:
    return int(host.show(unit, "NRestarts")["NRestarts"])


def status(host: Host, unit: str) -> str:
    return host.show(unit, "StatusText")["StatusText"]


def restarted(host: Host, unit: str, before: int, since: float) -> float:
    """Wait until systemd has started the unit once more and it is ready; the seconds since then."""
    wanted = {"NRestarts": str(before + 1), "SubState": "running"}
    until(lambda: host.show(unit, *wanted) == wanted, f"a new start of {unit}")
    return time.monotonic() - since


def key(cluster: HostCluster) -> Path:
    return cluster.m.path("/etc/qdist/keys/submit.key")


# -- ready


def test_a_master_that_is_ready_answers_and_says_how_it_stands(cluster: HostCluster) -> None:
    cluster.m.systemctl("restart", MASTER)
    with cluster.client() as q:
        assert q.submit("square", 7).result(timeout=20) == "7 * 7 = 49"
        cluster.wait_for_workers(q)
        told = r"4 workers, 0 queued, 0 running, listening on 0\.0\.0\.0:5000"
        until(lambda: re.match(told, status(cluster.m, MASTER)), "the status of the master")


def test_a_worker_is_ready_while_its_master_is_away_and_says_so(cluster: HostCluster) -> None:
    cluster.m.systemctl("stop", MASTER)
    cluster.w1.systemctl("restart", WORKER)
    until(lambda: "no master" in status(cluster.w1, WORKER), "the status of the worker")
    cluster.m.systemctl("start", MASTER)
    until(lambda: "master m:5000 ok" in status(cluster.w1, WORKER), "the status of the worker")


# -- nobody is refused


def test_no_connection_of_a_storm_fails_over_restarts_and_a_bad_file(cluster: HostCluster) -> None:
    bad = "/etc/qdist/master.d/bad.toml"
    with storming(cluster.lab, cluster.m, MASTER_PORT, key(cluster)) as storm:
        for _ in range(5):
            cluster.m.systemctl("restart", MASTER)
        cluster.m.write(bad, "[limits]\npaylod = 1\n")
        assert cluster.m.run("systemctl", "restart", MASTER, check=False).returncode == 1
        before = restarts(cluster.m, MASTER)
        until(lambda: restarts(cluster.m, MASTER) > before, "another try of systemd")
        cluster.m.path(bad).unlink()
        until(lambda: status(cluster.m, MASTER), "the master to come back by itself")
    print(f"\n{storm.tried} connections over restarts and a bad file, the slowest {storm.slowest:.2f} s")
    assert storm.failures == []
    assert storm.tried > 200


def test_kill_9_of_the_master_costs_a_storm_no_more_than_those_at_the_door(cluster: HostCluster) -> None:
    kills = 3
    with storming(cluster.lab, cluster.m, MASTER_PORT, key(cluster)) as storm:
        for _ in range(kills):
            before, since = restarts(cluster.m, MASTER), time.monotonic()
            cluster.m.systemctl("kill", "--signal=KILL", "--kill-whom=main", MASTER)
            restarted(cluster.m, MASTER, before, since)
    print(f"\n{storm.tried} connections over {kills} times kill -9: {len(storm.failures)} failed")
    assert len(storm.failures) <= kills * THREADS
    assert not [failure for failure in storm.failures if "refused" in failure]


# -- reload


@pytest.mark.parametrize("name", ["m", "w1"])
def test_a_reload_is_in_force_when_it_returns_and_fails_with_the_line_each_time(
    cluster: HostCluster, name: str
) -> None:
    """On `m` (Debian 12) the master, on `w1` (Debian 13) another master of its own: 100 reloads together."""
    host, file, extra = cluster.lab[name], "/etc/qdist/master.d/z.toml", "/run/qdist-master/extra.sock"
    if host is not cluster.m:
        host.systemctl("start", MASTER)
    before = pid(host, MASTER)
    for number in range(25):
        host.write(file, "[limits]\n\nlease = 'soon'\n")
        done = host.run("/usr/bin/qdist-master", "--reload", check=False)
        assert (done.returncode, done.stderr.count(f"{file}:3: [limits] lease")) == (1, 1), done.stderr
        wanted = number % 2 == 0
        host.write(
            file,
            '[master]\nlisten = ["0.0.0.0:5000", "unix:/var/lib/qdist/tests.sock"%s]\n'
            % (f', "unix:{extra}"' if wanted else ""),
        )
        host.systemctl("reload", MASTER)
        assert host.path(extra).exists() is wanted
    host.write(file, "[limits]\n\nlease = 'soon'\n")
    assert host.run("systemctl", "reload", MASTER, check=False).returncode == 1
    assert pid(host, MASTER) == before
    host.path(file).unlink()
    host.systemctl("reload", MASTER)
    if host is not cluster.m:
        host.systemctl("stop", MASTER)


@pytest.mark.parametrize("name", ["m", "w1"])
def test_a_reload_brings_new_keys_where_systemd_does_not(cluster: HostCluster, name: str) -> None:
    host, file = cluster.lab[name], "/etc/qdist/keys/submit.key"
    host.systemctl("restart", MASTER)
    old = host.read(file)
    host.write(file, "n" * 43 + "\n", mode=0o600)
    host.systemctl("reload", MASTER)
    assert submits(host)
    host.write(file, old, mode=0o600)
    host.systemctl("restart", MASTER)
    assert submits(host)
    if host is not cluster.m:
        host.systemctl("stop", MASTER)


def submits(host: Host) -> bool:
    """Whether the key that lies in /etc/qdist/keys is the one that the master takes."""
    return host.run("qdist", "submit", "square", "1", "--queue", "nowhere", check=False).returncode == 0


# -- the watchdog


def test_a_frozen_master_and_a_frozen_worker_are_started_anew(
    cluster: HostCluster, settings: Callable[..., None]
) -> None:
    units = [(cluster.m, MASTER), (cluster.w1, WORKER)]
    for host, unit in units:
        settings(host, unit, f"WatchdogSec={WATCHDOG}", "RestartSec=100ms")
        host.systemctl("restart", unit)
    before, since = [restarts(*unit) for unit in units], time.monotonic()
    for host, unit in units:
        host.systemctl("kill", "--signal=STOP", "--kill-whom=main", unit)
    for (host, unit), number in zip(units, before, strict=True):
        assert restarted(host, unit, number, since) < WATCHDOG + GRACE


def test_a_master_whose_writer_hangs_is_started_anew(cluster: HostCluster, settings: Callable[..., None]) -> None:
    m = cluster.m
    settings(m, MASTER, f"WatchdogSec={WATCHDOG}", "RestartSec=100ms")
    m.systemctl("restart", MASTER)
    m.copy(Path(__file__).with_name("hold.py"), "/opt/hold.py")
    before, tasks = restarts(m, MASTER), []
    busy = m.popen("sh", "-c", BUSY_DISK)  # a commit that is slow once is left to the thread from then on

    def noticed(q: Client) -> bool:
        tasks.append(q.submit("square", len(tasks)))
        return "no progress: the store does not answer" in status(m, MASTER)

    with cluster.client() as q:
        q.submit("square", 1).result(timeout=20)
        holder = m.popen("python3", "/opt/hold.py", str(pid(m, MASTER)))
        try:
            assert holder.stdout is not None
            assert int(holder.stdout.readline()) > 0
            until(lambda: noticed(q), "the master to notice")
            assert restarted(m, MASTER, before, time.monotonic()) < WATCHDOG + GRACE
        finally:
            for process in (busy, holder):
                process.kill()
                process.wait()
        assert [task.result(timeout=30) for task in tasks] == [f"{n} * {n} = {n * n}" for n in range(len(tasks))]


def test_a_task_that_keeps_the_interpreter_for_itself_disturbs_no_watchdog(
    cluster: HostCluster, settings: Callable[..., None]
) -> None:
    for host in cluster.worker_hosts:
        settings(host, WORKER, f"WatchdogSec={WATCHDOG}")
        host.systemctl("restart", WORKER)
    before = cluster.restarts()
    with cluster.client() as q:
        tasks = [q.submit("hold", 3 * WATCHDOG) for _ in range(8)]
        assert [task.result(timeout=60) for task in tasks] == ["held"] * 8
    assert cluster.restarts() == before


# -- restarts, under load


def test_fifty_restarts_under_load_lose_nothing_and_are_over_soon(
    cluster: HostCluster, settings: Callable[..., None]
) -> None:
    m = cluster.m
    settings(m, MASTER, "RestartSec=100ms")
    with cluster.client() as q, ThreadPoolExecutor(1) as pool:
        parked = q.options(queue="parked")
        stored = [parked.submit("square", number) for number in range(BACKLOG)]
        stored[-1].state()
        work = pool.submit(lambda: list(q.map("square", range(20_000))))
        orderly = [timed_restart(m) for _ in range(RESTARTS)]
        killed = [timed_kill(m) for _ in range(RESTARTS)]
        assert work.result(timeout=60) == [f"{n} * {n} = {n * n}" for n in range(20_000)]
        counts = {queue.name: queue.counts for queue in q.queues()}
    print(f"\nready again after {max(orderly):.2f} s at most, after kill -9 {max(killed):.2f} s")
    assert counts["parked"] == {"ready": BACKLOG}
    assert max(orderly) < 2.0
    assert max(killed) < 5.0
    m.run("qdist", "cancel", "--queue", "parked", check=False)


def timed_restart(host: Host) -> float:
    began = time.monotonic()
    host.systemctl("restart", MASTER)
    return time.monotonic() - began


def timed_kill(host: Host) -> float:
    before, since = restarts(host, MASTER), time.monotonic()
    host.systemctl("kill", "--signal=KILL", "--kill-whom=main", MASTER)
    return restarted(host, MASTER, before, since)


def test_a_restart_of_all_workers_under_load_repeats_nothing_that_finished(cluster: HostCluster) -> None:
    number = 300
    for host in cluster.worker_hosts:
        host.sh("rm -f /var/lib/qdist/worker/noted")
    with cluster.client() as q:
        tasks = [q.submit("note", n) for n in range(number)]
        for host in cluster.worker_hosts:
            until(lambda host=host: host.path("/var/lib/qdist/worker/noted").exists(), "work on every host")
            host.systemctl("restart", "qdist-worker@*")
        assert sorted(task.result(timeout=60) for task in tasks) == list(range(number))
    noted = [int(n) for host in cluster.worker_hosts for n in host.read("/var/lib/qdist/worker/noted").split()]
    assert sorted(noted) == list(range(number))


def test_a_drain_may_take_longer_than_systemd_waits_and_counts_down(
    cluster: HostCluster, settings: Callable[..., None]
) -> None:
    settings(cluster.w1, WORKER, "TimeoutStopSec=3")
    with cluster.client() as q:
        only_on(cluster, cluster.w1)
        task = q.submit("note", 1, seconds=8)
        until(lambda: runs(q, task.id), "the task to run")
        cluster.w1.systemctl("stop", "--no-block", WORKER)
        until(lambda: re.match(r"draining, \d+ s left: 1 running", status(cluster.w1, WORKER)), "the countdown")
        assert task.result(timeout=20) == 1
        until(lambda: cluster.w1.show(WORKER, "ActiveState")["ActiveState"] == "inactive", "the end of the worker")
        assert cluster.w1.show(WORKER, "Result")["Result"] == "success"
        assert q.show(task.id).attempt == 1
        on_all(cluster)


def test_what_outlasts_the_drain_goes_back_at_no_cost(cluster: HostCluster) -> None:
    short = "/etc/qdist/worker.d/short.toml"
    cluster.w1.write(short, '[worker]\ndrain = "1s"\n')
    cluster.w1.systemctl("restart", WORKER)
    with cluster.client() as q:
        only_on(cluster, cluster.w1)
        task = q.submit("note", 1, seconds=6)
        until(lambda: runs(q, task.id), "the task to run")
        cluster.w1.systemctl("stop", WORKER)
        on_all(cluster)
        assert task.result(timeout=30) == 1
        assert [attempt.outcome for attempt in q.show(task.id).attempts] == ["released", "succeeded"]
    cluster.w1.path(short).unlink()


def test_a_worker_that_comes_back_under_its_name_gives_back_at_once_what_it_had(cluster: HostCluster) -> None:
    with cluster.client() as q:
        only_on(cluster, cluster.w1)
        task = q.submit("note", 1, seconds=3)
        until(lambda: runs(q, task.id), "the task to run")
        began = time.monotonic()
        cluster.w1.systemctl("kill", "--signal=KILL", WORKER)
        assert task.result(timeout=25) == 1
        assert time.monotonic() - began < 12.0, "it waited for the end of its lease"
        assert [attempt.outcome for attempt in q.show(task.id).attempts] == ["lost", "succeeded"]
    on_all(cluster)


def only_on(cluster: HostCluster, chosen: Host) -> None:
    """Leave one worker: the first one of this host."""
    for host in cluster.worker_hosts:
        host.systemctl("stop", "qdist-worker@2", *([] if host is chosen else [WORKER]))


def on_all(cluster: HostCluster) -> None:
    """All workers again."""
    for host in cluster.worker_hosts:
        host.systemctl("start", "qdist-worker@1", "qdist-worker@2")


def runs(q: Client, task_id: str) -> bool:
    """Whether a worker has this task."""
    return q.show(task_id).state is State.LEASED


# -- without a network of its own


def test_a_master_on_sockets_of_systemd_alone_serves_and_says_where_its_file_differs(cluster: HostCluster) -> None:
    m, mine = cluster.m, "/etc/systemd/system/qdist-master.service.d/strict.conf"
    m.write(mine, m.read("/usr/share/doc/qdist/examples/strict.conf"))
    listen = f"[Socket]\nListenStream=\nListenStream=0.0.0.0:{MASTER_PORT + 1}\n"
    m.write("/run/systemd/system/qdist-master.socket.d/tests.conf", listen)
    m.systemctl("stop", MASTER)
    m.systemctl("daemon-reload")
    m.systemctl("start", MASTER)
    with storming(cluster.lab, m, MASTER_PORT + 1, key(cluster)) as storm:
        m.systemctl("restart", MASTER)
    assert (storm.failures, storm.tried > 20) == ([], True)
    said = status(m, MASTER)
    assert f"listening on 0.0.0.0:{MASTER_PORT + 1}; the addresses are those of systemd's socket unit" in said
    assert f"not 0.0.0.0:{MASTER_PORT}" in said
    m.path(mine).unlink()
    m.systemctl("stop", MASTER, "qdist-master.socket")
    m.systemctl("daemon-reload")
    m.systemctl("start", MASTER)
