"""`python -m tests.benchmarks [TASKS]`: how fast this machine carries squares from a client to a result and back.

Two workers of one child each; every submit and every result is on disk (`synchronous=FULL`) before it is
acknowledged. The same work by a plain `BaseManager` pair, in memory alone, is the reference; both take turns in one
run, because machines are noisy: read the ratios.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster import Cluster

from tests.benchmarks.plain_pair import PlainPair, connect

ROUNDS = 5
TASKS = 20_000
PLAIN_TASKS = 4_000
"""Fewer for the reference, which is slower: both take about as long."""

TRIPS = 400
CONNECTS = 20
PAGE = 4096


def rate(count: int, work: Callable[[], object]) -> float:
    """Tasks a second of one run."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def trips(go: Callable[[], object], count: int = TRIPS) -> list[float]:
    """Milliseconds of each of many round trips, one after the other."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        go()
        times.append((time.perf_counter() - began) * 1000)
    return sorted(times)


def median(values: list[float]) -> float:
    return statistics.median(values)


def measure(folder: Path, tasks: int) -> None:
    """Print the table."""
    cluster = Cluster(folder).start()
    try:
        with cluster.client() as client, PlainPair() as plain:
            _warm_up(client, plain)
            _rates(client, plain, tasks)
            _disk(folder)
            _latency(client, plain)
            _connect(cluster, plain)
    finally:
        cluster.close()


def _warm_up(client: object, plain: PlainPair) -> None:
    assert list(client.map("square", range(2000)))[7] == "7 * 7 = 49"  # type: ignore[attr-defined] # a Client
    plain.one_by_one(500)


def _rates(client: object, plain: PlainPair, tasks: int) -> None:
    def one_by_one() -> None:
        handles = [client.submit("square", n) for n in range(tasks)]  # type: ignore[attr-defined] # a Client
        for n, handle in enumerate(handles):
            assert handle.result(60) == f"{n} * {n} = {n * n}"

    def bulk() -> None:
        handles = client.submit_many("square", [(n,) for n in range(tasks)])  # type: ignore[attr-defined] # a Client
        assert sum(len(handle.result(60)) > 0 for handle in handles) == tasks

    def stream() -> None:
        assert sum(1 for _ in client.map("square", range(tasks))) == tasks  # type: ignore[attr-defined] # a Client

    rounds = [
        (
            rate(PLAIN_TASKS, lambda: plain.one_by_one(PLAIN_TASKS)),
            rate(tasks, one_by_one),
            rate(tasks, bulk),
            rate(tasks, stream),
        )
        for _ in range(ROUNDS)
    ]
    reference, *ours = (list(column) for column in zip(*rounds, strict=True))
    print(f"{'plain BaseManager pair, one by one, in memory':<55}{median(reference):>10,.0f}/s")
    for name, values in zip(("submit in a loop, then all results", "submit_many", "map"), ours, strict=True):
        ratio = median([mine / theirs for mine, theirs in zip(values, reference, strict=True)])
        print(f"{'qdist, on disk: ' + name:<55}{median(values):>10,.0f}/s   {ratio:5.2f} x plain")


def _latency(client: object, plain: PlainPair) -> None:
    theirs = trips(plain.round_trip)
    ours = trips(lambda: client.submit("square", 7).result(10))  # type: ignore[attr-defined] # a Client
    _print_times("plain, submit to result", theirs)
    _print_times("qdist, submit to result, two fsyncs", ours)


def _disk(folder: Path) -> None:
    """What one fsync of this disk costs: nothing that is safe can be faster than its number of them."""
    with (folder / "disk").open("wb", buffering=0) as file:
        file.write(bytes(PAGE * TRIPS))
        file.seek(0)

        def overwrite() -> None:
            file.write(bytes(PAGE))
            os.fdatasync(file.fileno())

        _print_times("this disk: 4 KiB written over and synced", trips(overwrite))


def _connect(cluster: Cluster, plain: PlainPair) -> None:
    """A plain client's way to both queues: six connections with a handshake each."""
    host, _, port = cluster.address.rpartition(":")
    key = cluster.keys["submit"].read_bytes().removesuffix(b"\n")
    _print_times("plain client to a plain server: connect, two queues", trips(lambda: connect(plain.port), CONNECTS))
    _print_times("plain client to qdist-master: the same", trips(lambda: connect(int(port), host, key), CONNECTS))


def _print_times(name: str, times: list[float]) -> None:
    print(f"{name:<55}{median(times):>10.2f} ms p50 {times[int(len(times) * 0.99)]:8.2f} ms p99")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="qdist-benchmark-") as place:
        measure(Path(place), int(sys.argv[1]) if len(sys.argv) > 1 else TASKS)
