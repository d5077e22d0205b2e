"""The daemons as services of real hosts: ready when they serve, nobody refused in a storm, reloads tell the truth."""

import re
import time

import pytest

from tests.hosts.cluster import MASTER_PORT, HostCluster
from tests.hosts.host import Host
from tests.hosts.storm import THREADS, storming
from tests.hosts.units import MASTER, WORKER, key, pid, restarted, restarts, status
from tests.patience import until

# -- ready


def test_a_master_that_is_ready_answers_and_says_how_it_stands(three_hosts: HostCluster) -> None:
    three_hosts.m.systemctl("restart", MASTER)
    with three_hosts.client() as q:
        assert q.submit("square", 7).result(timeout=20) == "7 * 7 = 49"
        three_hosts.wait_for_workers(q)
        told = r"4 workers, 0 queued, 0 running, listening on 0\.0\.0\.0:5000"
        until(lambda: re.match(told, status(three_hosts.m, MASTER)), "the status of the master")


def test_a_worker_is_ready_while_its_master_is_away_and_says_so(three_hosts: HostCluster) -> None:
    three_hosts.m.systemctl("stop", MASTER)
    three_hosts.w1.systemctl("restart", WORKER)
    until(lambda: "no master" in status(three_hosts.w1, WORKER), "the status of the worker")
    three_hosts.m.systemctl("start", MASTER)
    until(lambda: "master m:5000 ok" in status(three_hosts.w1, WORKER), "the status of the worker")


# -- nobody is refused


def test_no_connection_of_a_storm_fails_over_restarts_and_a_bad_file(three_hosts: HostCluster) -> None:
    bad = "/etc/qdist/master.d/bad.toml"
    with storming(three_hosts.lab, three_hosts.m, MASTER_PORT, key(three_hosts)) as storm:
        for _ in range(5):
            three_hosts.m.systemctl("restart", MASTER)
        three_hosts.m.write(bad, "[limits]\npaylod = 1\n")
        assert three_hosts.m.run("systemctl", "restart", MASTER, check=False).returncode == 1
        before = restarts(three_hosts.m, MASTER)
        until(lambda: restarts(three_hosts.m, MASTER) > before, "another try of systemd")
        three_hosts.m.path(bad).unlink()
        until(lambda: status(three_hosts.m, MASTER), "the master to come back by itself")
    print(f"\n{storm.tried} connections over restarts and a bad file, the slowest {storm.slowest:.2f} s")
    assert storm.failures == []
    assert storm.tried > 200


def test_kill_9_of_the_master_costs_a_storm_no_more_than_those_at_the_door(three_hosts: HostCluster) -> None:
    kills = 3
    with storming(three_hosts.lab, three_hosts.m, MASTER_PORT, key(three_hosts)) as storm:
        for _ in range(kills):
            before, since = restarts(three_hosts.m, MASTER), time.monotonic()
            three_hosts.m.systemctl("kill", "--signal=KILL", "--kill-whom=main", MASTER)
            restarted(three_hosts.m, MASTER, before, since)
    print(f"\n{storm.tried} connections over {kills} times kill -9: {len(storm.failures)} failed")
    assert len(storm.failures) <= kills * THREADS
    assert not [failure for failure in storm.failures if "refused" in failure]


# -- reload


@pytest.mark.parametrize("name", ["m", "w1"])
def test_a_reload_is_in_force_when_it_returns_and_fails_with_the_line_each_time(
    three_hosts: HostCluster, name: str
) -> None:
    """On `m` (Debian 12) the master, on `w1` (Debian 13) another master of its own: 100 reloads together."""
    host, file, extra = three_hosts.lab[name], "/etc/qdist/master.d/z.toml", "/run/qdist-master/extra.sock"
    if host is not three_hosts.m:
        host.systemctl("start", MASTER)
    before = pid(host, MASTER)
    for number in range(25):
        host.write(file, "[limits]\n\nlease = 'soon'\n")
        done = host.run("/usr/bin/qdist-master", "--reload", check=False)
        assert (done.returncode, done.stderr.count(f"{file}:3: [limits] lease")) == (1, 1), done.stderr
        wanted = number % 2 == 0
        host.write(
            file,
            '[master]\nlisten = ["0.0.0.0:5000", "unix:/var/lib/qdist/tests.sock"%s]\n'
            % (f', "unix:{extra}"' if wanted else ""),
        )
        host.systemctl("reload", MASTER)
        assert host.path(extra).exists() is wanted
    host.write(file, "[limits]\n\nlease = 'soon'\n")
    assert host.run("systemctl", "reload", MASTER, check=False).returncode == 1
    assert pid(host, MASTER) == before
    host.path(file).unlink()
    host.systemctl("reload", MASTER)
    if host is not three_hosts.m:
        host.systemctl("stop", MASTER)


@pytest.mark.parametrize("name", ["m", "w1"])
def test_a_reload_brings_new_keys_where_systemd_does_not(three_hosts: HostCluster, name: str) -> None:
    host, file = three_hosts.lab[name], "/etc/qdist/keys/submit.key"
    host.systemctl("restart", MASTER)
    old = host.read(file)
    host.write(file, "n" * 43 + "\n", mode=0o600)
    host.systemctl("reload", MASTER)
    assert submits(host)
    host.write(file, old, mode=0o600)
    host.systemctl("restart", MASTER)
    assert submits(host)
    if host is not three_hosts.m:
        host.systemctl("stop", MASTER)


def submits(host: Host) -> bool:
    """Whether the key that lies in /etc/qdist/keys is the one that the master takes."""
    return host.run("qdist", "submit", "square", "1", "--queue", "nowhere", check=False).returncode == 0


# -- without a network of its own


def test_a_master_on_sockets_of_systemd_alone_serves_and_says_where_its_file_differs(three_hosts: HostCluster) -> None:
    m, mine = three_hosts.m, "/etc/systemd/system/qdist-master.service.d/strict.conf"
    m.write(mine, m.read("/usr/share/doc/qdist/examples/strict.conf"))
    listen = f"[Socket]\nListenStream=\nListenStream=0.0.0.0:{MASTER_PORT + 1}\n"
    m.write("/run/systemd/system/qdist-master.socket.d/tests.conf", listen)
    m.systemctl("stop", MASTER)
    m.systemctl("daemon-reload")
    m.systemctl("start", MASTER)
    with storming(three_hosts.lab, m, MASTER_PORT + 1, key(three_hosts)) as storm:
        m.systemctl("restart", MASTER)
    assert (storm.failures, storm.tried > 20) == ([], True)
    said = status(m, MASTER)
    assert f"listening on 0.0.0.0:{MASTER_PORT + 1}; the addresses are those of systemd's socket unit" in said
    assert f"not 0.0.0.0:{MASTER_PORT}" in said
    m.path(mine).unlink()
    m.systemctl("stop", MASTER, "qdist-master.socket")
    m.systemctl("daemon-reload")
    m.systemctl("start", MASTER)
