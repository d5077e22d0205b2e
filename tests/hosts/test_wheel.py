"""An installation by pip on a host without the package: what `qdist units` writes and says is all that it takes."""

import sys
from pathlib import Path

import pytest

from tests.hosts.host import Host
from tests.hosts.images import HERE, ROOT, Image, layer
from tests.hosts.lab import Lab
from tests.test_wheel import done

VENV = ("sh", "-c", "apt-get install --yes --quiet --no-install-recommends python3-venv && apt-get clean")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of this checkout and those of all that it depends on."""
    folder = tmp_path_factory.mktemp("wheels")
    done(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "-w", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def host(shared_lab: Lab, bare_bookworm: Image, wheels: Path) -> Host:
    """A host on which somebody has typed what the documentation says."""
    (host,) = shared_lab.up(m=layer("installed-venv", bare_bookworm, HERE, VENV))
    host.path("/root/wheels").mkdir()
    for wheel in wheels.iterdir():
        host.copy(wheel, f"/root/wheels/{wheel.name}")
    host.sh("python3 -m venv /opt/qdist && /opt/qdist/bin/pip install --quiet --no-index -f /root/wheels qdistd")
    said = host.sh("/opt/qdist/bin/qdist units / 2>&1")
    assert "qdist:" not in said, "it has no doubts"
    host.sh("\n".join(line for line in said.partition("Next, as root:\n")[2].splitlines()))
    return host


def test_master_and_worker_run_a_task(host: Host) -> None:
    assert host.run("/opt/qdist/bin/qdist", "submit", "square", "7", "--wait").stdout == "7 * 7 = 49\n"
    for unit, user in (("qdist-master", "qdist"), ("qdist-worker@1", "qdist-worker")):
        pid = host.show(unit, "MainPID")["MainPID"]
        assert host.sh(f"ps -o user:20=,args= -p {pid}").split()[:3:2] == [
            user,
            f"/opt/qdist/bin/{unit.partition('@')[0]}",
        ]


def test_the_journal_explains_what_it_says(host: Host) -> None:
    assert "Subject: A qdist daemon serves" in host.sh("journalctl --catalog --no-pager --unit=qdist-master")


def test_they_reload(host: Host) -> None:
    host.run("/opt/qdist/bin/qdist", "config", "set", "worker", "worker.processes", "1")
    host.systemctl("reload", "qdist-master", "qdist-worker@1")
    assert host.systemctl("is-active", "qdist-master", "qdist-worker@1").split() == ["active", "active"]


def test_an_upgrade_replaces_units_and_keeps_settings(host: Host) -> None:
    settings, unit = host.read("/etc/qdist/worker.toml"), "/usr/local/lib/systemd/system/qdist-worker@.service"
    text = host.read(unit)
    host.write(unit, "# of an older version\n")
    assert host.run("/opt/qdist/bin/qdist", "units", "/", check=False).returncode == 1
    host.run("/opt/qdist/bin/qdist", "units", "/", "--force")
    assert (host.read(unit), host.read("/etc/qdist/worker.toml")) == (text, settings)
