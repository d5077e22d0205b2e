"""Shares of real hosts under the shipped unit: mounts that come and go beside it, and one whose server is gone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qdistd import Client
from qdistd.views import WorkerView
from tests.hosts.cluster import HostCluster
from tests.hosts.host import Host
from tests.hosts.units import WORKER, on_all, only_on, pid, status
from tests.mute_mount import Mount
from tests.patience import until

FILE = "share://data/x.log"

SHARE = """
[worker]
labels = ["host={host}"]

[[share]]
name = "data"
path = "{path}"
probe = ".probe"
mount = {mount}
timeout = "3s"
interval = "500 ms"
"""

PATIENCE = 60.0

LONGEST_STOP = 60.0
"""Seconds after which systemd has given a process up that no SIGKILL ends, and the worker runs again."""


@contextmanager
def shared(cluster: HostCluster) -> Iterator[tuple[Client, Mount]]:
    """One worker on `w1`, which has the share in a mount, and two on `w2`, in a plain folder."""
    only_on(cluster, cluster.w1)
    cluster.w2.systemctl("start", WORKER)
    for host, path, mount in ((cluster.w1, "/mnt/data", "true"), (cluster.w2, "/srv/d", "false")):
        host.write("/etc/qdist/worker.d/share.toml", SHARE.format(host=host.name, path=path, mount=mount))
        host.systemctl("reload", WORKER)
    cluster.w2.sh("mkdir -p /srv/d && touch /srv/d/.probe && seq 2 >/srv/d/x.log && chmod -R a+rX /srv/d")
    mount = Mount(Path("/mnt/data"), {".probe": b"", "x.log": b"1\n"}, cluster.w1.leader)
    with cluster.client(role="admin") as q, mount:
        yield q, mount
        mount.speak()
    for host in cluster.worker_hosts:
        host.path("/etc/qdist/worker.d/share.toml").unlink()
    on_all(cluster)


def worker_of(q: Client, host: Host) -> WorkerView | None:
    """The worker of this host that is connected."""
    here = [worker for worker in q.workers() if worker.host == host.name and worker.state == "connected"]
    return here[0] if here else None


def has(q: Client, host: Host) -> bool:
    """Whether the worker of this host has the share."""
    worker = worker_of(q, host)
    return worker is not None and "share=data" in worker.labels


def trouble(q: Client, host: Host) -> str:
    """What is wrong with it."""
    worker = worker_of(q, host)
    return "; ".join(worker.troubles) if worker else ""


def stuck(host: Host) -> list[str]:
    """The processes of the worker that no signal reaches."""
    listed = host.run("ps", "--ppid", str(pid(host, WORKER)), "-o", "state=,args=").stdout.splitlines()
    return [line for line in listed if line.startswith("D") and "look.py" in line]


def test_a_mount_beside_the_sandbox_comes_hangs_and_comes_back(three_hosts: HostCluster) -> None:
    w1 = three_hosts.w1
    with shared(three_hosts) as (q, mount):
        until(lambda: has(q, w1) and has(q, three_hosts.w2), "the share on both hosts")
        for host, lines in (("w1", 1), ("w2", 2)):
            assert q.options(requires=[f"host={host}"]).submit("count_lines", FILE).result(PATIENCE) == lines
        mount.fall_silent()
        until(lambda: trouble(q, w1), "the word of the loss")
        until(lambda: f"; {trouble(q, w1)}" in status(w1, WORKER), "the status of the unit")
        until(lambda: stuck(w1), "a process that no signal reaches")
        assert list(q.map("count_lines", [FILE] * 20)) == [2] * 20
        assert q.options(requires=["host=w1"]).submit("square", 7).result(PATIENCE) == "7 * 7 = 49"
        before = pid(w1, WORKER)
        w1.systemctl("reload", WORKER)
        assert (pid(w1, WORKER), len(stuck(w1))) == (before, 1)
        assert "has not answered since" in status(w1, WORKER)
        mount.speak()
        until(lambda: has(q, w1), "the return of the share")
        w1.run("umount", "--lazy", "/mnt/data")
        until(lambda: trouble(q, w1) == "share data: nothing is mounted at /mnt/data", "the end of the share")


def test_a_worker_that_is_restarted_while_a_mount_hangs_comes_back_without_the_share(three_hosts: HostCluster) -> None:
    w1 = three_hosts.w1
    with shared(three_hosts) as (q, mount):
        until(lambda: has(q, w1), "the share")
        mount.fall_silent()
        until(lambda: stuck(w1), "a process that no signal reaches")
        begin = time.monotonic()
        w1.run("systemctl", "restart", WORKER, check=False)
        took = time.monotonic() - begin
        until(lambda: w1.show(WORKER, "SubState")["SubState"] == "running", "the worker")
        assert took < LONGEST_STOP
        print(f"\na restart over a process that no signal reaches took {took:.1f} s")
        assert q.options(requires=["host=w1"]).submit("square", 7).result(PATIENCE) == "7 * 7 = 49"
        assert not has(q, w1)
        mount.speak()
        until(lambda: has(q, w1), "the return of the share")
