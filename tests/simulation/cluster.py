"""A master, workers and clients of qdist's own code in a simulated world, and the faults that befall them.

Real: wire, handshake, master, broker, store (SQLite in memory), worker, spool, session. Simulated: time, network,
commits' duration, and the pool, whose "children" are timers that write down what they do.
"""

import asyncio
import logging
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdistd.address import Address
from qdistd.broker import QueueLimits
from qdistd.broker import Settings as BrokerSettings
from qdistd.client.outbox import Entry, Parcel
from qdistd.client.session import Session
from qdistd.errors import QdistError
from qdistd.master import Host, Master, MasterSettings
from qdistd.model import Result, State, Task
from qdistd.pool import PoolSettings
from qdistd.protocol import Hello, Role
from qdistd.store import Page, open_store
from qdistd.wire.keyring import Key, Keyring
from qdistd.worker.settings import Settings as WorkerSettings
from qdistd.worker.spool import Spool
from qdistd.worker.worker import Worker
from tests.simulation.history import Ending, Family, History, anomalies
from tests.simulation.net import Net
from tests.simulation.pool import SimPool
from tests.simulation.world import Process, World

ADDRESS = Address("master", 5000)
KEY = Key(b"k" * 32, frozenset({Role.SUBMIT, Role.WORK, Role.ADMIN}), "all")
LEASE = 10.0
HEARTBEAT = 2.0
NARROW, NARROW_PLACES = "narrow", 2
"""A queue of which no more tasks run at once."""

RULES = BrokerSettings(
    lease=LEASE,
    queues={NARROW: QueueLimits(concurrency=NARROW_PLACES), "default": QueueLimits(per_key=1)},
)
DAY = 86400.0
SETTLE_TIME = 300.0
"""Virtual seconds after the last fault within which everything must have ended: many leases and backoffs."""

quiet = logging.getLogger("simulation")
quiet.addHandler(logging.NullHandler())
quiet.propagate = False
quiet.setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Plan:
    """The size of a run."""

    workers: int = 3
    clients: int = 2
    tasks: int = 16
    """A client's."""
    faults: int = 12
    span: float = 60.0
    """Virtual seconds over which tasks and faults are spread."""
    kinds: tuple[str, ...] = ("master", "worker", "client", "partition", "one-way", "reset", "jump", "freeze")
    longest_cut: float = 2 * LEASE
    """Virtual seconds a partition or a freeze lasts at most."""
    families: float = 0.2
    """The share of submits that are four tasks at once, some of which come after others."""
    troubled: bool = True
    """Whether some tasks fail, crash their child, or take longer than a lease."""


