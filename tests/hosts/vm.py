"""A whole machine, emulated: for what hosts in containers lack, a kernel of their own with all controllers of cgroups.

    with Machine(installed("bookworm")) as vm:
        vm.run("systemctl", "start", "qdist-worker@1")     its output, or AssertionError with it

It boots in some ten seconds and computes ten times slower than a host. It has no network but its own loopback; commands
go in, and what they say comes out, over a serial line, at the other end of which an agent of ours runs as root. The
disk is made once of the layers of a host and of a kernel, and kept: what a machine writes goes with it.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.hosts import images

HERE = Path(__file__).resolve().parent

SIZE = "3G"
"""Of the disk; it is sparse."""

MEMORY = "1G"

BOOT = 120.0
"""Seconds until the agent answers, on the slowest machine we know."""

COMMAND_LINE = "root=/dev/nvme0n1 rw console=ttyS0 quiet mitigations=off systemd.firstboot=off"

LONGEST = 120.0
"""Seconds that a command may take."""

AGENT = """\
import json, os, subprocess, tty
port = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
tty.setraw(port)
line = os.fdopen(port, "r+b", buffering=0)
line.write(b"ready\\n")
with open(port, "rb", closefd=False) as orders:
    for order in orders:
        command, given = json.loads(order)
        done = subprocess.run(command, input=given, stdout=-1, stderr=subprocess.STDOUT, text=True, errors="replace")
        answer = memoryview(json.dumps([done.returncode, done.stdout]).encode() + b"\\n")
        while answer:
            answer = answer[os.write(port, answer):]
"""

SERVICE = """\
[Service]
ExecStart=/usr/bin/python3 -I /agent.py
"""

FILES = {
    "agent.py": AGENT,
    "etc/systemd/system/agent.service": SERVICE,
    "etc/fstab": "",
    "etc/hostname": "vm\n",
    "etc/hosts": "127.0.0.1 localhost vm\n",
}
"""What makes a machine of the files of a host."""

UNWANTED = (
    *("systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-control.socket"),
    *("systemd-udevd-kernel.socket", "kmod-static-nodes.service", "systemd-binfmt.service", "systemd-logind.service"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("serial-getty@ttyS0.service", "getty@tty1.service"),
)
"""Units that nobody misses here: each takes half a second of an emulated boot."""

LINKS = {
    "etc/systemd/system/multi-user.target.wants/agent.service": "../agent.service",
    **{f"etc/systemd/system/{unit}": "/dev/null" for unit in UNWANTED},
}

KERNEL = ("linux-image-cloud-amd64",)


class Disk(NamedTuple):
    """What a machine boots from. It takes no initrd, as this kernel has what it needs for the disk built in."""

    image: Path
    kernel: Path


def installed(suite: str) -> Disk:
    """A Debian of this release with its kernel and the .deb of this checkout; made once a change of qdist."""
    host = images.installed(suite)
    install = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *KERNEL)
    kernel = images.layer(f"kernel-{suite}", images.base(suite), HERE, install)
    layers = [host.folders[0], *kernel.folders]
    folder = images.built(
        f"{host.name}-vm-{images.digest([Path(__file__).resolve()])}", lambda folder: _make(folder, layers)
    )
    return Disk(folder / "disk.img", folder / "vmlinuz")


def _make(folder: Path, layers: Sequence[Path]) -> None:
    """Put the files of `layers`, the topmost first, on a disk."""
    folder.mkdir()
    with tempfile.TemporaryDirectory(dir=folder) as workshop:
        top, work, whole = (Path(workshop) / name for name in ("top", "work", "whole"))
        for path in (top, work, whole):
            path.mkdir()
        _write_files(top)
        script = f"""
            mount -t overlay overlay -o lowerdir={":".join(map(str, layers))},upperdir={top},workdir={work} {whole}
            cp {whole}/boot/vmlinuz-* {folder}/vmlinuz
            truncate -s {SIZE} {folder}/disk.img
            mkfs.ext4 -q -d {whole} {folder}/disk.img
        """
        subprocess.run(["unshare", "--mount", "sh", "-e", "-c", script], check=True)


def _write_files(top: Path) -> None:
    for name, text in {**FILES, "etc/machine-id": f"{uuid.uuid4().hex}\n"}.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    for name, target in LINKS.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).symlink_to(target)


class Machine:
    """Runs for the `with`, from a copy of the disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._folder = Path(tempfile.mkdtemp(prefix="qdist-vm."))
        self._console = self._folder / "console"
        self._line: socket.socket | None = None
        self._unread = b""

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair()
        with theirs:
            self._qemu = subprocess.Popen(
                self._command(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "TMPDIR": str(self._folder)},
            )
        self._line = ours
        try:
            self._hear(BOOT)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, *command: str, given: str = "") -> str:
        """What the command prints; AssertionError where it fails."""
        status, printed = self.ask(*command, given=given)
        assert status == 0, f"{' '.join(command)}: exit status {status}\n{printed}"
        return printed

    def ask(self, *command: str, given: str = "") -> tuple[int, str]:
        """Its exit status, and what it prints."""
        assert self._line
        self._line.sendall(json.dumps([command, given]).encode() + b"\n")
        status, printed = json.loads(self._hear(LONGEST))
        return status, printed

    def write(self, path: str, text: str) -> None:
        """Have a file there that everybody can read."""
        self.run("install", "-D", "-m", "644", "/dev/stdin", path, given=text)

    def close(self) -> None:
        """Switch it off."""
        self._qemu.kill()
        self._qemu.wait()
        if self._line:
            self._line.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _hear(self, seconds: float) -> bytes:
        """The next line that comes from there."""
        assert self._line
        self._line.settimeout(seconds)
        while b"\n" not in self._unread:
            try:
                data = self._line.recv(65536)
            except TimeoutError:
                data = b""
            assert data, f"the machine says nothing more:\n{self._console.read_text(errors='replace')[-3000:]}"
            self._unread += data
        heard, _, self._unread = self._unread.partition(b"\n")
        return heard

    def _command(self, line: int) -> list[str]:
        return [
            *("setpriv", "--pdeathsig=KILL"),  # nothing of it outlives a test-suite that is killed
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY),
            *("-display", "none", "-nodefaults", "-no-reboot", "-snapshot"),
            *("-kernel", str(self._disk.kernel), "-append", COMMAND_LINE),
            *("-drive", f"file={self._disk.image},if=none,id=disk,format=raw,cache=unsafe"),
            *("-device", "nvme,drive=disk,serial=disk"),
            *("-serial", f"file:{self._console}"),
            *("-chardev", f"socket,id=line,fd={line}", "-serial", "chardev:line"),
        ]
