"""Log files by path: 200 MB of lines are counted, and only the paths travel."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from conftest import NewCluster

import qdistd
from qdistd.model import id_text

FILES = 40
FILE_BYTES = 5 * 1024 * 1024
"""40 files of 5 MiB: 200 MB in all."""

ODD = {
    "empty.log": b"",
    "no newline at the end.log": b"one\ntwo",
    "Zähler für Störungen.log": "Störung\n".encode() * 3,
}


def log_block(number: int) -> bytes:
    """Some lines as a web server writes them, of different lengths."""
    lines = [
        f'10.0.{n % 256}.{number} - - [24/Nov/2026:{n % 24:02}:00:00 +0000] "GET /{"x" * (n % 90)} HTTP/1.1" 200 {n}'
        for n in range(500)
    ]
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all workers share."""
    folder = tmp_path_factory.mktemp("shared logs")
    for number in range(FILES):
        block = log_block(number)
        (folder / f"access-{number}.log").write_bytes(block * (FILE_BYTES // len(block) + 1))
    for name, content in ODD.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def farm(new_cluster: NewCluster) -> Iterator[Cluster]:
    """Two workers of two children each."""
    yield new_cluster(workers=2, worker={"worker": {"processes": 2}})


def counted_by_wc(path: Path) -> int:
    """`wc -l`, which does not count a last line without its newline, plus that line."""
    lines = int(subprocess.run(["wc", "-l", path], capture_output=True, text=True, check=True).stdout.split()[0])
    return lines + (not path.read_bytes().endswith(b"\n") if path.stat().st_size else 0)


def store_bytes(cluster: Cluster) -> int:
    with cluster.client() as q:
        return int(q.status().store_bytes)


def test_two_hundred_megabytes_are_counted_and_only_the_paths_travel(
    farm: Cluster, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = sorted(str(path) for path in logs.iterdir())
    before = store_bytes(farm)
    with farm.client() as q:
        handles = q.submit_many("count_lines", [(path,) for path in paths])
        counts = {path: handle.result(120) for path, handle in zip(paths, handles, strict=True)}
        busy = {q.show(handle.id).worker for handle in handles}
    assert counts == {path: counted_by_wc(Path(path)) for path in paths}
    assert len(busy) == 2, "both workers took part"
    grown = store_bytes(farm) - before
    size = sum(os.path.getsize(path) for path in paths)  # noqa: PTH202 - a string is what a task takes
    assert size > 200_000_000
    assert grown < 1_000_000
    with capsys.disabled():
        print(f"\n{size / 1e6:.0f} MB in {len(paths)} files: the store grew by {grown / 1024:.0f} KiB")


def test_a_payload_over_the_limit_is_refused_and_says_to_send_a_path(farm: Cluster) -> None:
    with farm.client() as q:
        q.flush(30)
        with pytest.raises(qdistd.Refused, match=r"100,024 bytes.* takes 65,536: .*send its path"):
            q.submit("count_lines", "x" * 100_000).result(30)
        assert id_text(q.submit("square", 7).task_id)


def test_a_file_that_is_not_there_fails_its_task_by_name(farm: Cluster, logs: Path) -> None:
    with farm.client() as q, pytest.raises(qdistd.TaskFailed, match=r"FileNotFoundError.*gone\.log"):
        q.submit("count_lines", str(logs / "gone.log")).result(30)
