"""The quickstart on a host where systemd runs: the package, two workers, ten tasks; said twice, it changes nothing."""

from pathlib import Path

import pytest

from tests.hosts.host import Host
from tests.hosts.images import ROOT, Image
from tests.hosts.lab import Lab

UNITS = ("qdist-master", "qdist-worker@1", "qdist-worker@2")

QUICKSTART = ("/srv/qdist/packaging/quickstart", "--package", "/root/qdist.deb")


@pytest.fixture(scope="module")
def host(shared_lab: Lab, bare_trixie: Image, deb: Path) -> Host:
    """A fresh host with the script, and with a package that was built elsewhere."""
    (host,) = shared_lab.up(m=bare_trixie)
    host.write(QUICKSTART[0], (ROOT / "packaging/quickstart").read_text(), mode=0o755)
    host.copy(deb, "/root/qdist.deb")
    return host


def pids(host: Host) -> list[str]:
    return [host.show(unit, "MainPID")["MainPID"] for unit in UNITS]


def test_from_nothing_to_ten_tasks_in_one_command(host: Host) -> None:
    said = host.run(*QUICKSTART).stdout
    assert said.count("\nResult: ") == 10 and "systemctl status qdist-master" in said
    assert host.systemctl("is-enabled", *UNITS).split() == ["enabled"] * 3


def test_a_second_time_nothing_is_installed_and_nothing_restarts(host: Host) -> None:
    before = pids(host)
    said = host.run(*QUICKSTART).stdout
    assert "installing" not in said and said.count("\nResult: ") == 10
    assert pids(host) == before and "0" not in before


def test_it_stops_what_it_started(host: Host) -> None:
    host.run(QUICKSTART[0], "--stop")
    assert set(host.systemctl("is-active", *UNITS, check=False).split()) == {"inactive"}
