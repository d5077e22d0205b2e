"""`python -m tests.benchmarks.retention [TASKS]`: what many kept tasks, a purge and a backup cost those who work.

A master and one worker of one child. Each line is the time from a submit to its result, one after the other, two
fsyncs each: with an empty store, with a million tasks that have ended, while all of these are purged, and while a
backup of a store of a gigabyte is made. Then the size of the file over generations that come and go.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster import Cluster

from qdistd import Client
from qdistd.protocol import StatusView
from qdistd.store import open_store
from tests.benchmarks.__main__ import _print_times, trips

TASKS = 1_000_000
TRIPS = 2000
GENERATIONS = 6
GLANCE = 0.2
"""Seconds between two looks at how much is left."""

VALUE = 700
"""Bytes of a result, so that a million tasks come to a gigabyte."""

_FILL = """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :tasks)
INSERT INTO task(id, name, queue, state, priority, run_at, payload, payload_check, timeout, retries, backoff, key,
mailbox, created, attempt, outcome, started, finished, wall, cpu, rss, value)
SELECT CAST(printf('%016d', i) AS BLOB), 'square', 'default', 3, 0, :then, randomblob(40), 0, 0, 0, 1, '',
0, :then, 1, 0, :then, :then, 0.1, 0.1, 9000, randomblob(:value) FROM n"""


def fill(path: Path, tasks: int, age: float) -> None:
    """A store with so many tasks that ended so many seconds ago, written without a master: it would take minutes."""
    store = open_store(f"sqlite://{path}")
    then = time.time() - age
    db = store._db  # type: ignore[attr-defined]
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    db.execute(_FILL, {"tasks": tasks, "then": then, "value": VALUE})
    db.execute("INSERT OR REPLACE INTO tally SELECT queue, state, count(*) FROM task GROUP BY queue, state")
    db.execute("COMMIT")
    store.close()


@contextmanager
def running(
    folder: Path, tasks: int = 0, age: float = 0.0, **master: dict[str, object]
) -> Iterator[tuple[Cluster, Client]]:
    """A cluster over a store that is filled already, and a client that has had its first results."""
    folder.mkdir(mode=0o700)
    cluster = Cluster(folder, workers=1, master=master)
    if tasks:
        fill(folder / "qdist.db", tasks, age)
    cluster.start()
    try:
        with cluster.client("admin") as client:
            assert client.submit("square", 7).result(60)
            yield cluster, client
    finally:
        cluster.close()


def measure(folder: Path, tasks: int) -> None:
    """Print the table."""
    with running(folder / "empty") as (_, client):
        _latency("an empty store", client)
    with running(folder / "full", tasks) as (cluster, client):
        _latency(f"{tasks:,} tasks that have ended", client)
        _during_backup(cluster, client, folder)
        _during_purge(client, tasks)
    with running(folder / "old", tasks, 8 * 86400.0) as (cluster, client):
        _during_retention(cluster, client, tasks)
    _generations(folder, tasks // 20)


def _latency(name: str, client: Client, count: int = TRIPS) -> None:
    _print_times(name, trips(lambda: client.submit("square", 7).result(60), count))


def _meanwhile(name: str, client: Client, work: Callable[[], object]) -> float:
    """Round trips for as long as the work takes; its seconds."""
    thread = threading.Thread(target=work)
    began = time.perf_counter()
    thread.start()
    times: list[float] = []
    while thread.is_alive():
        times += trips(lambda: client.submit("square", 7).result(60), 20)
    thread.join()
    _print_times(name, sorted(times))
    return time.perf_counter() - began


def _during_backup(cluster: Cluster, client: Client, folder: Path) -> None:
    size = (cluster.folder / "qdist.db").stat().st_size
    with cluster.client("admin") as other:
        seconds = _meanwhile(
            f"the same during a backup of {size / 2**30:.2f} GiB", client, lambda: other.backup(folder / "b.db")
        )
    print(f"{'':<55}{seconds:>10.1f} s for the backup")


def _during_purge(client: Client, tasks: int) -> None:
    seconds = _meanwhile("the same while a person purges them", client, lambda: client.purge(1.0))
    print(f"{'':<55}{seconds:>10.1f} s for the purge, {tasks / seconds:,.0f} tasks/s")


def _during_retention(cluster: Cluster, client: Client, tasks: int) -> None:
    def gone() -> None:
        with cluster.client() as other:
            while _old(other.status()) > 0:
                time.sleep(GLANCE)

    seconds = _meanwhile("the same while retention deletes them", client, gone)
    print(f"{'':<55}{seconds:>10.1f} s until they were gone, {tasks / seconds:,.0f} tasks/s")


def _old(status: StatusView) -> int:
    """How many tasks are left of those that were there before this master."""
    return sum(sum(queue.counts.values()) for queue in status.queues) - status.submitted


def _generations(folder: Path, tasks: int) -> None:
    with running(folder / "generations", retention={"count": tasks}) as (_, client):
        sizes = []
        for _ in range(GENERATIONS):
            assert sum(1 for _ in client.map("square", range(tasks))) == tasks
            while client.purge(0.0, dry_run=True) > tasks:
                time.sleep(GLANCE)
            sizes.append(f"{client.status().store_bytes / 2**20:.1f}")
    print(f"{f'MiB of the file, {tasks:,} tasks kept, generation by generation':<55}    {', '.join(sizes)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="qdist-retention-") as place:
        measure(Path(place), int(sys.argv[1]) if len(sys.argv) > 1 else TASKS)
