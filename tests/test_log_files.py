"""Log files by path: 200 MB of lines are counted by four children, and only the paths travel."""

import random
import re
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.managers import RemoteError
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cluster import Cluster
from conftest import NewCluster
from patience import until
from serving import stock_manager
from shell import Shell

import qdistd
from qdistd.address import Address
from qdistd.cli.exits import Exit
from qdistd.config import read_key
from qdistd.wire.keyring import Key

FILES = 41
FILE_BYTES = 5 * 1024 * 1024
BLOCK_LINES = 2000

ODD = {
    "empty.log": b"",
    "no newline at the end.log": b"one line\nand a last one",
    "Zähler für Störungen №1.log": "Störung behoben\n".encode() * 3,
}

PATIENCE = 120.0
"""Seconds for 200 MB from the slowest disk we know."""


@pytest.fixture(scope="module")
def logs() -> Iterator[Path]:
    """The folder that all workers share. It goes with this file's tests: it is too large to be left lying about."""
    with TemporaryDirectory(prefix="shared logs ") as folder:
        rng = random.Random("the same lines each time")
        for number in range(FILES):
            block = log_block(rng)
            (Path(folder) / f"access-{number}.log").write_bytes(block * (FILE_BYTES // len(block) + 1))
        for name, content in ODD.items():
            (Path(folder) / name).write_bytes(content)
        yield Path(folder)


def log_block(rng: random.Random) -> bytes:
    """Some lines as a web server writes them, of different lengths."""
    lines = (
        f"10.0.{rng.randrange(256)}.{rng.randrange(256)} - - [24/Nov/2026:{n // 100:02}:00:00 +0000]"
        f' "GET /{"x" * rng.randrange(90)} HTTP/1.1" 200 {rng.randrange(10**6)}\n'
        for n in range(BLOCK_LINES)
    )
    return "".join(lines).encode()


@pytest.fixture
def farm(new_cluster: NewCluster) -> Cluster:
    """Two workers of two children each."""
    return new_cluster(workers=2, worker={"worker": {"processes": 2}})


def counted_by_wc(paths: list[str]) -> dict[str, int]:
    """`wc -l` of all, and one more where the last line has no newline: `wc` counts newlines."""
    printed = subprocess.run(["wc", "-l", *paths], capture_output=True, text=True, check=True).stdout
    counts = [line.strip().partition(" ") for line in printed.splitlines()[:-1]]
    return {path: int(lines) + (Path(path).name == "no newline at the end.log") for lines, _, path in counts}


def bytes_read(process: int) -> int:
    """What a process has read from files so far."""
    return int(Path(f"/proc/{process}/io").read_text().split()[1])


def test_two_hundred_megabytes_are_counted_by_four_children_and_only_the_paths_travel(
    farm: Cluster, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = sorted(str(path) for path in logs.iterdir())
    size = sum(Path(path).stat().st_size for path in paths)
    assert size > 200_000_000
    children = [child for worker in farm.workers for child in worker.children()]
    idle = [bytes_read(child) for child in children]
    with farm.client() as q:
        until(lambda: len(q.workers()) == len(farm.workers), "both workers are there")
        before, began = q.status().store_bytes, time.monotonic()
        handles = q.submit_many("count_lines", [(path,) for path in paths])
        counts = {path: handle.result(PATIENCE) for path, handle in zip(paths, handles, strict=True)}
        seconds, grown = time.monotonic() - began, q.status().store_bytes - before
    assert counts == counted_by_wc(paths)
    read = [bytes_read(child) - at_first for child, at_first in zip(children, idle, strict=True)]
    assert sum(read) >= size
    assert len(read) == 4 and min(read) > FILE_BYTES, "all four children took part"
    assert grown < 100 * len(paths) + 64 * 1024, "as many bytes as the paths have, and some pages of the database"
    with capsys.disabled():
        print(
            f"\n{size / 1e6:.0f} MB in {len(paths)} files, 4 children ({', '.join(f'{n / 1e6:.0f}' for n in read)} MB),"
            f" {seconds:.1f} s, store grew by {grown / 1024:.0f} KiB"
        )


def test_content_of_files_is_refused_as_a_payload_and_the_refusal_says_to_send_a_path(farm: Cluster) -> None:
    with farm.client() as q:
        with pytest.raises(qdistd.TooLarge, match=r"100,024 bytes.* takes 65,536: .*send its path"):
            q.submit("count_lines", "x" * 100_000)
        assert q.queues() == []


def test_the_command_line_refuses_content_with_the_same_words(farm: Cluster) -> None:
    refused = Shell(farm)("submit", "count_lines", "x" * 100_000)
    assert refused.code == Exit.FAILED
    assert re.search(r"100,024 bytes.* takes 65,536: .*send its path", refused.err)


@pytest.mark.parametrize("size", [65_540, 100_000, 10_000_000])
def test_a_plain_client_is_refused_content_and_told_to_send_a_path(farm: Cluster, size: int) -> None:
    key = Key(read_key(farm.keys["submit"]), frozenset())
    tasks = stock_manager(Address.parse(farm.address), key).get_task_queue()  # type: ignore[attr-defined] # made by register
    with pytest.raises(RemoteError, match="send its path"):
        tasks.put("x" * size)


def test_a_file_that_is_not_there_fails_its_task_by_name(farm: Cluster, logs: Path) -> None:
    with farm.client() as q, pytest.raises(qdistd.TaskFailed, match=r"FileNotFoundError: .*gone\.log"):
        q.submit("count_lines", str(logs / "gone.log")).result(PATIENCE)
