"""Children in cgroups: what they start ends with them and is counted, wherever it has hidden. Without: as before.

See `tests/hosts/test_cgroups.py` for the same under systemd, and `tests/hosts/test_memory.py` for limits of memory.
"""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from clearing import clearing, inside, until_gone
from poolside import Poolside, at_the_pool, children

from qdistd.cgroup import PROCESSES, Cgroup
from qdistd.model import Outcome
from qdistd.pool.cgroups import Cell, Ground, Remains
from qdistd.pool.deaths import Death, crash

NOBODY = 65534

AT_ONCE = 1.0
"""Seconds in which 100 processes must have gone."""


@pytest.fixture
def home() -> Iterator[Cgroup]:
    with clearing() as group:
        yield group


# -- where children live


@at_the_pool(clearing, processes=2)
async def test_a_child_lives_in_a_cgroup_of_its_own_before_it_imports_a_module(side: Poolside) -> None:
    homes = {Path(f"/proc/{pid}/cgroup").read_text().rpartition("/child-")[2] for pid in children()}
    assert homes == {"1/run-1\n", "2/run-1\n"}
    assert (await side.run("where_it_was_born")).endswith(("/child-1/run-1", "/child-2/run-1"))


@at_the_pool(clearing)
async def test_the_cgroup_of_a_child_goes_with_it(side: Poolside) -> None:
    first = (await side.run("home")).rpartition("/")[0]
    await side.failure(side.give("leave", 1), Outcome.CRASHED)
    second = (await side.run("home")).rpartition("/")[0]
    assert Path(first).name == "child-1"
    assert Path(second).name == "child-2"
    assert side.home
    until_gone(side.home.below("child-1"))
    assert [path.name for path in side.home.path.glob("child-*")] == ["child-2"]


# -- what it has started ends with it


@at_the_pool(clearing)
async def test_a_hundred_daemons_die_with_the_child_that_is_killed(side: Poolside) -> None:
    grant = side.give("hold_with_daemons", side.news, 100, side.gate)
    await side.until(lambda: side.heard)
    with watched(side.heard[0]) as daemons:
        assert len(daemons) == 100
        os.kill(children()[0], signal.SIGKILL)
        await side.failure(grant, Outcome.CRASHED)
        assert_gone(daemons)


@at_the_pool(clearing)
async def test_a_hundred_daemons_die_when_the_time_of_their_task_is_over(side: Poolside) -> None:
    grant = side.give("hold_with_daemons", side.news, 100, side.gate, timeout=2.0)
    await side.until(lambda: side.heard)
    with watched(side.heard[0]) as daemons:
        assert (await side.failure(grant)).kind == "timeout"
        assert_gone(daemons)


@at_the_pool(clearing)
async def test_a_task_with_a_limit_leaves_nothing_running_and_its_child_goes_on(side: Poolside) -> None:
    pid = await side.run("pid")
    for _ in range(3):
        left = await side.result(side.give("leave_daemons", 10, timeout=60.0))
        assert await side.run("pid") == pid
        assert [daemon for daemon in left if alive(daemon)] == []
    assert side.home
    assert len(list(side.home.below("child-1").path.glob("run-*"))) <= 2


@at_the_pool(clearing)
async def test_a_task_with_a_limit_does_not_end_what_others_have_left_to_run(side: Poolside) -> None:
    [kept] = await side.run("leave_daemons", 1)
    [gone] = await side.result(side.give("leave_daemons", 1, timeout=60.0))
    assert await side.result(side.give("add", 1, 2, timeout=60.0)) == 3
    assert alive(kept)
    assert not alive(gone)


@at_the_pool(clearing)
async def test_short_tasks_with_a_limit_stay_where_they_are_and_still_leave_nothing_running(side: Poolside) -> None:
    await side.teach("home")
    [first] = {await side.result(side.give("home", timeout=60.0)) for _ in range(100)}
    assert first.endswith("/run-1")
    [gone] = await side.result(side.give("leave_daemons", 1, timeout=60.0))
    assert await side.result(side.give("home", timeout=60.0)) == first.replace("run-1", "run-2")
    assert not alive(gone)


