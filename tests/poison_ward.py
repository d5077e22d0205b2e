"""A real master and a real worker for tasks that nobody wants, and neighbours who do not care.

ward = Ward(folder)                      three children, the tasks of `poison_samples` and its kin
ward.swallow("segfault")                 the task, when it has come to its end
ward.unharmed()                          the worker is the one it was, with no zombie and nothing left over

`home`: a cgroup that the worker divides, as systemd gives one with `Delegate=yes`. `around`: groups that the worker is
moved into before it starts, to bound what it can do to this machine.
"""

import contextlib
import os
import secrets
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cluster import Cluster, Tables
from daemons import Daemon
from patience import until

from qdistd import Client, Handle
from qdistd.cgroup import PROCESSES, Cgroup
from qdistd.pool.cgroups import MARKS
from qdistd.views import TaskView

HERE = str(Path(__file__).parent)

MARK = "WARD"
"""The variable by which all processes of one ward know each other, whatever they do to get away."""

TASKS = ["poison_samples", "poison_values", "poison_changes", "qdistd.tasks"]

LAST = 200.0
"""Seconds for the last of many poisons: three attempts with their pauses, each behind all others, on a busy machine."""


class Ward:
    """`limits`: the table of the worker. It has `processes` children."""

    def __init__(
        self,
        folder: Path,
        *,
        processes: int = 3,
        home: Cgroup | None = None,
        around: Sequence[Path] = (),
        before: Sequence[str] = (),
        master: Tables | None = None,
        **limits: Any,
    ) -> None:
        folder.mkdir(exist_ok=True)
        worker = {"processes": processes, "tasks": TASKS, "path": [HERE], "queues": ["default", "poison"]}
        self.cluster = Cluster(folder, workers=1, master=master, worker={"worker": worker, "limits": limits})
        self.master, [self.worker] = self.cluster.master, self.cluster.workers
        self.home, self.around = home, around
        self._processes = processes
        self._mark = secrets.token_hex(8)
        self.worker._environ[MARK] = self._mark
        doors = [group / PROCESSES for group in around]
        if home:
            os.setxattr(home.path, MARKS[0], b"1")
            doors.append(home.path / PROCESSES)
        self.worker.command = [*_through(doors), *before, *self.worker.command]
        self.cluster.start()
        self.pid = self.worker.pid
        self.q: Client = self.cluster.client("admin")

    def close(self) -> None:
        """End it all, and what was left."""
        self.q.close()
        self.cluster.close()
        for pid in self.processes():
            _kill(pid)

    def submit(self, name: str, *args: object, **options: object) -> Handle[Any]:
        """A poison, on its way."""
        return self.q.options(**options).submit(name, *args)

    def swallow(self, name: str, *args: object, **options: object) -> TaskView:
        """A poison, to its end."""
        return self.end(self.submit(name, *args, **options))

    def end(self, handle: Handle[Any]) -> TaskView:
        """All that is known of a task when it is over."""
        handle.wait(LAST)
        return self.q.show(handle)

    def result(self, name: str, *args: object, **options: object) -> Any:
        """What a task gives that goes well."""
        return self.submit(name, *args, **options).result(LAST)

    # --- who is there

    def processes(self) -> list[int]:
        """All that the worker has started, however far from it, without itself."""
        return [pid for pid in _pids() if pid != self.worker.pid and _marked(pid, self._mark)]

    def children(self) -> dict[int, str]:
        """Of the children of the worker, dead ones that nobody has buried too: their state, as proc(5) has it."""
        return {pid: state for pid in self.worker.children() if (state := _state(pid))}

    def unharmed(self, left: Sequence[int] = ()) -> None:
        """Fails unless the worker is the one it was, has its children and no zombie, and nothing else runs.

        `left`: processes that may run on.
        """
        assert self.worker.alive and self.worker.pid == self.pid
        until(lambda: len(self.children()) == self._processes, "as many children as there should be")
        until(lambda: "Z" not in self.children().values(), "no zombies")
        until(lambda: set(self.processes()) == {*self.children(), *left}, "nothing but children")
        assert self.result("echo", "well") == "well"

    def peak(self) -> dict[str, int]:
        """The most memory that master and worker ever had, MiB."""
        return {daemon.name: _peak(daemon) for daemon in (self.master, self.worker)}

    # --- neighbours

    @contextlib.contextmanager
    def neighbours(self) -> Iterator["Neighbours"]:
        """Somebody who has small tasks run, one after the other, as long as this lasts."""
        neighbours = Neighbours(self.cluster)
        try:
            yield neighbours
        finally:
            neighbours.leave()


class Neighbours:
    """`phase` begins a phase, and `p99` is what a task took in it from submit to result, seconds."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._phases: dict[str, list[float]] = {}
        self._phase = ""
        self._over = threading.Event()
        self._trouble: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def phase(self, name: str) -> None:
        """What comes from now on belongs to this phase."""
        self._phase = name

    def wait_for(self, count: int) -> None:
        """Return when there are so many figures of this phase."""
        until(lambda: self._trouble or len(self._phases.get(self._phase, ())) >= count, "neighbours", LAST)

    def leave(self) -> None:
        """The last one goes. Raises what went wrong there."""
        self._over.set()
        self._thread.join()
        for trouble in self._trouble:
            raise trouble

    def p99(self, name: str) -> float:
        """Of one phase."""
        return statistics.quantiles(self._phases[name], n=100)[98]

    def count(self, name: str) -> int:
        """How many figures a phase has."""
        return len(self._phases[name])

    def _run(self) -> None:
        try:
            with self._cluster.client() as q:
                while not self._over.is_set():
                    phase, begin = self._phase, time.perf_counter()
                    assert q.submit("square", 7).result(LAST) == "7 * 7 = 49"
                    self._phases.setdefault(phase, []).append(time.perf_counter() - begin)
        except BaseException as trouble:  # noqa: BLE001 - raised where somebody sees it
            self._trouble.append(trouble)


def _through(doors: Sequence[Path]) -> list[str]:
    """A command that goes on with its arguments inside of these cgroups."""
    steps = [f'echo 0 >"{door}" && ' for door in doors]
    return ["sh", "-c", f'{"".join(steps)}exec "$@"', "sh"]


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _marked(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _peak(daemon: Daemon) -> int:
    status = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    [line] = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) >> 10


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
