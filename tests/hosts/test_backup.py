"""Backup and restore on a real host: within the sandbox of the unit, by root, with workers that are left alone."""

from functools import partial

import pytest

from qdistd import errors
from tests.hosts.cluster import HostCluster
from tests.hosts.host import Host
from tests.hosts.units import MASTER, WORKER
from tests.patience import until

ADMIN = ("qdist", "--key-file", "/etc/qdist/keys/admin.key")
BACKUP = "/root/qdist-backup.db"
STORE = "/var/lib/qdist/qdist.db"


def test_a_backup_of_a_master_in_its_sandbox_is_restored_by_root_under_workers_that_go_on(
    three_hosts: HostCluster,
) -> None:
    m = three_hosts.m
    with three_hosts.client() as q:
        kept = q.submit("square", 7)
        assert kept.result(timeout=20) == "7 * 7 = 49"
        assert "checked" in m.run(*ADMIN, "backup", BACKUP).stdout
        assert m.run("stat", "-c", "%a %U", BACKUP).stdout == "600 root\n"
        assert "copying" not in m.run("ls", "-a", "/var/lib/qdist").stdout
        lost = q.submit("square", 8)
        lost.result(timeout=20)

        running = m.run("qdist", "restore", BACKUP, check=False)
        assert running.returncode == 1 and "a master has it open" in running.stderr
        m.systemctl("stop", MASTER)
        m.run("qdist", "restore", BACKUP)
        assert m.run("stat", "-c", "%a %U %G", STORE, f"{STORE}.replaced-1").stdout.splitlines()[0] == "600 qdist qdist"
        m.systemctl("start", MASTER)

        assert q.submit("square", 9).result(timeout=30) == "9 * 9 = 81"
        three_hosts.wait_for_workers(q)
        assert q.show(kept).attempts[0].outcome == "succeeded"
        with pytest.raises(errors.NotFound):
            q.show(lost)
    for host in (three_hosts.w1, three_hosts.w2):
        until(partial(_has_heard, host), "the word of the workers")


def _has_heard(host: Host) -> bool:
    return "was restored from a backup" in host.run("journalctl", "-u", WORKER, "-o", "cat").stdout
