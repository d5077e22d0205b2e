"""The clock of a whole machine, set to and fro under a master that is killed meanwhile: each occasion is one task."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise

import pytest

from tests.hosts.vm import Machine, installed
from tests.patience import until

EVERY = timedelta(seconds=20)
"""From one occasion to the next: a machine that is emulated takes some seconds to start a master."""

SCHEDULE = f"""
[schedule.tick]
calendar = "*:*:0/{EVERY.seconds}"
task = "square"
arguments = [7]
persistent = true
"""

MASTER = "qdist-master"

STEPS = ((1200, False), (-600, True), (900, False), (-5, True), (1800, False))
"""Seconds by which the clock is set, and whether the master is killed right after.

Not when it is set forward: whoever starts then cannot know it from time without a master.
"""

SLOW = 120.0
"""Seconds within which the master must have noticed, on a machine that is emulated."""


@pytest.fixture(scope="module")
def vm(rooted: None) -> Iterator[Machine]:
    with Machine(installed("bookworm")) as vm:
        vm.write("/etc/qdist/master.d/test.toml", SCHEDULE)
        vm.run("systemctl", "start", MASTER)
        yield vm


def occasions(vm: Machine) -> list[datetime]:
    """When the tasks were due, in order."""
    tasks = map(json.loads, vm.run("qdist", "list", "--limit", "1000", "--json").splitlines())
    return sorted(datetime.fromisoformat(task["key"].removeprefix("schedule:tick:")) for task in tasks)


def clock(vm: Machine) -> datetime:
    return datetime.fromisoformat(vm.run("date", "--utc", "+%FT%T+00:00").strip())


def have_come(vm: Machine, moment: datetime) -> bool:
    """Whether all is there that was due by then."""
    return [moment - EVERY] < occasions(vm)[-1:]


def test_each_occasion_is_one_task_while_the_clock_is_set_to_and_fro(vm: Machine) -> None:
    for seconds, killed in STEPS:
        vm.run("date", "--set", f"{seconds} seconds")
        if killed:
            vm.run("systemctl", "kill", "--signal=KILL", MASTER)
            vm.run("systemctl", "restart", MASTER)
        until(partial(have_come, vm, clock(vm)), "what is due by now", SLOW)
    due = occasions(vm)
    assert {later - earlier for earlier, later in pairwise(due)} == {EVERY}
    assert len(due) > sum(seconds for seconds, _ in STEPS) / EVERY.seconds
