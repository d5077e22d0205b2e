"""Children in cgroups under systemd: what a task has started is gone with its child, within its unit and at once.

Each test on Debian 12 and on 13, whose workers have a queue of the name of their host. See `tests/test_cgroups.py` for
all that needs no systemd, and `test_memory.py` for what needs a kernel of its own.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import qdistd
from qdistd.client.submitter import Submitter
from tests.hosts.cluster import HostCluster
from tests.hosts.host import Host
from tests.patience import until

HUNGRY = Path(__file__).parent / "hungry.py"

UNIT = "qdist-worker@1"

WORKER = """
[worker]
processes = 1
queues = ["{host}"]
tasks = ["hungry"]
path = ["/srv/tasks"]
"""

CROWD = 100

MANY = 2000
"""Short tasks."""

AT_ONCE = 1.0
"""Seconds in which they must have gone."""

PATIENCE = 60.0


@pytest.fixture(scope="module")
def q(three_hosts: HostCluster) -> Iterator[qdistd.Client]:
    for host in three_hosts.worker_hosts:
        host.systemctl("stop", "qdist-worker@2")
        host.write("/srv/tasks/hungry.py", HUNGRY.read_text())
        host.write("/etc/qdist/worker.d/tests.toml", WORKER.format(host=host.name))
        host.systemctl("restart", UNIT)
    with three_hosts.client() as q:
        yield q


@pytest.fixture(params=["w1", "w2"])
def host(request: pytest.FixtureRequest, three_hosts: HostCluster) -> Host:
    return three_hosts.lab[request.param]


def group(host: Host) -> Path:
    """The cgroup of the worker's unit, as the host sees it."""
    return Path("/sys/fs/cgroup") / host.show(UNIT, "ControlGroup")["ControlGroup"].lstrip("/")


def crowd(host: Host) -> list[int]:
    """All processes of the worker but itself."""
    listed = host.sh(f"cat '{group(host)}'/child-*/run-*/cgroup.procs 2>/dev/null || :")
    return [int(pid) for pid in listed.split()]


def until_they_are_gone(host: Host) -> None:
    until(lambda: len(crowd(host)) <= 1, "a child alone", AT_ONCE)


def test_a_worker_divides_the_group_of_its_unit(q: qdistd.Client, host: Host) -> None:
    home = q.options(queue=host.name).submit("home").result(PATIENCE)
    assert f"/sys/fs/cgroup{home}".startswith(f"{group(host)}/child-")
    assert host.run("cat", f"{group(host)}/supervisor/cgroup.procs").stdout.split() == [main_pid(host)]
    [line] = [str(entry["MESSAGE"]) for entry in host.journal(f"--unit={UNIT}", "--grep=cgroup of its own", "-n1")]
    assert str(group(host)) in line


def test_all_that_a_task_has_started_is_gone_when_its_time_is_over(q: qdistd.Client, host: Host) -> None:
    task = q.options(queue=host.name, timeout=5.0).submit("hold_daemons", CROWD)
    until(lambda: len(crowd(host)) > CROWD, "the daemons")
    assert "ran longer than its limit of 5 seconds" in str(task.exception(PATIENCE))
    until_they_are_gone(host)


def test_all_that_a_task_has_started_is_gone_when_its_child_is_killed(q: qdistd.Client, host: Host) -> None:
    task = q.options(queue=host.name).submit("hold_daemons", CROWD)
    until(lambda: len(crowd(host)) > CROWD, "the daemons")
    doomed = set(crowd(host))
    host.run("kill", "-KILL", child(host))
    until(lambda: doomed.isdisjoint(crowd(host)), "the end of all that it had started", AT_ONCE)
    q.cancel([task])  # it has begun again
    until_they_are_gone(host)


def test_a_task_with_a_limit_leaves_nothing_running_and_its_child_goes_on(q: qdistd.Client, host: Host) -> None:
    before = child(host)
    assert len(q.options(queue=host.name, timeout=60.0).submit("leave_daemons", CROWD).result(PATIENCE)) == CROWD
    until_they_are_gone(host)
    assert child(host) == before


def test_what_a_killed_worker_leaves_ends_with_it(q: qdistd.Client, host: Host) -> None:
    q.options(queue=host.name).submit("leave_daemons", CROWD).result(PATIENCE)
    assert len(crowd(host)) > CROWD
    before = main_pid(host)
    host.run("kill", "-KILL", before)
    until(lambda: main_pid(host) not in ("0", before), "the next worker")
    assert q.options(queue=host.name).submit("home").result(PATIENCE).endswith("/child-1/run-1")
    assert len(crowd(host)) == 1


def test_a_limit_costs_a_short_task_next_to_nothing(q: qdistd.Client, host: Host) -> None:
    free, limited = q.options(queue=host.name), q.options(queue=host.name, timeout=60.0)
    list(free.map("nibble", range(MANY)))  # until it is known to be short
    rounds = [(seconds_for(free), seconds_for(limited)) for _ in range(3)]
    best_free, best_limited = (min(times) for times in zip(*rounds, strict=True))
    assert best_limited < 2 * best_free, rounds


def test_a_task_cannot_signal_its_worker_where_the_kernel_can_see_to_that(q: qdistd.Client, host: Host) -> None:
    kernel = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    came_of_it = q.options(queue=host.name).submit("poke_the_worker").result(PATIENCE)
    assert came_of_it == ("refused" if kernel >= (6, 12) else "sent")


def test_without_delegation_a_worker_says_so_and_works_as_before(q: qdistd.Client, host: Host) -> None:
    drop_in = f"/etc/systemd/system/{UNIT}.service.d/undelegated.conf"
    host.write(drop_in, "[Service]\nDelegate=no\n")
    host.systemctl("daemon-reload")
    host.systemctl("restart", UNIT)
    assert q.options(queue=host.name, timeout=60.0).submit("home").result(PATIENCE).endswith(f"/{UNIT}.service")
    assert host.journal(f"--unit={UNIT}", "--grep=children run in process groups, with rlimits: .* is not delegated")
    host.path(drop_in).unlink()
    host.systemctl("daemon-reload")
    host.systemctl("restart", UNIT)


def seconds_for(q: Submitter) -> float:
    begin = time.monotonic()
    assert list(q.map("nibble", range(MANY))) == [number * number for number in range(MANY)]
    return time.monotonic() - begin


def child(host: Host) -> str:
    return host.run("pgrep", "--exact", "qdist-child").stdout.strip()


def main_pid(host: Host) -> str:
    return host.show(UNIT, "MainPID")["MainPID"]