@at_the_pool()
async def test_without_a_cgroup_tasks_run_as_before(side: Poolside) -> None:
    assert await side.result(side.give("add", 1, 2, timeout=60.0)) == 3


# -- what it has used


@at_the_pool(clearing)
async def test_processor_time_counts_even_where_nobody_waits_for_its_process(side: Poolside) -> None:
    settlement = await side.end(side.give("burn_apart", side.folder.as_posix(), 0.3))
    assert settlement.outcome is Outcome.SUCCEEDED
    assert 0.3 <= settlement.cpu < 1.5
    settlement = await side.end(side.give("nap", 0.01))
    assert settlement.cpu < 0.1


@at_the_pool(clearing)
async def test_processor_time_of_a_task_that_was_killed_counts_with_all_it_has_started(side: Poolside) -> None:
    await side.run("add", 1, 2)
    settlement = await side.end(side.give("burn", 1000.0, timeout=0.7))
    assert 0.2 < settlement.cpu < 1.5


REMAINS = Remains(cpu=1.0, peak=64 << 10, starved=True, limit=64 << 20)


@pytest.mark.parametrize(
    ("remains", "kind", "words"),
    [
        (
            REMAINS,
            "memory",
            "took more memory than its limit of 64 MiB, with all it had started, and was killed for it",
        ),
        (REMAINS._replace(limit=0), "oom", "had no memory left; at its peak it had 64 MiB, with all it had started"),
        (REMAINS._replace(starved=False), "signal", "was killed by signal 9 (SIGKILL): by somebody, or"),
    ],
)
def test_a_child_that_died_for_its_memory_says_so(remains: Remains, kind: str, words: str) -> None:
    death = Death(-signal.SIGKILL, remains.cpu, remains.peak, remains)
    outcome, failure = crash("eat", death)
    assert (outcome, failure.kind) == (Outcome.CRASHED, kind)
    assert failure.message.startswith("the child that ran eat ")
    assert words in failure.message


def test_a_child_that_ended_otherwise_is_not_blamed_for_what_it_had_lost_to_memory() -> None:
    assert crash("eat", Death(1, 1.0, 1000, REMAINS)).failure.kind == "exit"


