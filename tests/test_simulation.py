"""Seeded runs of a whole cluster: nothing may be lost, changed, stuck, run without a cause, or left unheard.

`python -m tests.simulation FIRST LAST` runs more of them, and replays one that failed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.bugs import PLANTED
from tests.simulation.cluster import LEASE, Cluster, Plan

SEEDS = 1000
PROCESSES = 2
ENOUGH = 200
"""Seeds within which every planted bug must show."""

ROOT = Path(__file__).resolve().parent.parent


def simulate(first: int, last: int, *bug: str) -> subprocess.Popen[str]:
    """Run seeds in a process of their own, where sets have the same order each time."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.simulation", str(first), str(last), *bug],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_thousand_clusters_under_fire_keep_every_promise() -> None:
    share = SEEDS // PROCESSES
    running = [simulate(number * share, (number + 1) * share) for number in range(PROCESSES)]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * PROCESSES, "\n".join(outputs)


@pytest.mark.parametrize("bug", [planted.__name__ for planted in PLANTED])
def test_a_planted_bug_is_found(bug: str) -> None:
    process = simulate(0, ENOUGH, bug)
    output, _ = process.communicate()
    assert process.returncode == 1, output


def test_the_same_seed_is_the_same_history() -> None:
    outputs = [simulate(7, 8, "leave_grants_that_never_arrived").communicate()[0] for _ in range(2)]
    assert outputs[0] == outputs[1]
    first, second = (_fingerprint(Cluster(7, Plan())) for _ in range(2))
    assert first == second


def _fingerprint(cluster: Cluster) -> list[object]:
    cluster.run()
    runs = [
        (task.hex(), [(run.worker, run.attempt, run.began) for run in runs])
        for task, runs in cluster.history.runs.items()
    ]
    return [*sorted(runs), cluster.world.now]


@pytest.mark.parametrize("seed", range(40))
def test_a_network_that_fails_for_less_than_a_lease_makes_nothing_run_twice(seed: int) -> None:
    plan = Plan(kinds=("partition", "one-way", "reset"), longest_cut=LEASE / 4, troubled=False)
    cluster = Cluster(seed, plan)
    assert cluster.run() == []
    assert {task: len(runs) for task, runs in cluster.history.runs.items() if len(runs) > 1} == {}


@pytest.mark.parametrize("seed", range(40))
def test_without_faults_every_task_runs_once(seed: int) -> None:
    cluster = Cluster(seed, Plan(faults=0, troubled=False))
    assert cluster.run() == []
    assert {len(runs) for runs in cluster.history.runs.values()} == {1}
    assert cluster.history.runs.keys() == cluster.history.submitted
