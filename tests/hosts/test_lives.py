"""How daemons end and begin on real hosts: hangs that systemd ends, restarts under load, drains, deaths and heirs."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qdistd import Client
from tests.hosts.cluster import HostCluster
from tests.hosts.host import Host
from tests.hosts.units import MASTER, WORKER, drop_in, on_all, only_on, pid, restarted, restarts, runs, status
from tests.patience import until

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
        tasks = [q.submit("hold", 2 * WATCHDOG) for _ in range(8)]
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
    assert sorted(orderly)[RESTARTS * 9 // 10] < 2.0  # nine of ten: this machine may have other things to do
    assert max(orderly + killed) < 5.0


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
    settings(cluster.w1, WORKER, "TimeoutStopSec=2")
    with cluster.client() as q:
        only_on(cluster, cluster.w1)
        task = q.submit("note", 1, seconds=5)
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
        task = q.submit("note", 1, seconds=4)
        until(lambda: runs(q, task.id), "the task to run")
        cluster.w1.systemctl("stop", WORKER)
        on_all(cluster)
        assert task.result(timeout=30) == 1
        assert [attempt.outcome for attempt in q.show(task.id).attempts] == ["released", "succeeded"]
    cluster.w1.path(short).unlink()


def test_a_machine_that_shuts_down_does_not_wait_for_its_tasks(cluster: HostCluster) -> None:
    with cluster.client() as q:
        only_on(cluster, cluster.w1)
        task = q.submit("note", 1, seconds=5)
        until(lambda: runs(q, task.id), "the task to run")
        cluster.w1.systemctl("poweroff", "--no-block")
        until(lambda: not runs(q, task.id), "the end of the first attempt", seconds=4.0)
        cluster.w1.kill()
        cluster.w2.systemctl("start", WORKER)
        assert task.result(timeout=30) == 1
        assert [attempt.outcome for attempt in q.show(task.id).attempts] == ["released", "succeeded"]
    cluster.w1.start()
    on_all(cluster)


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
