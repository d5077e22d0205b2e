"""A cluster on three hosts, set up as a person does it: a key is copied, a line edited, units are started."""

from tests.hosts.cluster import WORKERS, HostCluster

TEN = [f"{n} * {n} = {n * n}" for n in range(10)]


def test_ten_tasks_flow_over_three_hosts_of_two_releases(three_hosts: HostCluster) -> None:
    with three_hosts.client() as q:
        three_hosts.wait_for_workers(q)
        assert list(q.map("square", range(10))) == TEN
        assert {worker.host for worker in q.workers()} == {"w1", "w2"}
    for host in three_hosts.worker_hosts:
        assert all(host.show(unit, "ActiveState")["ActiveState"] == "active" for unit in WORKERS)
