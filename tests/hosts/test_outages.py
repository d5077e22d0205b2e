"""Hosts lose their network or their power: what both sides notice, and what becomes of the tasks.

    m    the master, and a worker `spare` that serves all queues, where a test starts it
    w1   packets vanish both ways           w2   those to w2 vanish (it is deaf)
    w3   those from w3 vanish (it is mute)  w4   no carrier

The faults come at the same time, each to its host. Each worker host has a queue of its own name. A task there counts
the lines of a named pipe, which takes until the test writes some; on m that file is a plain one, so that the same task
ends at once.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from qdistd import Client, Handle
from tests.hosts.cluster import WORKERS, HostCluster
from tests.hosts.host import Host
from tests.hosts.images import Image
from tests.hosts.lab import Lab
from tests.hosts.network import Fault
from tests.patience import until

FAULTS: dict[str, Fault] = {"w1": "both", "w2": "in", "w3": "out", "w4": "link"}

NOTICED = 10.0
"""Seconds within which both sides know of a partition that nobody told them of."""

MENDED = 5.0
"""Seconds after the repair within which work goes on."""

HEARTBEAT = 5.0
"""Seconds between two words of a worker that has nothing to say, by default."""

LEASE = 8.0
"""Seconds of the short lease: longer than it takes to notice a fault."""

SHORT_LEASE = f'[limits]\nlease = "{LEASE:g}s"\nheartbeat = "2s"\n'

BOOTED = 2.0
"""Seconds of userspace after which a master serves again."""

GATE = "/srv/gate"

ONE_CHILD = 'processes = 1\nqueues = ["default", "{host}"]\n'


@pytest.fixture(scope="module")
def cluster(shared_lab: Lab, bookworm: Image, trixie: Image) -> HostCluster:
    """The hosts of the picture, the master with its defaults; `spare` does not run."""
    made = HostCluster(shared_lab, bookworm, trixie, bookworm, trixie, bookworm, worker=f"[worker]\n{ONE_CHILD}")
    for host in made.worker_hosts:
        host.run("mkfifo", "--mode=644", GATE)
    made.m.write(GATE, "one line\n")
    queues = ", ".join(f'"{name}"' for name in FAULTS)
    made.m.write("/etc/qdist/worker.d/tests.toml", f"[worker]\nqueues = [{queues}]\n")
    return made


@pytest.fixture
def q(cluster: HostCluster) -> Iterator[Client]:
    """A client beside the master: no fault is on its way. All workers are connected, and systemd restarts no unit."""
    with cluster.client() as client:
        cluster.wait_for_workers(client, 2 * len(FAULTS))
        yield client
    assert set(cluster.restarts().values()) == {"0"}


@contextmanager
def spare(cluster: HostCluster) -> Iterator[None]:
    """A worker on the host of the master, which takes over what others lose."""
    cluster.m.systemctl("start", "qdist-worker@spare")
    yield
    cluster.m.systemctl("stop", "qdist-worker@spare")


class Gate:
    """The other end of the named pipe of a host: a task that counts its lines has to wait for them."""

    def __init__(self, host: Host) -> None:
        self._writer = host.popen("sh", "-c", f"exec 3>{GATE}; echo reached; read go; printf '1\\n2\\n3\\n' >&3")

    def reached(self) -> None:
        """Return when somebody counts."""
        assert self._writer.stdout
        assert self._writer.stdout.readline() == "reached\n"

    def let_go(self) -> None:
        """Let the one who counts find three lines."""
        self._writer.communicate("go\n")


@contextmanager
def running(cluster: HostCluster, q: Client) -> Iterator[dict[str, Handle[int]]]:
    """A task on each worker host, by its name. They run for the `with`."""
    tasks = {name: q.options(queue=name).submit("count_lines", GATE) for name in FAULTS}
    gates = [Gate(host) for host in cluster.worker_hosts]
    for gate in gates:
        gate.reached()
    yield tasks
    for gate in gates:
        gate.let_go()


def states(q: Client) -> list[str]:
    """How the master sees each worker of the four hosts that it has heard of lately."""
    return [worker.state for worker in q.workers() if worker.host in FAULTS]


def cut_all(cluster: HostCluster) -> None:
    for name, fault in FAULTS.items():
        cluster.lab[name].cut(fault)


def alone(host: Host) -> bool:
    """Whether the workers of this host know that they have no master."""
    return all("no master" in host.show(unit, "StatusText")["StatusText"] for unit in WORKERS)


def test_a_partition_shorter_than_the_lease_is_noticed_mended_and_costs_nothing(
    cluster: HostCluster, q: Client
) -> None:
    with running(cluster, q) as tasks:
        cut_all(cluster)
        began = time.monotonic()
        until(lambda: set(states(q)) == {"silent"}, "the master notices", NOTICED)
        until(lambda: all(map(alone, cluster.worker_hosts)), "the workers notice", began + NOTICED - time.monotonic())
        noticed = time.monotonic() - began
    cluster.lab.heal()
    began = time.monotonic()
    for name, task in tasks.items():
        assert (name, task.result(MENDED), q.show(task).attempt) == (name, 3, 1)
    print(f"noticed after {noticed:.1f} s, mended {time.monotonic() - began:.1f} s after the repair")


def test_a_partition_longer_than_the_lease_has_tasks_run_elsewhere_once(cluster: HostCluster, q: Client) -> None:
    cluster.configure_master(SHORT_LEASE)
    cluster.wait_for_workers(q, 2 * len(FAULTS))
    with running(cluster, q) as tasks, spare(cluster):
        cut_all(cluster)
        for name, task in tasks.items():
            assert task.result(LEASE + MENDED) == 1, "m has one line in its file"
            lost, done = q.show(task).attempts
            assert (lost.outcome, lost.host, done.outcome, done.host) == ("lost", name, "succeeded", "m")
    cluster.lab.heal()
    until(lambda: set(states(q)) == {"connected"}, "all are back", MENDED)
    assert q.options(queue="w1").submit("square", 7).result(MENDED) == "7 * 7 = 49"
    cluster.configure_master("")


def test_a_worker_host_that_dies_for_good_keeps_no_task_longer_than_the_lease(cluster: HostCluster, q: Client) -> None:
    cluster.configure_master(SHORT_LEASE)
    cluster.wait_for_workers(q, 2 * len(FAULTS))
    w4 = cluster.lab["w4"]
    with running(cluster, q) as tasks, spare(cluster):
        w4.kill()
        assert tasks["w4"].result(LEASE + MENDED) == 1
        w4.start()
    w4.systemctl("start", *WORKERS)
    assert {tasks[name].result(MENDED) for name in ("w1", "w2", "w3")} == {3}
    cluster.configure_master("")
    cluster.wait_for_workers(q, 2 * len(FAULTS))


def test_resets_half_open_connections_and_a_frozen_host_cost_nothing(cluster: HostCluster, q: Client) -> None:
    m, w1, w2, w3, w4 = cluster.m, *cluster.worker_hosts
    with running(cluster, q) as tasks:
        for host in (w2, w3, w4):
            host.freeze() if host is w4 else host.cut()
        w1.reset()
        w2.reset()  # the master has the other half, and no word of it
        m.reset(peer=w3.ip)  # as have the workers here
        until(lambda: quiet(q, "w4") > HEARTBEAT + 1.0, "the master misses a heartbeat")
        w4.thaw()
        cluster.lab.heal()
        until(lambda: set(states(q)) == {"connected"}, "all are back", MENDED)
    for name, task in tasks.items():
        assert (name, task.result(MENDED), q.show(task).attempt) == (name, 3, 1)


def quiet(q: Client, host: str) -> float:
    """Seconds since the master has heard of the workers of a host."""
    return q.status().now - max(worker.seen for worker in q.workers() if worker.host == host)


@pytest.mark.parametrize("end", [Host.stop, Host.kill], ids=["reboot", "power cut"])
def test_a_master_host_that_boots_again_serves_at_once_and_no_task_runs_twice(
    cluster: HostCluster, q: Client, end: Callable[[Host], None]
) -> None:
    m = cluster.m
    m.systemctl("enable", "qdist-master")
    with running(cluster, q) as tasks:
        later = q.submit("square", 7)
        q.flush()
        end(m)
    m.start()
    until(lambda: m.show("qdist-master", "ActiveState")["ActiveState"] == "active", "the master serves")
    print(f"serving {served_after(m):.2f} s after userspace began")
    assert served_after(m) < BOOTED
    with cluster.client() as again:
        assert again.result(later.id, MENDED) == "7 * 7 = 49"
        for name, task in tasks.items():
            assert (name, again.result(task.id, MENDED), again.show(task.id).attempt) == (name, 3, 1)


def served_after(host: Host) -> float:
    """Seconds from the first instruction of PID 1 to a master that serves."""
    begun = host.show("", "UserspaceTimestampMonotonic")["UserspaceTimestampMonotonic"]
    serves = host.show("qdist-master", "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"]
    return (int(serves) - int(begun)) / 1e6
