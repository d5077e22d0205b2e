"""A broker, what its master does around it, and a clock that the test moves."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

from qdistd.broker import Broker, Seat, Settings
from qdistd.model import Grant, Held, Outcome, Settlement, State, Task
from qdistd.protocol import Hello
from qdistd.store import Store, WorkerRow

WALL = 1_000_000.0
LEASE = 30.0
LARGEST = 8 * 1024 * 1024


class Clocks:
    """Monotonic and wall clock of a test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.jump = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return WALL + self.now + self.jump


class House:
    """A broker and what its master does around it."""

    def __init__(self, store: Store, clocks: Clocks, **settings: object) -> None:
        self.store = store
        self.clocks = clocks
        self.rng = random.Random(7)
        self.broker = Broker(
            store,
            Settings(lease=LEASE, **settings),  # type: ignore[arg-type]
            monotonic=clocks.monotonic,
            wall=clocks.wall,
            rng=self.rng,
        )
        self.broker.recover()

    @contextmanager
    def change(self) -> Iterator[Broker]:
        self.store.begin()
        yield self.broker
        self.store.seal()
        self.store.commit()

    def submit(self, count: int = 1, **options: object) -> list[bytes]:
        tasks = [Task(self.rng.randbytes(16), "square", b"p", **options) for _ in range(count)]  # type: ignore[arg-type]
        with self.change() as broker:
            assert broker.submit(tasks) == []
        return [task.id for task in tasks]

    def hello(self, token: str, name: str = "w", held: tuple[Held, ...] = ()) -> Seat:
        with self.change() as broker:
            words = Hello("worker", name, queues=["default"], processes=1, held=list(held))
            return broker.hello(WorkerRow(token.encode() * 16, name, "host", 1), words)

    def lease(self, seat: Seat, count: int = 1) -> list[Grant]:
        with self.change() as broker:
            return broker.lease(seat, ["default"], count)

    def settle(self, seat: Seat, grant: Grant, outcome: Outcome = Outcome.SUCCEEDED, token: bytes = b"") -> list[bytes]:
        with self.change() as broker:
            return broker.report(seat, [Settlement(grant.id, grant.attempt, outcome, b"v", token=token)])

    def tick(self, seconds: float = 0.0) -> float:
        self.clocks.now += seconds
        with self.change() as broker:
            return broker.tick()

    def state(self, task_id: bytes) -> State:
        view = self.store.view(task_id)
        assert view is not None
        return view.state
