"""A cluster on three hosts, set up as a person does it, and what a person gets wrong: addresses, keys, clocks.

The clocks of two hosts cannot differ where they share a kernel. libfaketime, loaded by a drop-in of the units (or into
a client), moves what these programs read: the time of day, not the monotonic clock.
"""

import re
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from qdistd import Client
from tests.hosts.cluster import WORKERS, HostCluster
from tests.hosts.host import Host
from tests.patience import until

TEN = [f"{n} * {n} = {n * n}" for n in range(10)]

MENDED = 5.0
"""Seconds after the repair within which work goes on."""

WRONG = {"nobody": "10.99.0.99:5000", "nameless": "no-such-host:5000", "deaf": "m:5001"}
"""Instances of a worker, and the address each is given: no such host, no such name, nobody listens there."""

KNOCKS = """
table bridge knocks {{
    chain forward {{
        type filter hook forward priority 1;
        ip saddr {ip} tcp dport 5000 tcp flags & (syn | ack) == syn counter
    }}
}}
"""

STORM = 0.3
"""Seconds in which two workers whose key is refused may not knock three times each."""

DAY = timedelta(days=1).total_seconds()

FAKED_CLOCK = "LD_PRELOAD=/usr/$LIB/faketime/libfaketime.so.1 DONT_FAKE_MONOTONIC=1 FAKETIME={days:+}d"


@pytest.fixture
def q(three_hosts: HostCluster) -> Iterator[Client]:
    """A client beside the master, all workers connected; systemd has restarted no unit by itself in the end."""
    with three_hosts.client() as client:
        three_hosts.wait_for_workers(client)
        yield client
        three_hosts.wait_for_workers(client)
    assert set(three_hosts.restarts().values()) == {"0"}


def lines(host: Host, unit: str, word: str) -> list[str]:
    """What this run of a unit has written to the journal with `word` in it."""
    run = host.show(unit, "InvocationID")["InvocationID"]
    told = [str(entry["MESSAGE"]) for entry in host.journal(f"_SYSTEMD_INVOCATION_ID={run}")]
    return [line for line in told if word in line]


def test_ten_tasks_flow_over_three_hosts_of_two_releases(three_hosts: HostCluster, q: Client) -> None:
    assert list(q.map("square", range(10))) == TEN
    assert {worker.host for worker in q.workers()} == {"w1", "w2"}
    for host in three_hosts.worker_hosts:
        assert all(host.show(unit, "ActiveState")["ActiveState"] == "active" for unit in WORKERS)


def test_a_wrong_address_is_told_once_and_mended_by_a_reload(three_hosts: HostCluster, q: Client) -> None:
    w1, units = three_hosts.w1, [f"qdist-worker@{name}" for name in WRONG]
    tables = [f'[instance.{name}]\nmasters = ["{address}"]\n' for name, address in WRONG.items()]
    w1.write("/etc/qdist/worker.d/wrong.toml", "".join(tables))
    w1.systemctl("start", *units)
    for unit, address in zip(units, WRONG.values(), strict=True):
        (line,) = until(lambda unit=unit: lines(w1, unit, "no master answers"), f"{unit} says that no master answers")
        assert address in line
        assert "no master" in w1.show(unit, "StatusText")["StatusText"]
    w1.path("/etc/qdist/worker.d/wrong.toml").unlink()
    w1.systemctl("reload", *units)
    until(lambda: all(lines(w1, unit, "connected to") for unit in units), "all are connected", MENDED)
    assert {unit: len(lines(w1, unit, "no master answers")) for unit in units} == dict.fromkeys(units, 1)
    w1.systemctl("stop", *units)


def test_a_wrong_key_is_told_once_on_both_sides_without_a_storm(three_hosts: HostCluster, q: Client) -> None:
    m, w2, lab = three_hosts.m, three_hosts.w2, three_hosts.lab
    lab.run("nft", "-f", "-", input=KNOCKS.format(ip=w2.ip))
    right = w2.read("/etc/qdist/keys/work.key")
    w2.path("/etc/qdist/keys/work.key").unlink()
    w2.run("qdist", "key", "/etc/qdist/keys/work.key")
    began = time.monotonic()
    w2.systemctl("restart", *WORKERS)
    until(lambda: knocks(three_hosts) >= 3 * len(WORKERS), "both try again and again")
    assert time.monotonic() - began > STORM
    for unit in WORKERS:
        (line,) = lines(w2, unit, "no master takes this worker")
        assert "key" in line
    (line,) = [line for line in lines(m, "qdist-master", "refused") if w2.ip in line]
    assert "key" in line
    w2.write("/etc/qdist/keys/work.key", right, mode=0o600)
    w2.systemctl("reload", *WORKERS)
    three_hosts.wait_for_workers(q)


def knocks(cluster: HostCluster) -> int:
    """How often a connection to the master was begun."""
    counted = re.search(r"counter packets (\d+)", cluster.lab.run("nft", "list", "table", "bridge", "knocks").stdout)
    assert counted
    return int(counted[1])


def test_hosts_and_clients_whose_clocks_are_a_day_off_do_their_work(three_hosts: HostCluster, q: Client) -> None:
    for host, days in ((three_hosts.w1, -1), (three_hosts.w2, 1)):
        clock = f"[Service]\nEnvironment={FAKED_CLOCK.format(days=days)}\n"
        host.write("/etc/systemd/system/qdist-worker@.service.d/clock.conf", clock)
        host.systemctl("daemon-reload")
        host.systemctl("restart", *WORKERS)
    three_hosts.wait_for_workers(q)
    tasks = [q.options(delay=0.5).submit("square", n) for n in range(20)]
    assert [task.result(10) for task in tasks[:10]] == TEN
    views = [q.show(task) for task in tasks if task.result(10)]
    off = {attempt.host: attempt.started - view.created for view in views for attempt in view.attempts}
    assert {host: round(seconds / DAY) for host, seconds in off.items()} == {"w1": -1, "w2": 1}, "their clocks are off"
    assert {view.attempt for view in views} == {1}
    assert max(view.finished - view.created for view in views) < MENDED, "by the clock of the master"
    submit = ("qdist", "submit", "square", "7", "--delay", "1s", "--wait")
    for days in (-1, 1):
        assert "49" in three_hosts.m.run("env", *FAKED_CLOCK.format(days=days).split(), *submit, timeout=10).stdout
