"""The drop-ins of qdist-systemd(7) give tasks what the page says, on a real host, and nothing is there without them."""

import pytest

from tests.hosts.host import Host
from tests.hosts.images import Image
from tests.hosts.lab import Lab
from tests.test_man import blocks

TASKS = '[worker]\ntasks = ["subprocess"]\n'

FOLDERS = """
mkdir -p /home/ann /srv/share/results
chmod 755 /home/ann
chmod 777 /srv/share/results
echo hers >/home/ann/file
systemctl start qdist-master
"""

GIVEN = [
    ("ProtectHome=read-only", "cat /home/ann/file"),
    ("ReadWritePaths=/srv/share/results", "touch /srv/share/results/file"),
    ("PrivateDevices=no", "test -e /dev/console"),
    ("RestrictNamespaces=no", "unshare --user --map-root-user --mount mount -t tmpfs none /mnt"),
]
"""A line of a drop-in, and what a task can do with it."""


@pytest.fixture(scope="module")
def host(shared_lab: Lab, bookworm: Image) -> Host:
    (host,) = shared_lab.up(m=bookworm)
    host.write("/etc/qdist/worker.d/tasks.toml", TASKS)
    host.sh(FOLDERS)
    return host


def attempt(host: Host, command: str) -> bool:
    """Whether a command, as a task, succeeds."""
    host.systemctl("restart", "qdist-worker@1")
    said = host.run("qdist", "submit", "subprocess.getoutput", f"{command}; echo $?", "--wait").stdout
    return said.splitlines()[-1] == "0"


@pytest.mark.parametrize(("line", "command"), GIVEN)
def test_a_drop_in_gives_what_it_says(host: Host, line: str, command: str) -> None:
    assert not attempt(host, command), "without the drop-in"
    (text,) = [text for text in blocks("qdist-systemd.7") if line in text]
    host.write("/etc/systemd/system/qdist-worker@.service.d/page.conf", text)
    host.systemctl("daemon-reload")
    assert attempt(host, command), text
    host.path("/etc/systemd/system/qdist-worker@.service.d/page.conf").unlink()
    host.systemctl("daemon-reload")
