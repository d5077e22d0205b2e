"""A journal that stands still, as on a host whose disk hangs, stops neither master nor workers."""

import time

from qdistd.events import Event
from tests.hosts.cluster import HostCluster
from tests.hosts.host import Host
from tests.hosts.images import Image
from tests.hosts.lab import Lab
from tests.patience import until

DEBUG = '[log]\nlevel = "debug"\n'
"""With a line for every step of every task, so that there is much to write."""

STANDSTILL = 35.0
"""Seconds: longer than the watchdogs of the master (20) and of the workers (30)."""

BATCH = 500


def signal_journal(host: Host, name: str) -> None:
    host.systemctl("kill", f"--signal={name}", "systemd-journald")


def test_a_journal_that_stands_still_for_longer_than_the_watchdog_stops_nothing(lab: Lab, bookworm: Image) -> None:
    cluster = HostCluster(lab, bookworm, bookworm, worker=DEBUG)
    cluster.configure_master(DEBUG)
    with cluster.client() as client:
        cluster.wait_for_workers(client, 2)
        for host in (cluster.m, cluster.w1):
            signal_journal(host, "SIGSTOP")
        rounds, end = 0, time.monotonic() + STANDSTILL
        while time.monotonic() < end:
            handles = [client.submit("square", 5) for _ in range(BATCH)]
            assert [handle.result(10) for handle in handles] == ["5 * 5 = 25"] * BATCH
            rounds += 1
        for host in (cluster.m, cluster.w1):
            signal_journal(host, "SIGCONT")
    assert rounds * BATCH > 100 * STANDSTILL
    assert set(cluster.restarts().values()) == {"0"}
    until(lambda: cluster.m.journal(f"MESSAGE_ID={Event.RECORDS_DROPPED.value}"), "the count of what was dropped")
