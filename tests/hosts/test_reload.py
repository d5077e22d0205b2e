"""`systemctl reload qdist-worker@1` on Debian 12 and 13: new code in the same process, and running tasks go on."""

import pytest

from qdistd import Client
from tests.hosts.cluster import HostCluster
from tests.hosts.host import Host
from tests.hosts.units import WORKER, on_all, only_on, pid, restarts, runs
from tests.patience import until

SECONDS = 10.0
"""That the task runs which must not notice."""

PATIENCE = 60.0

SETTINGS = "/etc/qdist/worker.d/tests.toml"

TOML = '[worker]\ntasks = ["jobs"]\npath = ["/opt/tasks"]\nprocesses = {processes}\nqueues = ["{queue}"]\n'

CODE = """
import os, time

def version():
    return "{version}"

def hold(seconds):
    time.sleep(seconds)
    return os.getpid()
"""


def write(host: Host, version: str, processes: int, queue: str) -> None:
    host.write("/opt/tasks/jobs.py", CODE.format(version=version))
    host.write(SETTINGS, TOML.format(processes=processes, queue=queue))


@pytest.mark.parametrize("name", ["w1", "w2"])
def test_a_reload_runs_new_code_and_settings_and_leaves_a_running_task_alone(
    three_hosts: HostCluster, name: str
) -> None:
    host = three_hosts.lab[name]
    only_on(three_hosts, host)
    write(host, "old", processes=2, queue="default")
    host.systemctl("restart", WORKER)
    before, started = pid(host, WORKER), restarts(host, WORKER)
    with three_hosts.client() as q:
        held = q.submit("hold", SECONDS)
        until(lambda: runs(q, held.id), "a task that runs")
        write(host, "new", processes=3, queue="other")
        host.systemctl("reload", WORKER)
        assert q.options(queue="other").submit("version").result(timeout=PATIENCE) == "new"
        refuses_a_bad_file(host, q)
        assert not held.done(), "it is to run over all of this"
        assert held.result(timeout=PATIENCE) > 0
        assert held.attempt == 1
    assert (pid(host, WORKER), restarts(host, WORKER)) == (before, started)
    assert not [entry for entry in host.journal() if "left-over process" in str(entry.get("MESSAGE")).lower()]
    host.run("rm", SETTINGS)
    host.systemctl("restart", WORKER)
    on_all(three_hosts)


def refuses_a_bad_file(host: Host, q: Client) -> None:
    """The reload fails with file and line, and the worker goes on as it was."""
    sound = host.read(SETTINGS)
    host.write(SETTINGS, sound + "proceses = 3\n")
    done = host.run("/usr/bin/qdist-worker", "1", "--reload", check=False)
    assert done.returncode == 1
    assert f"{SETTINGS}:{len(sound.splitlines()) + 1}: [worker] proceses: unknown key" in done.stderr
    assert host.run("systemctl", "reload", WORKER, check=False).returncode == 1
    host.write(SETTINGS, sound)
    assert q.options(queue="other").submit("version").result(timeout=PATIENCE) == "new"
