"""The hosts themselves: they boot, they run things, their faults are faults, and nothing of them is left."""

from pathlib import Path

import pytest

from tests.hosts.host import Host, cgroup2
from tests.hosts.images import Image
from tests.hosts.lab import Lab
from tests.hosts.network import NAMESPACES, Fault
from tests.patience import until

SERVER = """
import socket
server, held = socket.create_server(("", 7000)), []
while True:
    held.append(server.accept()[0])
    held[-1].sendall(b"hi")
"""

CALLER = "import socket, sys; print(socket.create_connection((sys.argv[1], 7000), 0.5).recv(9).decode())"


@pytest.fixture(scope="module")
def pair(shared_lab: Lab, bare_bookworm: Image, bare_trixie: Image) -> Lab:
    """Two hosts, one of each release; `a` serves on port 7000."""
    a, b = shared_lab.up(a=bare_bookworm, b=bare_trixie)
    a.run("systemd-run", "--unit=server", "python3", "-c", SERVER)
    until(lambda: reaches(b, "a"), "the server")
    return shared_lab


def reaches(host: Host, other: str) -> bool:
    return host.run("python3", "-c", CALLER, other, check=False).stdout == "hi\n"


def test_a_host_is_up_whole_with_a_systemd_of_its_release(pair: Lab) -> None:
    for host, version in ((pair["a"], "252"), (pair["b"], "257")):
        assert host.run("systemctl", "is-system-running", "--wait", check=False).stdout == "running\n"
        assert host.systemctl("--version").startswith(f"systemd {version} ")
        assert host.run("uname", "-n").stdout == f"{host.name}\n"


def test_a_command_gets_input_and_gives_output_and_status(pair: Lab) -> None:
    done = pair["a"].run("sh", "-c", "cat; id -un; exit 5", stdin="in\n", user="nobody", check=False)
    assert (done.returncode, done.stdout) == (5, "in\nnobody\n")


def test_commands_stand_in_a_cgroup_of_their_host(pair: Lab) -> None:
    assert ".." not in pair["a"].run("cat", "/proc/self/cgroup").stdout.splitlines()[-1]


@pytest.mark.parametrize("fault", ["both", "in", "out", "link"])
def test_a_cut_host_is_not_reached_until_it_is_healed(pair: Lab, fault: Fault) -> None:
    pair["b"].cut(fault)
    assert not reaches(pair["b"], "a")
    pair["b"].heal()
    until(lambda: reaches(pair["b"], "a"), "the way is open again")


def test_a_reset_ends_connections(pair: Lab) -> None:
    hold = "import socket; c = socket.create_connection(('a', 7000)); print(c.recv(2)); print(c.recv(2))"
    held = pair["b"].popen("python3", "-uc", hold)
    assert held.stdout
    assert held.stdout.readline() == "b'hi'\n"
    pair["b"].reset(7000)
    assert held.wait(10) == 1, "it raises"


def test_the_disk_outlives_a_power_cut_and_the_journal_can_be_read(pair: Lab) -> None:
    pair["b"].write("/var/kept", "still here")
    pair["b"].kill()
    assert any("systemd" in str(entry.get("SYSLOG_IDENTIFIER")) for entry in pair["b"].journal())
    pair["b"].start()
    assert pair["b"].read("/var/kept") == "still here"
    until(lambda: reaches(pair["b"], "a"), "its cable is in")


def test_a_reboot_makes_a_new_boot_id_only(pair: Lab) -> None:
    machine, boots = pair["b"].read("/etc/machine-id"), pair["b"].run("journalctl", "--list-boots").stdout
    pair["b"].reboot()
    assert pair["b"].read("/etc/machine-id") == machine
    assert len(pair["b"].run("journalctl", "--list-boots").stdout.splitlines()) > len(boots.splitlines())


def test_a_frozen_host_goes_on_when_it_is_thawed(pair: Lab) -> None:
    pair["a"].freeze()
    assert not reaches(pair["b"], "a")
    pair["a"].thaw()
    assert reaches(pair["b"], "a")


def test_nothing_of_a_lab_is_left(bare_bookworm: Image) -> None:
    with Lab() as lab:
        lab.up(a=bare_bookworm)
        assert traces(lab)
    assert traces(lab) == []


def traces(lab: Lab) -> list[Path]:
    mounts = [Path(line) for line in Path("/proc/mounts").read_text().splitlines() if lab.name in line]
    return [*cgroup2().glob(f"{lab.name}*"), *NAMESPACES.glob(f"{lab.name}*"), *mounts]
