"""What counts as no progress: every way to hang is noticed in moments, and no fault of the network is taken for one."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qdistd.wire.caller import ANSWER_DEADLINE
from qdistd.worker.connector import LONGEST_GREETING
from qdistd.worker.worker import STALL
from tests.simulation.cluster import HEARTBEAT, LEASE, Cluster, Plan
from tests.simulation.world import Process

BEAT = 2.0

NOTICED = STALL + 2 * BEAT
"""Seconds from a hang to the second beat that says so."""

Spoil = Callable[[str, Any], None]


class Watched:
    """A cluster in virtual time; `hangs`: what its worker and its master said, beat after beat."""

    def __init__(self, spoil: Spoil = lambda _kind, _part: None, *, seed: int = 1, plan: Plan | None = None) -> None:
        self.hangs: dict[str, list[str]] = {"worker": [], "master": []}
        self.twice: list[str] = []
        """What was said at two beats, one after the other."""
        self.parts: dict[str, Any] = {}
        self._spoil = spoil
        self.cluster = Cluster(seed, plan or Plan(faults=0, workers=1, troubled=False), self._made)

    def close(self) -> None:
        """Give everything back."""
        self.cluster._close()

    def run(self, seconds: float) -> None:
        """Let the cluster work for a while."""
        if not self.parts:
            self.cluster.start_master()
            self.cluster.start_worker("w0")
            self.cluster.start_client("c0")
        self.cluster.world.run_until(lambda: False, self.cluster.world.now + seconds)

    def _made(self, kind: str, part: Any) -> None:
        if kind in self.hangs:
            self.parts[kind] = part
            process = asyncio.get_running_loop()
            assert isinstance(process, Process)
            process.call_later(BEAT, self._beat, process, kind, part, "")
            self._spoil(kind, part)

    def _beat(self, process: Process, kind: str, part: Any, before: str) -> None:
        hang = part.hang()
        self.hangs[kind].append(hang)
        if hang and before:
            self.twice.append(hang)
        process.call_later(BEAT, self._beat, process, kind, part, hang)


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(*arguments: Any) -> Watched:
        made.append(Watched(*arguments))
        return made[-1]

    yield make
    for watched in made:
        watched.close()


async def never(*_: object) -> Any:
    await asyncio.get_running_loop().create_future()


def test_a_cluster_at_work_never_hangs(watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.run(60.0)
    assert len(watched.hangs["worker"]) > 20
    assert {*watched.hangs["worker"], *watched.hangs["master"]} == {""}


@pytest.mark.parametrize("seed", range(20))
def test_no_fault_of_the_network_is_a_hang(seed: int) -> None:
    kinds = ("master", "partition", "one-way", "reset")
    watched = Watched(seed=seed, plan=Plan(kinds=kinds, longest_cut=2 * LEASE, faults=20, troubled=False))
    assert watched.cluster.run() == []
    assert watched.twice == []


def test_a_commit_that_does_not_return_is_a_hang(watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.run(10.0)
    watched.parts["master"]._writer._commits = lambda _commit, _done: None
    watched.run(NOTICED + HEARTBEAT)
    assert watched.hangs["master"][-1] == "the store does not answer"


def test_a_listener_that_lets_nobody_in_is_a_hang(watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.run(10.0)
    for door in watched.cluster.net.doors.values():
        door.alive = lambda: False  # type: ignore[method-assign]
    watched.run(NOTICED)
    assert "nobody is let in at" in watched.hangs["master"][-1]


def test_a_loop_that_takes_no_turn_is_a_hang(watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.run(10.0)
    watched.parts["worker"]._bell_or = never
    watched.run(NOTICED + HEARTBEAT)
    assert watched.hangs["worker"][-1] == "the loop takes no turn"


def test_a_worker_that_stops_to_look_for_a_master_hangs(watch: Callable[..., Watched]) -> None:
    def spoil(kind: str, part: Any) -> None:
        if kind == "worker":
            part._connector._greet = never

    watched = watch(spoil)
    watched.run(LONGEST_GREETING)
    assert set(watched.hangs["worker"]) == {""}
    watched.run(NOTICED)
    assert watched.hangs["worker"][-1] == "nobody looks for a master"


def test_a_courier_that_has_ended_without_a_word_is_a_hang(watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.run(10.0)
    watched.parts["worker"]._courier = gone = watched.cluster.world.outside.create_future()
    gone.set_result(None)
    watched.run(NOTICED)
    assert watched.hangs["worker"][-1] == "nobody looks for a master"


def test_a_link_whose_own_deadlines_fail_is_a_hang(watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.run(10.0)
    link = watched.parts["worker"]._conversation._link
    link._check_deadlines = link._send = lambda *_: None
    watched.run(HEARTBEAT + ANSWER_DEADLINE + NOTICED)
    assert "the master does not answer" in watched.hangs["worker"][-1]
