"""One host: a Debian with systemd as PID 1, in namespaces and a cgroup of its own, with a disk that outlives its power.

Its root is an overlay: an image that nobody writes to, and the host's own disk on top. The overlay, a pure cgroup2
mount and a tmpfs on /run/systemd are mounted in a private namespace, so that nothing of them shows here and nothing is
left to unmount. Memory, CPU, I/O and pids controllers are there only where this machine has them on cgroup2. Clock and
kernel are those of this machine; the kernel of a frozen host still acknowledges packets.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from tests.hosts.images import Image
from tests.hosts.network import SUBNET4, SUBNET6, Fault, Network
from tests.patience import until

BOOT = 60.0
"""Seconds that a host may take to boot or to power off, on the slowest machine we know."""

COMMAND = 120.0
"""Seconds that a command in a host may take."""

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}

CAPABILITIES = "CAP_NET_ADMIN,CAP_BPF,CAP_SYS_RESOURCE,CAP_IPC_LOCK"
"""What a real host has and systemd-nspawn keeps from a container; CAP_BPF is for IPAddressDeny= and the like."""

CALLS = "bpf landlock_create_ruleset landlock_restrict_self"
"""The same of system calls: for IPAddressDeny=, and for what keeps the signals of tasks from their worker."""

POWER_OFF = signal.SIGRTMIN + 4
"""What PID 1 takes for `systemctl poweroff`."""

OUTER = """
set -e
umount -R /sys/fs/cgroup 2>/dev/null || :
mount -t cgroup2 none /sys/fs/cgroup
cgroup=/sys/fs/cgroup/{cgroup}
mkdir -p $cgroup/outer
echo $$ >$cgroup/outer/cgroup.procs
mkdir -p /run/systemd
mount -t tmpfs -o mode=755 tmpfs /run/systemd
mount -t overlay overlay -o lowerdir={lowerdirs},upperdir={disk}/upper,workdir={disk}/work {disk}/root
echo $$ >$cgroup/cgroup.procs
exec {nspawn}
"""
"""What is around a host. PID 1 in there gets the cgroup `payload` beside `outer`."""


class Host:
    """A host of a lab. `disk` is a folder of its own, and `hosts` the text of /etc/hosts."""

    def __init__(self, name: str, number: int, network: Network, image: Image, disk: Path, hosts: str) -> None:
        self.name, self.number, self.image = name, number, image
        self.ip, self.ip6 = f"{SUBNET4}{number}", f"{SUBNET6}{number}"
        self.boot_seconds = 0.0
        """How long the last start took, from nothing to all start jobs of PID 1 done."""
        self._network, self._disk = network, disk
        self._cgroup = cgroup2() / f"{network.name}.{name}"
        self._outer: subprocess.Popen[bytes] | None = None
        self._leader = 0
        for folder in ("upper/etc", "work", "root"):
            (disk / folder).mkdir(parents=True)
        own = {"machine-id": f"{uuid.uuid4().hex}\n", "hostname": f"{name}\n", "hosts": hosts, "resolv.conf": ""}
        for file, text in own.items():
            (disk / "upper/etc" / file).write_text(text)

    # -- power

    def start(self) -> None:
        """Boot, and wait until PID 1 says that the host is up."""
        self.power_on()
        self.wait_until_up()

    def power_on(self) -> None:
        """Boot, without waiting."""
        assert self._outer is None, f"{self.name} runs already"
        self._cgroup.mkdir(exist_ok=True)
        self._namespace = self._network.plug(self.name, self.number)
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        (self._disk / "notify").unlink(missing_ok=True)
        self._notices.bind(str(self._disk / "notify"))
        self._started = time.monotonic()
        with (self._disk / "console.log").open("ab") as log:
            self._outer = subprocess.Popen(
                ["unshare", "--mount", "--propagation=private", "bash", "-c", self._script()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT | {"NOTIFY_SOCKET": str(self._disk / "notify"), "SYSTEMD_LOG_LEVEL": "warning"},
                start_new_session=True,
            )

    def wait_until_up(self) -> None:
        """Wait for what systemd-nspawn tells: which process is PID 1, and that all start jobs in there are done."""
        while "READY=1" not in (notice := self._notice()).splitlines():
            if found := re.search(r"X_NSPAWN_LEADER_PID=(\d+)", notice):
                self._leader = int(found[1])
        self.boot_seconds = time.monotonic() - self._started

    def kill(self) -> None:
        """Cut the power: everything ends at once, nobody is told. The disk keeps what was written."""
        if self._outer is None:
            return
        self._network.unplug(self.name, self.number)  # first: a kernel that lives on says for its dead that they are
        (self._cgroup / "cgroup.kill").write_text("1")
        until(lambda: "populated 0" in (self._cgroup / "cgroup.events").read_text(), f"the end of {self.name}")
        remove_cgroup(self._cgroup)
        self._outer.wait()
        self._notices.close()
        self._outer = None

    def stop(self) -> None:
        """Shut down in good order."""
        assert self._outer
        os.kill(self._leader, POWER_OFF)
        self._outer.wait(BOOT)
        self.kill()

    def reboot(self) -> None:
        """Shut down in good order, and boot again."""
        self.stop()
        self.start()

    @property
    def leader(self) -> int:
        """PID 1 of the host, by its number here."""
        return self._leader

    def freeze(self) -> None:
        """Stop every process of the host. Its kernel goes on: connections stay open, and nothing answers."""
        (self._cgroup / "cgroup.freeze").write_text("1")

    def thaw(self) -> None:
        """Let them go on."""
        (self._cgroup / "cgroup.freeze").write_text("0")

    # -- commands

    def run(
        self, *command: str, check: bool = True, user: str = "", stdin: str = "", timeout: float = COMMAND
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the host, as root or `user`. AssertionError with its output where `check` and it failed."""
        full = self.command(command, user)
        done = subprocess.run(
            full, input=stdin, capture_output=True, text=True, timeout=timeout, preexec_fn=self._enter_cgroup
        )
        assert not check or done.returncode == 0, (
            f"{self.name}: {shlex.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def sh(self, script: str) -> str:
        """What a shell script in the host prints."""
        return self.run("sh", "-ec", script).stdout

    def popen(self, *command: str, user: str = "", **options: object) -> subprocess.Popen[str]:
        """A command in the host that goes on in the background, with pipes for its input and output."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen(self.command(command, user), preexec_fn=self._enter_cgroup, **pipes)  # type: ignore[call-overload]

    def command(self, command: Sequence[str], user: str = "") -> list[str]:
        """What runs `command` in this host when it is run here."""
        be = ["runuser", f"--user={user}", "--"] if user else []
        clean = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in ENVIRONMENT.items())]
        return [
            "nsenter",
            "--all",
            f"--target={self._leader}",
            f"--wd=/proc/{self._leader}/root",
            *be,
            *clean,
            *command,
        ]

    # -- systemd

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """What `systemctl` prints."""
        return self.run("systemctl", "--no-pager", *arguments, check=check).stdout

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """These properties of a unit, or of systemd itself where `unit` is empty."""
        named = [f"--property={name}" for name in properties]
        lines = self.systemctl("show", *filter(None, [unit]), *named).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def journal(self, *arguments: str) -> list[dict[str, object]]:
        """Entries of the journal, with the arguments of journalctl; also of a host that is down."""
        options = ["--no-pager", "--output=json", "--all", *arguments]
        if self._outer:
            lines = self.run("journalctl", *options).stdout
        else:
            folder = self._disk / "upper/var/log/journal"
            lines = subprocess.run(["journalctl", *options, "-D", folder], capture_output=True, text=True).stdout
        return [json.loads(line) for line in lines.splitlines()]

    # -- files

    def path(self, path: str) -> Path:
        """A file of the running host, as seen from here."""
        return Path(f"/proc/{self._leader}/root") / path.lstrip("/")

    def read(self, path: str) -> str:
        """The text of a file."""
        return self.path(path).read_text()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file, whole, and the folders above it."""
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)
        self.path(path).chmod(mode)

    def copy(self, here: Path, there: str) -> None:
        """Copy a file of this machine into the host."""
        shutil.copy(here, self.path(there))

    # -- network

    def cut(self, fault: Fault = "both") -> None:
        """Give the cable of this host a fault."""
        self._network.cut(self.number, fault)

    def heal(self) -> None:
        """Take all faults from its cable."""
        self._network.heal(self.number)

    def reset(self, port: int = 5000, peer: str = "") -> None:
        """Reset its connections from and to this TCP port, all or those with the address `peer`.

        The other end is told unless the cable is cut: then it is half-open.
        """
        self._network.reset(self.name, port, peer)

    # -- inside

    def _script(self) -> str:
        nspawn = [
            *("systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--settings=no"),
            f"--system-call-filter={CALLS}",
            *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--notify-ready=yes", "--console=passive"),
            *(f"--directory={self._disk}/root", f"--machine={self.name}", f"--capability={CAPABILITIES}"),
            *(f"--network-namespace-path={self._namespace}", "--boot"),
            *("systemd.firstboot=off", "systemd.show_status=no"),
        ]
        return OUTER.format(
            cgroup=self._cgroup.name,
            lowerdirs=self.image.lowerdirs,
            disk=self._disk,
            nspawn=shlex.join(nspawn),
        )

    def _notice(self) -> str:
        """The next notice of systemd-nspawn. AssertionError with the console when the host is gone or stuck."""
        assert self._outer
        self._notices.settimeout(0.2)
        while True:
            try:
                return self._notices.recv(8192).decode()
            except TimeoutError:
                late = time.monotonic() > self._started + BOOT
                console = (self._disk / "console.log").read_text(errors="replace")[-2000:]
                assert not late and self._outer.poll() is None, f"{self.name} did not come up:\n{console}"

    def _enter_cgroup(self) -> None:
        """Between fork and exec: else the processes of the command see a cgroup outside of their host."""
        inside = self._cgroup / "payload" / "commands"
        inside.mkdir(exist_ok=True)
        (inside / "cgroup.procs").write_text("0")


def cgroup2() -> Path:
    """Where this machine has its cgroup2 tree."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, kind = line.split(" - ")
        if kind.split()[0] == "cgroup2":
            return Path(place.split()[4])
    raise AssertionError("this machine has no cgroup2")


def remove_cgroup(cgroup: Path) -> None:
    """Remove an empty cgroup and those below it."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        Path(folder).rmdir()