class SlowCommits:
    """A disk: the commit takes a while, and so does the way back to the loop."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def __call__(self, commit: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        rng = self._process.world.rng
        self._process.call_later(rng.uniform(0.0001, 0.01), self._commit, commit, done)

    def _commit(self, commit: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        commit()
        self._process.call_later(self._process.world.rng.uniform(0.0, 0.001), done, None)

    def close(self) -> None:
        pass


class Sent(Entry):
    """A task of a simulated client, which writes down what it hears."""

    __slots__ = ("_history",)

    def __init__(self, history: History, task: Task) -> None:
        object.__setattr__(self, "_history", history)
        super().__init__(task.id, task, True)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "task" and value is None:
            self._history.acknowledged.add(self.task_id)
        object.__setattr__(self, name, value)

    def ended(self, result: Result) -> None:
        self._history.read(result.id, result.state.word, result.attempt, result.value)
        self._history.waiting.discard(result.id)

    def failed(self, error: QdistError) -> None:
        self._history.failures.append(f"{self.task_id.hex()} {error}")


class Cluster:
    """Everything of one run. `bug` may spoil each part as it is made: `bug(kind, part)`."""

    def __init__(self, seed: int, plan: Plan, bug: Callable[[str, Any], None] = lambda _kind, _part: None) -> None:
        self.world = World(seed)
        self.net = Net(self.world)
        self.plan = plan
        self.history = History()
        self.store = open_store("sqlite://:memory:")
        self._bug = bug
        self._jump = 0.0
        self._processes: dict[str, Process] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="qdist-simulation-", dir=_quick_folder())
        self._spools: dict[str, Spool] = {}
        self._mine: dict[str, set[bytes]] = {}
        self.workers: dict[str, Worker] = {}
        bug("cluster", self)

    def wall(self) -> float:
        return 1_700_000_000.0 + self.world.now + self._jump

    def rng(self) -> random.Random:
        return random.Random(self.world.rng.random())

    # -- processes

    def start_master(self) -> None:
        process = self._process("master")

        async def main() -> None:
            master = Master(
                MasterSettings((ADDRESS,), Keyring([KEY]), broker=RULES, heartbeat=HEARTBEAT),
                store=self.store,
                network=self.net.of(process),
                loop=process,
                commits=SlowCommits(process),
                wall=self.wall,
                rng=self.rng(),
                host=Host("sim", "master", 1),
                broken=lambda error: self.world.errors.append(f"broken: {error}"),
                log=quiet,
            )
            self._bug("master", master)
            await master.start()

        process.start(main())

    def start_worker(self, name: str) -> None:
        process = self._process(name)
        spool = self._spools[name] = Spool(Path(self._folder.name) / f"{name}.db", quiet)
        settings = WorkerSettings(
            name=name,
            host=name,
            masters=(ADDRESS,),
            key=KEY,
            queues=("default", NARROW),
            fair=True,
            pool=PoolSettings(processes=2, modules=(), path=(), timeout=0.0, memory=0, result=1000),
        )

        async def main() -> None:
            worker = Worker(
                settings,
                network=self.net.of(process),
                pool=lambda chosen, *, done, room: SimPool(process, self.history, chosen, done, room),
                spool=spool,
                wall=self.wall,
                rng=self.rng(),
                log=quiet,
            )
            self.workers[name] = worker
            self._bug("worker", worker)
            await worker.start()
            await worker.work()

        process.start(main())

    def start_client(self, name: str) -> None:
        process = self._process(name)
        self._mine[name] = set()

        async def main() -> None:
            hello = Hello("client", name)
            session = Session(self.net.of(process), [ADDRESS], KEY.secret, hello=hello, wall=self.wall, rng=self.rng())
            self._bug("session", session)
            running = asyncio.ensure_future(session.run())
            for _ in range(self.plan.tasks):
                await asyncio.sleep(self.world.rng.uniform(0, 2 * self.plan.span / self.plan.tasks))
                self._submit(name, session)
            await running

        process.start(main())

    def _submit(self, name: str, session: Session) -> None:
        if self.world.rng.random() < self.plan.families:
            session.outbox.waiting.append(Parcel([*self._family(name, session)]))
        else:
            payload, options = self._work()
            session.outbox.waiting.append(self._sent(name, Task(session.new_id(), "work", payload, **options)))
        session.pump()

    def _family(self, name: str, session: Session) -> Iterator[Sent]:
        """Two tasks, one after both, and one after that which does not care how it ends."""
        first, second, third, last = (session.new_id() for _ in range(4))
        after = {third: (first, second), last: (third,)}
        self.history.families.append(
            Family((first, second, third, last), after, {third: "cancel", last: "run"}),
        )
        for task_id in (first, second, third, last):
            payload, options = self._work()
            if task_id == first and self.plan.troubled and self.world.rng.random() < 0.3:
                payload = payload.replace(b"f0", b"f9")
            if_failed = "run" if task_id == last else "cancel"
            task = Task(task_id, "work", payload, **options, after=after.get(task_id, ()), if_failed=if_failed)  # type: ignore[arg-type] # a word of two
            yield self._sent(name, task)

    def _sent(self, name: str, task: Task) -> Sent:
        self.history.submitted.add(task.id)
        self.history.waiting.add(task.id)
        self._mine[name].add(task.id)
        if task.concurrency_key:
            self.history.narrow.setdefault(f"key {task.concurrency_key}", (1, set()))[1].add(task.id)
        if task.queue == NARROW:
            self.history.narrow.setdefault(f"queue {NARROW}", (NARROW_PLACES, set()))[1].add(task.id)
        return Sent(self.history, task)

    def _work(self) -> tuple[bytes, dict[str, Any]]:
        rng = self.world.rng
        kind = rng.random() if self.plan.troubled else 0.5
        seconds = rng.uniform(0.01, 3.0) if kind > 0.1 else rng.uniform(LEASE, 2 * LEASE)
        failing = f"f{rng.randint(1, 3)}" if kind > 0.9 else "c1" if kind > 0.85 else "f0"
        options: dict[str, Any] = {"retries": 3, "priority": rng.randint(-1, 1)}
        if rng.random() < 0.1:
            options["delay"] = rng.uniform(0, 10)
        if rng.random() < 0.15:
            options["concurrency_key"] = rng.choice(("ann", "bob"))
        elif rng.random() < 0.15:
            options["queue"] = NARROW
        return f"{seconds:.3f} {failing}".encode(), options

    def _process(self, name: str) -> Process:
        process = self._processes[name] = Process(self.world, name)
        return process

    # -- faults

    def crash(self, name: str) -> None:
        """kill -9, and for masters and workers a new start some time later."""
        process = self._processes[name]
        if not process.alive:
            return
        self.net.kill(process)
        self._write_down_dead(name)
        delay = self.world.rng.uniform(0.1, 4.0)
        if name == "master":
            self.store.rollback()
            self.world.at(self.world.now + delay, self.start_master)
        elif name.startswith("w"):
            self._spools[name].close()
            self.world.at(self.world.now + delay, self.start_worker, name)
        else:
            self.history.waiting -= self._mine[name]

    def _write_down_dead(self, name: str) -> None:
        """A killed worker's children are gone with it: what they ran has ended at this moment, without a word."""
        for runs in self.history.runs.values():
            for run in runs:
                if run.worker == name and run.ended is None:
                    run.ended = self.world.now

    def strike(self) -> None:
        """One fault."""
        rng = self.world.rng
        kind = rng.choice(self.plan.kinds)
        other = rng.choice([name for name in self._processes if name != "master"])
        if kind in ("master", "worker", "client"):
            self.crash(rng.choice([name for name in self._processes if name[0] == kind[0]]))
        elif kind in ("partition", "one-way"):
            pair = ("master", other) if rng.random() < 0.5 else (other, "master")
            self.net.partition(*pair, both=kind == "partition")
            self.world.at(self.world.now + rng.uniform(0.5, self.plan.longest_cut), self.net.heal)
        elif kind == "reset":
            self.net.reset_all(other)
        elif kind == "jump":
            self._jump += rng.choice([-DAY, DAY])
        else:
            self._processes[rng.choice(["master", other])].freeze(rng.uniform(0.5, self.plan.longest_cut))

    # -- a run

    def run(self) -> list[str]:
        """Start everything, strike, heal, wait for the end; the anomalies."""
        try:
            return self._run()
        finally:
            self._close()

    def _run(self) -> list[str]:
        self.start_master()
        for number in range(self.plan.workers):
            self.start_worker(f"w{number}")
        for number in range(self.plan.clients):
            self.start_client(f"c{number}")
        for _ in range(self.plan.faults):
            self.world.at(self.world.rng.uniform(0, self.plan.span), self.strike)
        end = 2.2 * self.plan.span
        self.world.at(end, self.net.heal)
        self.world.run_until(lambda: False, end)
        self.world.run_until(self._quiet, end + SETTLE_TIME)
        self._write_down_final()
        return anomalies(self.history) + [f"ERROR {error}" for error in self.world.errors]

    def _close(self) -> None:
        for process in self.world.processes:
            process.bury()
        self.store.close()
        for spool in self._spools.values():
            spool.close()
        self._folder.cleanup()

    def _quiet(self) -> bool:
        counts = self.store.counts()
        return not self.history.waiting and all(state.final for states in counts.values() for state in states)

    def _write_down_final(self) -> None:
        for task in self.history.submitted:
            view = self.store.view(task)
            if view is not None:
                attempts = {attempt.number: attempt.outcome for attempt in view.attempts}
                self.history.final[task] = Ending(view.state.word, view.attempt, view.value, attempts)
        for queue in self.store.counts():
            self._write_down_strangers(queue)

    def _write_down_strangers(self, queue: str) -> None:
        for view in self.store.page(Page(queue=queue, limit=10_000))[0]:
            self.history.final.setdefault(view.id, Ending(State.READY.word, 0, b"", {}))


def _quick_folder() -> str | None:
    """Memory, where the machine offers it: the spool syncs what it writes, and here no power can fail."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
