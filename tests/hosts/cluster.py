"""qdist on three hosts, set up the way a person does it: copy a key, edit one line, start the units."""

import qdistd
from tests.hosts.host import Host
from tests.hosts.images import Image
from tests.hosts.lab import Lab
from tests.patience import until

MASTER_PORT = 5000
WORKERS = ("qdist-worker@1", "qdist-worker@2")

DOOR = "/var/lib/qdist/tests.sock"
"""A Unix socket of the master: the way in for clients in this process, which are not in the network of the lab."""

LISTEN = f'[master]\nlisten = ["0.0.0.0:{MASTER_PORT}", "unix:{DOOR}"]\n'


class HostCluster:
    """A master on `m`, two workers each on `w1`, `w2` and so on. Everything runs when it is made."""

    def __init__(self, lab: Lab, master: Image, *workers: Image, worker: str = "") -> None:
        """`worker`: lines of TOML for the workers of each host, with its name in place of {host}."""
        self.lab = lab
        self.m, *self.worker_hosts = lab.up(m=master, **{f"w{n}": worker for n, worker in enumerate(workers, 1)})
        self.w1, self.w2 = self.worker_hosts[0], self.worker_hosts[-1]
        self.start_master()
        for host in self.worker_hosts:
            host.write("/etc/qdist/worker.d/tests.toml", worker.format(host=host.name))
            self.start_workers(host)

    def start_master(self) -> None:
        """Let the master listen on all addresses, and start it."""
        self.m.write("/etc/qdist/master.d/listen.toml", LISTEN)
        self.m.systemctl("restart", "qdist-master")

    def start_workers(self, host: Host) -> None:
        """Bring the key of the master's host, edit one line, start two workers."""
        host.write("/etc/qdist/keys/work.key", self.m.read("/etc/qdist/keys/work.key"), mode=0o600)
        host.run("sed", "-i", f's/^#masters = .*/masters = ["m:{MASTER_PORT}"]/', "/etc/qdist/worker.toml")
        host.systemctl("restart", *WORKERS)

    def configure_master(self, text: str) -> None:
        """Put these lines of TOML above the master's own, in place of those put there before, and start it anew."""
        self.m.write("/etc/qdist/master.d/tests.toml", text)
        self.m.systemctl("restart", "qdist-master")

    def client(self, role: str = "admin", **options: float) -> qdistd.Client:
        """A client in this process. It is over when `m` boots again."""
        key = self.m.read(f"/etc/qdist/keys/{role}.key").removesuffix("\n").encode()
        return qdistd.Client(f"unix:{self.m.path(DOOR)}", key=key, **options)

    def wait_for_workers(self, client: qdistd.Client, number: int = 4) -> None:
        """Return when so many workers are connected."""
        until(lambda: sum(worker.state == "connected" for worker in client.workers()) == number, f"{number} workers")

    def restarts(self) -> dict[str, str]:
        """How often systemd has restarted each unit by itself."""
        units = [(self.m, "qdist-master"), *((host, unit) for host in self.worker_hosts for unit in WORKERS)]
        return {f"{host.name} {unit}": host.show(unit, "NRestarts")["NRestarts"] for host, unit in units}
