"""Limits of memory and of processes, in a machine with these controllers: a task over its limit harms itself alone.

One machine for all tests here, as it takes its time to boot: a master, and a worker of two children with 64 MiB each.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.vm import Machine, installed
from tests.patience import until

LIMIT = 64
"""MiB a child."""

UNIT_LIMIT = 64
"""MiB of the whole unit, where that is tried: worker and children take some 50 of them."""

PIDS = 12
"""Processes a child, with itself."""

MIB = 1 << 20

WORKER = f"""
[worker]
processes = 2
tasks = ["hungry"]
path = ["/srv/tasks"]
[limits]
memory = "{LIMIT} MiB"
pids = {PIDS}
"""

MASTER = """
[tasks]
crashes = 1
"""
"""One attempt is enough to see how a task dies."""

UNIT = "qdist-worker@1"

SUBMIT = """
import json, subprocess, sys
import qdistd

with qdistd.Client("127.0.0.1:5000", key="/etc/qdist/keys/admin.key") as q:
    tasks = [q.options(**options).submit(*call) for call, options in json.loads(sys.argv[1])]
    q.flush()
    for task in tasks[len(sys.argv) > 2:]:
        task.exception(timeout=100)
    if sys.argv[2:]:
        open(sys.argv[2], "w").write("go on")
        tasks[0].exception(timeout=100)
    subprocess.run(["qdist", "show", "--json", *[str(task.id) for task in tasks]], check=True)
"""
"""Submits tasks and shows them when all have ended. With a second argument, the first one waits for that file, which
is made when all others have ended."""


@pytest.fixture(scope="module")
def vm(rooted: None) -> Iterator[Machine]:
    with Machine(installed("bookworm")) as vm:
        vm.write("/etc/qdist/master.d/test.toml", MASTER)
        vm.write("/etc/qdist/worker.d/test.toml", WORKER)
        vm.write("/srv/tasks/hungry.py", (Path(__file__).parent / "hungry.py").read_text())
        vm.run("systemctl", "start", "qdist-master", UNIT)
        yield vm


Call = tuple[Any, ...]


def run(vm: Machine, *calls: Call, timeout: float = 0.0, first_waits_for: str = "") -> list[dict[str, Any]]:
    """What is known of these tasks when they have ended."""
    tasks = json.dumps([[call, {"timeout": timeout} if timeout else {}] for call in calls])
    shown = vm.run("python3", "-c", SUBMIT, tasks, *filter(None, [first_waits_for]))
    return [json.loads(line) for line in shown.splitlines()]


def property_of(vm: Machine, name: str, unit: str = UNIT) -> str:
    return vm.run("systemctl", "show", "-P", name, unit).strip()


def test_a_task_over_its_limit_dies_alone_and_says_why(vm: Machine) -> None:
    before = property_of(vm, "MainPID")
    held, eater, by_proxy = run(
        *(vm, ("wait_for", "/srv/tasks/go"), ("eat", 200), ("have_eaten", 200)),
        first_waits_for="/srv/tasks/go",
    )
    for task in (eater, by_proxy):
        assert task["state"] == "quarantined"
        failure = task["attempts"][0]["failure"]
        assert failure["kind"] == "memory"
        assert f"took more memory than its limit of {LIMIT} MiB, with all it had started" in failure["message"]
    assert (held["state"], held["attempt"]) == ("succeeded", 1)
    assert (property_of(vm, "NRestarts"), property_of(vm, "MainPID")) == ("0", before)


def test_a_task_that_dies_as_its_whole_unit_has_no_memory_left_says_that_it_was_the_kernel(vm: Machine) -> None:
    vm.run("systemctl", "set-property", "--runtime", UNIT, f"MemoryMax={UNIT_LIMIT}M", "MemorySwapMax=0")
    try:
        held, *eaters = run(
            *(vm, ("wait_for", "/srv/tasks/go-on"), ("eat", LIMIT - 24), ("eat", 1)),
            first_waits_for="/srv/tasks/go-on",
        )
    finally:
        vm.run("systemctl", "set-property", "--runtime", UNIT, "MemoryMax=infinity")
    failure = eaters[0]["attempts"][0]["failure"]
    assert failure["kind"] == "oom", failure
    assert "was killed as its host, or the unit of its worker, had no memory left" in failure["message"]
    assert held["state"] == "succeeded"


def test_memory_and_processor_time_are_counted_wherever_the_task_has_them_used(vm: Machine) -> None:
    feast, little = run(vm, ("feast", 40, 0.5), ("eat", 1), timeout=60.0)
    [attempt] = feast["attempts"]
    assert 40 <= attempt["rss"] / MIB < LIMIT
    assert 0.5 <= attempt["cpu"] < 5.0
    assert little["attempts"][0]["rss"] / MIB < 40, "what another task has used does not count"


def test_the_unit_gives_its_worker_a_group_to_divide(vm: Machine) -> None:
    group = "/sys/fs/cgroup" + property_of(vm, "ControlGroup")
    [home] = run(vm, ("home",))
    assert f"/sys/fs/cgroup{home['result']}".startswith(f"{group}/child-")
    assert vm.run("cat", f"{group}/supervisor/cgroup.procs").split() == [property_of(vm, "MainPID")]
    assert {"cpu", "memory", "pids"} <= set(vm.run("cat", f"{group}/cgroup.subtree_control").split())
    assert property_of(vm, "NRestarts") == "0"


def test_the_slice_of_the_workers_limits_them_all_together(vm: Machine) -> None:
    slice_group = "/sys/fs/cgroup" + property_of(vm, "ControlGroup", property_of(vm, "Slice"))
    everything = int(vm.run("sh", "-c", "grep MemTotal /proc/meminfo").split()[1]) * 1024
    high = int(vm.run("cat", f"{slice_group}/memory.high"))
    assert high == pytest.approx(0.9 * everything, rel=0.01)


# -- processes


def crowd(vm: Machine) -> int:
    """How many processes are in the groups of the worker's unit."""
    group = "/sys/fs/cgroup" + property_of(vm, "ControlGroup")
    return len(vm.run("sh", "-c", f"find {group} -name cgroup.procs -exec cat {{}} +").split())


def test_a_fork_bomb_stays_within_its_limit_and_ends_with_its_time(vm: Machine) -> None:
    before = property_of(vm, "MainPID")
    bomb, *others = run(vm, ("bomb",), *[("nibble", number) for number in range(20)], timeout=5.0)
    assert bomb["failure"]["kind"] == "timeout"
    assert [other["result"] for other in others] == [number**2 for number in range(20)]
    until(lambda: crowd(vm) == 3, "a worker, two children and nobody else")
    assert (property_of(vm, "NRestarts"), property_of(vm, "MainPID")) == ("0", before)


def test_a_bomb_that_outlives_its_task_goes_with_its_child_which_says_why(vm: Machine) -> None:
    before = property_of(vm, "MainPID")
    [away, *others] = run(vm, ("bomb_and_get_away",), *[("nibble", number) for number in range(20)])
    assert away["state"] == "succeeded"
    assert [other["result"] for other in others] == [number**2 for number in range(20)]
    until(lambda: crowd(vm) == 3, "a worker, two children and nobody else")
    log = vm.run("journalctl", "-u", UNIT, "-o", "cat")
    assert "it has all the processes and threads that it may have ([limits] pids)" in log
    assert (property_of(vm, "NRestarts"), property_of(vm, "MainPID")) == ("0", before)