def test_what_the_kernel_does_not_count_or_limit_is_zero(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.peak").write_text("2097152\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 7\n")
    group = Cgroup(tmp_path)
    assert (group.count("memory.max"), group.count("memory.events", "oom"), group.count("cpu.stat", "no")) == (0, 0, 0)
    assert (group.peak(), group.cpu()) == (2048, 1.5)
    assert not Ground(group).adopt(str(tmp_path)).limits_memory


# -- which group is ours


CLAIM = """
import logging, os, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from qdistd.pool import claim
os.setuid(int(sys.argv[1]))
print(bool(claim(logging.getLogger())), open("/proc/self/cgroup").read().partition("0::")[2].strip().rpartition("/")[2])
if sys.argv[2:]:
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], sys.argv[1]])
"""


def claims(home: Cgroup, user: int = 0, then: str = "") -> list[str]:
    """What a worker says that finds itself in this group."""
    return inside(home, [sys.executable, "-c", CLAIM, str(user), *([then] if then else [])]).splitlines()


def give_to(user: int, home: Cgroup) -> None:
    for name in ("", PROCESSES, "cgroup.subtree_control"):
        os.chown(home.path / name, user, user)


def test_a_group_that_was_given_to_the_user_of_the_worker_is_divided(home: Cgroup) -> None:
    give_to(NOBODY, home)
    said = claims(home, NOBODY)
    assert said[0].startswith(f"each child runs in a cgroup of its own below {home.path} (")
    assert said[1] == "True supervisor"


def test_a_group_that_was_given_to_root_is_divided(home: Cgroup) -> None:
    os.setxattr(home.path, "user.delegate", b"1")
    assert claims(home)[1] == "True supervisor"


def test_a_worker_that_executes_itself_anew_finds_the_same_ground(home: Cgroup) -> None:
    os.setxattr(home.path, "user.delegate", b"1")
    first, second = claims(home, then=CLAIM)[::2]
    assert first == second
    assert str(home.path) in first


@pytest.mark.parametrize(("user", "why"), [(0, "root may write everywhere"), (NOBODY, "it may not write there")])
def test_a_group_that_was_not_given_to_us_is_left_alone(home: Cgroup, user: int, why: str) -> None:
    said = claims(home, user)
    assert said[0] == f"children run in process groups, with rlimits: {home.path} is not delegated to us", why
    assert said[1] == f"False {home.path.name}"
    assert not home.below("supervisor").path.exists()


def test_a_group_of_a_manager_of_ones_own_is_left_alone_unless_it_was_given(home: Cgroup) -> None:
    give_to(NOBODY, home)
    own = home.below("user@65534.service").make()
    give_to(NOBODY, own)
    assert claims(own, NOBODY)[0].endswith("is not delegated to us")
    os.setxattr(own.path, "user.delegate", b"1")
    assert claims(own, NOBODY)[1] == "True supervisor"
    own.kill()


def test_a_group_in_which_others_live_is_left_alone(home: Cgroup) -> None:
    give_to(NOBODY, home)
    said = inside(home, ["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", CLAIM, str(NOBODY)]).splitlines()
    assert said[0] == f"children run in process groups, with rlimits: others live in {home.path}"


# -- what an earlier worker has left


def test_what_an_earlier_worker_has_left_ends_but_for_children_that_are_kept(home: Cgroup) -> None:
    ground = Ground(home)
    left, kept = ground.cell(0), ground.cell(0)
    victims = [sleeper(cell) for cell in (left, kept)]

    async def sweep() -> None:
        Ground(home).sweep(asyncio.get_running_loop(), keep=[kept.folder])
        victims[0].wait()
        await asyncio.sleep(0)

    asyncio.run(sweep())
    assert victims[1].poll() is None
    adopted = Ground(home).adopt(kept.folder)
    assert adopted.folder == kept.folder
    adopted.kill()
    assert victims[1].wait() == -signal.SIGKILL


def test_new_cells_do_not_collide_with_those_that_were_adopted(home: Cgroup) -> None:
    folders = [Ground(home).cell(0).folder for _ in range(3)]
    assert len(set(folders)) == 3


class Old(Cgroup):
    """As the kernel has them before 5.14."""

    def write(self, file: str, value: str) -> None:
        if file == "cgroup.kill":
            raise FileNotFoundError(file)
        super().write(file, value)


def test_old_kernels_end_a_group_one_by_one(home: Cgroup) -> None:
    cell = Ground(home).cell(0)
    victims = [sleeper(cell) for _ in range(5)]
    Old(Path(cell.folder)).kill()
    assert {victim.wait() for victim in victims} == {-signal.SIGKILL}
    until_gone(Cgroup(Path(cell.folder)))


# -- looking at processes


@contextlib.contextmanager
def watched(pids: str) -> Iterator[list[int]]:
    """Pidfds of processes that are not ours to wait for."""
    watches = [os.pidfd_open(int(pid)) for pid in pids.split(",")]
    try:
        yield watches
    finally:
        for watch in watches:
            os.close(watch)


def assert_gone(watches: Sequence[int]) -> None:
    deadline = time.monotonic() + AT_ONCE
    for watch in watches:
        assert select.select([watch], [], [], max(deadline - time.monotonic(), 0))[0], "it still runs"


def alive(pid: int) -> bool:
    """Whether it runs a moment from now: what was killed needs one to end."""
    try:
        with watched(str(pid)) as [watch]:
            return not select.select([watch], [], [], AT_ONCE / 4)[0]
    except ProcessLookupError:
        return False


def sleeper(cell: Cell) -> subprocess.Popen[bytes]:
    """A process that lives in a cell."""
    line = ["sh", "-c", 'echo 0 >"$0" && echo in && exec sleep 1000', cell.door]
    process = subprocess.Popen(line, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"in\n"
    return process
