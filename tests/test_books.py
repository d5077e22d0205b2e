"""The books are right whatever happens: counts, places and all that is kept beside the tasks say what the rows say;
nobody waits for work that he could have; and in the end everything ends.

Random lives of a master without its network: every option of a task, every verb, workers that vanish, transactions
that are rolled back, restarts, other limits. Nothing is done by the test at the end but what an alarm asks for.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from qdistd.broker import Broker, Retention, Seat, Settings
from qdistd.broker.flow import QueueLimits
from qdistd.master.lobby import Lobby, Parked
from qdistd.model import Grant, Held, Outcome, Settlement, State, Task
from qdistd.protocol import Hello
from qdistd.store import Chosen, WorkerRow, open_store
from tests.household import LEASE, Clocks

QUEUES = ("a", "b", "c")
LABELS = ("gpu", "disk", "net")
STEPS = 250
PATIENCE = 4000
"""Turns within which all that is left has to end."""

BOOKS = {
    "tally": (
        "SELECT queue, state, tasks FROM tally",
        "SELECT queue, state, count(*) FROM task GROUP BY queue, state",
    ),
    "place": (
        "SELECT queue, ckey, tasks FROM place",
        "SELECT substr(queue, 1, 1), ckey, count(*)"
        " FROM task JOIN special USING(seq) WHERE ckey <> '' AND state IN (1, 2) GROUP BY 1, 2",
    ),
    "held": (
        "SELECT seq FROM held",
        "SELECT seq FROM task JOIN special USING(seq) WHERE state = 7 AND blockers = 0",
    ),
    "blockers": (
        "SELECT seq, blockers FROM special WHERE blockers > 0",
        "SELECT seq, count(*) FROM depend WHERE met <> 1 GROUP BY seq",
    ),
}
"""What is kept, and what it should be."""

FORGOTTEN = {
    "identity": "SELECT seq, unique_id FROM task JOIN special USING(seq) WHERE unique_id NOTNULL"
    " AND state IN (0, 1, 2, 7) EXCEPT SELECT seq, unique_id FROM identity",
    "expiry": "SELECT seq, expires FROM task JOIN special USING(seq) WHERE expires NOTNULL AND state IN (0, 1, 7)"
    " AND attempt = 0"
    " EXCEPT SELECT seq, at FROM expiry",
    "alias": "SELECT into_id FROM alias EXCEPT SELECT id FROM task",
    "special": "SELECT seq FROM special EXCEPT SELECT seq FROM task",
    "depend": "SELECT seq FROM depend EXCEPT SELECT seq FROM task",
    "keyed": "SELECT seq FROM task WHERE state = 7 AND special = 0",
}
"""What has to be empty."""


class Worker:
    """One that asks as the real one does: at once where there is work, else it waits."""

    def __init__(self, token: bytes, labels: tuple[str, ...], queues: tuple[str, ...]) -> None:
        self.row = WorkerRow(token, token.hex()[:4], "host", 1)
        self.words = Hello("worker", self.row.name, queues=[*queues], processes=2, labels=labels)
        self.seat: Seat | None = None
        self.parked: Parked | None = None
        self.running: list[Grant] = []

    @property
    def idle(self) -> int:
        return max(0, 2 - len(self.running))


class World:
    """A master without a network, and those around it."""

    def __init__(self, seed: int, *, steps: bool) -> None:
        """`steps`: its wall clock steps to and fro. A master that restarts then cannot know how much time has passed,
        and no rate can hold."""
        self.steps = steps
        self.rng = random.Random(seed)
        self.clocks = Clocks()
        self.store = open_store("sqlite://:memory:")
        self.settings = self.limits()
        self.tasks: list[Task] = []
        self.ended: set[bytes] = set()
        self.begun: dict[str, list[float]] = {queue: [] for queue in QUEUES}
        self.workers = [self.recruit() for _ in range(3)]
        self.start()

    def limits(self) -> Settings:
        queues = {"a": QueueLimits(concurrency=self.rng.randint(1, 3), per_key=self.rng.randint(0, 2), weight=3)}
        queues["b"] = QueueLimits(rate=(3, 5.0), per_key=1, limit=self.rng.choice([0, 20]))
        retention = Retention(30.0, 60.0, self.rng.choice([0, 30]))
        return Settings(lease=LEASE, queues=queues, queued=self.rng.choice([0, 60]), retention=retention)

    def recruit(self, *, whole: bool = False) -> Worker:
        labels = LABELS if whole else tuple(self.rng.sample(LABELS, self.rng.randint(0, 3)))
        return Worker(self.rng.randbytes(16), labels, QUEUES if whole else tuple(self.rng.sample(QUEUES, 2)))

    def start(self) -> None:
        """A master, the first one or the next."""
        clocks, rng = self.clocks, self.rng
        self.broker = Broker(self.store, self.settings, monotonic=clocks.monotonic, wall=clocks.wall, rng=rng)
        self.lobby = Lobby(self.broker)
        self.broker.recover()
        for worker in self.workers:
            worker.seat = worker.parked = None
        self.change(self.broker.tick)

    def change(self, run: Callable[[], Any], *, sure: bool = True) -> Any:
        """A transaction as the writer makes it; not `sure`: perhaps there was no space for it."""
        self.store.begin()
        done = run()
        answers = self.lobby.serve()
        self.store.seal()
        if not sure and self.rng.random() < 0.15:
            self.store.rollback()
            self.broker.recover()
            self.lobby.undo()
            return None
        self.ended.update(result.id for result in self.broker.take_finished())
        self.store.commit()
        for answer in answers:
            answer()
        self.check()
        return done

    # -- workers

    def ask(self, worker: Worker) -> None:
        """Say hello if need be; lease, or wait."""
        if worker.seat is None:
            words = replace(worker.words, held=[Held(grant.id, grant.attempt) for grant in worker.running])
            worker.seat = self.change(lambda: self.broker.hello(worker.row, words))
            assert worker.seat is not None
            gone, worker.seat.cancel = set(worker.seat.cancel), []
            worker.running = [grant for grant in worker.running if grant.id not in gone]
        if worker.parked is not None:
            self.lobby.leave(worker.parked)
            worker.parked = None
        seat, queues, idle, fair = worker.seat, worker.words.queues, worker.idle, self.rng.random() < 0.5
        if any(self.broker.open(seat, queue, idle) > 0 for queue in queues):
            leased = self.change(lambda: self.broker.lease(seat, queues, 4, idle, fair=fair), sure=False)
            self.take(worker, leased or [])
        else:
            worker.parked = Parked(seat, queues, 4, lambda grants: self.take(worker, grants), idle, fair=fair)
            self.lobby.park(worker.parked)

    def take(self, worker: Worker, grants: list[Grant]) -> None:
        worker.parked = None
        worker.running += grants
        for grant in grants:
            self.begun[grant.queue].append(self.clocks.now)

    def report(self, worker: Worker, outcome: Outcome) -> None:
        if worker.seat is None or not worker.running:
            return
        seat, grant = worker.seat, worker.running.pop(self.rng.randrange(len(worker.running)))
        end = Settlement(grant.id, grant.attempt, outcome, b"v" if outcome is Outcome.SUCCEEDED else b"")
        if self.change(lambda: self.broker.report(seat, [end]), sure=False) is None:
            worker.running.append(grant)

    # -- what happens

    def submit(self) -> None:
        rng = self.rng
        tasks = [self.task(rng) for _ in range(rng.randint(1, 4))]
        if self.tasks and rng.random() < 0.2:
            tasks.append(rng.choice(self.tasks))
        if self.change(lambda: self.broker.submit(tasks, atomic=rng.random() < 0.5), sure=False) is not None:
            self.tasks += tasks

    def task(self, rng: random.Random) -> Task:
        known = [task.id for task in self.tasks[-20:]]
        some: dict[str, Any] = {
            "delay": rng.uniform(0, 9),
            "run_at": self.clocks.wall() + rng.uniform(-5, 9),
            "expires": rng.uniform(1, 20),
            "requires": tuple(rng.sample(LABELS, rng.randint(1, 2))),
            "concurrency_key": rng.choice("xyz"),
            "unique": rng.choice(["queued", "running"]),
            "after": tuple(rng.choices(known, k=min(len(known), rng.randint(1, 3)))),
            "retries": rng.randint(1, 2),
            "coalesce": True,
            "take": "list",
        }
        chosen = {name: some[name] for name in rng.sample(sorted(some), rng.randint(0, 4))}
        rule, queue = rng.choice(["cancel", "run", "wait"]), rng.choice(QUEUES)
        return Task(rng.randbytes(16), rng.choice("mn"), b"p", queue, rng.randint(-1, 1), if_failed=rule, **chosen)

    def some(self) -> list[bytes]:
        return [task.id for task in self.rng.sample(self.tasks, min(3, len(self.tasks)))]

    def step(self) -> None:
        rng, broker = self.rng, self.broker
        worker = rng.choice(self.workers)
        acts: dict[Callable[[], Any], int] = {
            self.submit: 6,
            lambda: self.ask(worker): 12,
            lambda: self.report(worker, rng.choice([*Outcome, *[Outcome.SUCCEEDED] * 5])): 12,
            lambda: self.change(lambda: broker.cancel(self.some()), sure=False): 2,
            lambda: self.change(lambda: broker.retry(self.some()), sure=False): 2,
            lambda: self.change(lambda: broker.pause([rng.choice(QUEUES)], on=rng.random() < 0.4), sure=False): 2,
            lambda: self.change(lambda: broker.drain([worker.row.name], on=rng.random() < 0.3), sure=False): 1,
            lambda: self.relabel(worker): 2,
            self.weed: 1,
            self.reload: 1,
            self.start: 1,
            lambda: self.vanish(worker): 1,
            self.pass_time: 6,
        }
        rng.choices([*acts], [*acts.values()])[0]()

    def reload(self) -> None:
        self.settings = self.limits()
        self.change(lambda: self.broker.reload(self.settings))

    def relabel(self, worker: Worker) -> None:
        labels = tuple(self.rng.sample(LABELS, self.rng.randint(0, 3)))
        worker.words = replace(worker.words, labels=labels)
        if (seat := worker.seat) is not None:
            self.change(lambda: self.broker.relabel(seat, labels, []))

    def weed(self) -> None:
        """A person wants something gone, whatever comes after it."""
        states = self.rng.sample([state for state in State if state.final], 2)
        self.change(lambda: self.store.ends.weed(Chosen(self.broker.now, states), 0, dry=False), sure=False)

    def vanish(self, worker: Worker) -> None:
        if worker.seat is not None:
            seat = worker.seat
            if worker.parked is not None:
                self.lobby.leave(worker.parked)
                worker.parked = None
            ended = self.rng.random() < 0.5
            self.change(lambda: self.broker.gone(seat, ended=ended))
            self.workers[self.workers.index(worker)] = self.recruit()

    def pass_time(self) -> None:
        self.clocks.now += self.rng.choice([0.1, 1.0, 5.0])
        if self.steps and self.rng.random() < 0.1:
            self.clocks.jump += self.rng.choice([-50.0, 50.0])
        while self.clocks.now >= self.broker.alarm:
            self.change(self.broker.tick, sure=False)
            if self.broker.alarm <= self.clocks.now:
                self.clocks.now += 0.001

    # -- what must be true

    def check(self) -> None:
        db = self.store._db  # type: ignore[attr-defined]
        for name, (kept, counted) in BOOKS.items():
            assert Counter(db.execute(kept)) == Counter(db.execute(counted)), name
        for name, query in FORGOTTEN.items():
            assert db.execute(query).fetchall() == [], name
        tally = self.store._tally  # type: ignore[attr-defined]
        assert {(*kind, tasks) for kind, tasks in tally._tasks.items() if tasks} == set(db.execute(BOOKS["tally"][0]))
        held = {(task_id, claim.attempt) for seat in self.broker._seats for task_id, claim in seat.claims.items()}
        assert held == set(db.execute("SELECT id, attempt FROM task WHERE state = 2"))
        if self.clocks.now < self.broker.alarm:
            for worker in self.workers:
                if worker.parked is not None and not self.lobby.has_served(worker.parked):
                    free = {queue: self.broker.open(worker.parked.seat, queue, worker.parked.idle) for queue in QUEUES}
                    assert not any(free[queue] for queue in worker.words.queues), ("nobody woke it", free)

    def rates_hold(self) -> bool:
        times = self.begun["b"]
        return all(later - earlier >= 4.999 for earlier, later in zip(times, times[3:], strict=False))

    def unfinished(self) -> list[tuple[Any, ...]]:
        query = "SELECT seq, queue, state FROM task WHERE state IN (0, 1, 2, 7)"
        return self.store._db.execute(query).fetchall()  # type: ignore[attr-defined,no-any-return]

    def finish(self) -> None:
        """Nothing is asked of the master any more but work, and it is woken by its alarms alone."""
        self.change(lambda: self.broker.pause(QUEUES, on=False))
        self.change(lambda: self.broker.drain([*self.broker.flow.drained], on=False))
        self.workers.append(self.recruit(whole=True))
        for _ in range(PATIENCE):
            for worker in self.workers:
                if worker.seat is None:
                    self.ask(worker)
                while worker.running:
                    self.report(worker, Outcome.SUCCEEDED)
                if worker.parked is None or worker.parked.idle < worker.idle:
                    self.ask(worker)
            if not self.unfinished():
                return
            if not any(worker.running for worker in self.workers):
                self.clocks.now = max(self.clocks.now, self.broker.alarm)
                self.change(self.broker.tick)
                self.put_back()

    def put_back(self) -> None:
        """Those that others wait for until somebody retries them."""
        query = "SELECT DISTINCT needs FROM depend JOIN task ON id = needs WHERE met <> 1 AND state BETWEEN 4 AND 6"
        waiting = self.store._db.execute(query).fetchall()  # type: ignore[attr-defined]
        if waiting and self.rng.random() < 0.2:
            self.change(lambda: self.broker.retry([task_id for (task_id,) in waiting]))


@pytest.mark.parametrize("seed", range(40))
def test_the_books_are_right_and_everything_ends(seed: int) -> None:
    world = World(seed, steps=seed % 2 == 0)
    for _ in range(STEPS):
        world.step()
    world.finish()
    assert world.unfinished() == []
    assert world.steps or world.rates_hold()
