"""What the tests of the two units share: looking at a unit, changing it for a while, waiting for systemd."""

import time
from pathlib import Path

from qdistd import Client, State
from tests.hosts.cluster import HostCluster
from tests.hosts.host import Host
from tests.patience import until

MASTER, WORKER = "qdist-master", "qdist-worker@1"


def drop_in(host: Host, unit: str, *lines: str) -> None:
    """Give a unit other settings until the next boot."""
    host.write(f"/run/systemd/system/{unit}.service.d/tests.conf", "\n".join(["[Service]", *lines, ""]))
    host.systemctl("daemon-reload")


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
