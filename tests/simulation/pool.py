"""`qdistd.pool.Pool` without processes."""

import itertools
from collections.abc import Sequence
from typing import Any

from qdistd.call import encode_failure
from qdistd.model import Failure, Grant, Held, Outcome, Said, Settlement
from qdistd.pool import PoolSettings
from tests.simulation.history import History, Run
from tests.simulation.world import Process


class SimPool:
    """Children that are timers. What a task does stands in its payload."""

    def __init__(self, process: Process, history: History, settings: PoolSettings, done: Any, room: Any) -> None:
        self._process = process
        self._history = history
        self._size = settings.processes
        self._done = done
        self._room = room
        self._waiting: list[Grant] = []
        self._since: dict[Grant, float] = {}
        self._running: dict[int, tuple[Grant, Run, Any]] = {}
        self._begun = itertools.count()

    async def start(self) -> None:
        pass

    def room(self) -> int:
        return max(0, self._size + 1 - len(self._running) - len(self._waiting))

    def give(self, grants: Sequence[Grant]) -> None:
        self._waiting += grants
        self._since |= dict.fromkeys(grants, self._process.world.now)
        self._feed()

    def held(self) -> list[Held]:
        grants = [*self._waiting, *(grant for grant, _, _ in self._running.values())]
        return [Held(grant.id, grant.attempt) for grant in grants]

    def running(self) -> int:
        return len(self._running)

    def idle(self) -> int:
        return max(0, self._size - len(self._running) - len(self._waiting))

    def said(self) -> list[Said]:
        return []

    def farewells(self) -> list[Said]:
        return []

    def cancel(self, task_id: bytes) -> None:
        ended = [grant for grant in self._waiting if grant.id == task_id]
        self._waiting = [grant for grant in self._waiting if grant.id != task_id]
        for number in [number for number, (grant, _, _) in self._running.items() if grant.id == task_id]:
            grant, run, timer = self._running.pop(number)
            timer.cancel()
            run.ended = self._process.world.now
            ended.append(grant)
        for grant in ended:
            self._done(Settlement(grant.id, grant.attempt, Outcome.CANCELLED, encode_failure(Failure("cancelled", ""))))
        self._feed()

    def recall(self, patience: float = 0.0) -> list[Grant]:
        latest = self._process.world.now - patience
        recalled = [grant for grant in self._waiting if self._since[grant] <= latest]
        self._waiting = [grant for grant in self._waiting if grant not in recalled]
        return recalled

    def resize(self, settings: PoolSettings) -> None:
        self._size = settings.processes

    async def close(self) -> None:
        for grant, run, timer in self._running.values():
            timer.cancel()
            run.ended = self._process.world.now
            self._done(Settlement(grant.id, grant.attempt, Outcome.RELEASED, encode_failure(Failure("stopped", ""))))
        self._running.clear()

    def _feed(self) -> None:
        while self._waiting and len(self._running) < self._size:
            self._begin(self._waiting.pop(0))
        self._since = {grant: self._since[grant] for grant in self._waiting}

    def _begin(self, grant: Grant) -> None:
        seconds, failing = grant.payload.decode().split()
        run = Run(self._process.name, grant.attempt, self._process.world.now)
        self._history.runs[grant.id].append(run)
        number = next(self._begun)
        timer = self._process.call_later(float(seconds), self._end, number, failing)
        self._running[number] = grant, run, timer

    def _end(self, number: int, failing: str) -> None:
        grant, run, _ = self._running.pop(number)
        run.ended = self._process.world.now
        fails = grant.attempt <= int(failing[1:])
        outcome = {"f": Outcome.FAILED, "c": Outcome.CRASHED}[failing[0]] if fails else Outcome.SUCCEEDED
        run.value = f"{grant.attempt} by {self._process.name} at {run.began}".encode()
        value = encode_failure(Failure("exception", "planned")) if fails else run.value
        self._done(Settlement(grant.id, grant.attempt, outcome, value))
        self._feed()
        self._room()
