"""The reference: a plain `BaseManager` server with two plain workers, everything in memory, nothing acknowledged.

`plain_pair.py server` and `plain_pair.py worker PORT` are its processes; `PlainPair` starts them and submits.
"""

import contextlib
import queue
import subprocess
import sys
from multiprocessing.managers import BaseManager
from pathlib import Path
from types import TracebackType
from typing import Any

KEY = b"benchmark, on loopback only, no secret at all"
STOP = None


class _Manager(BaseManager):
    pass


def serve() -> None:
    """Serve two queues on a free port, which is printed."""
    tasks: queue.Queue[Any] = queue.Queue()
    results: queue.Queue[Any] = queue.Queue()
    _Manager.register("get_task_queue", callable=lambda: tasks)
    _Manager.register("get_result_queue", callable=lambda: results)
    server = _Manager(address=("127.0.0.1", 0), authkey=KEY).get_server()
    print(server.address[1], flush=True)
    server.serve_forever()


def connect(port: int, host: str = "127.0.0.1", key: bytes = KEY) -> tuple[Any, Any]:
    """The two queues of the server at `port`."""
    _Manager.register("get_task_queue")
    _Manager.register("get_result_queue")
    manager = _Manager(address=(host, port), authkey=key)
    manager.connect()
    return manager.get_task_queue(), manager.get_result_queue()  # type: ignore[attr-defined]


def work(port: int) -> None:
    """Square what comes until told to stop."""
    tasks, results = connect(port)
    while (n := tasks.get()) is not STOP:
        results.put(f"{n} * {n} = {n * n}")


class PlainPair:
    """A server and two workers, for as long as the `with` block lasts."""

    def __enter__(self) -> "PlainPair":
        self._processes = [_start("server")]
        assert self._processes[0].stdout is not None
        port = self._processes[0].stdout.readline().strip()
        self._processes += [_start("worker", port) for _ in range(2)]
        self.port = int(port)
        self.tasks, self.results = connect(self.port)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            with contextlib.suppress(AttributeError):
                process.stdout.close()  # type: ignore[union-attr] # not every process has one

    def one_by_one(self, count: int) -> None:
        """Put so many numbers, one by one, then get as many results."""
        for n in range(count):
            self.tasks.put(n)
        for _ in range(count):
            self.results.get()

    def round_trip(self) -> None:
        """One task, and its result."""
        self.tasks.put(7)
        self.results.get()


def _start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), *arguments],
        stdout=subprocess.PIPE if arguments == ("server",) else None,
        text=True,
    )


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve()
    else:
        work(int(sys.argv[2]))
