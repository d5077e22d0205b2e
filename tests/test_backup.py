"""A backup of a master that serves: whole and checked, or not there at all, and nothing is left behind."""

import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from conftest import NewCluster
from daemons import DEADLINE
from patience import until
from shell import COMMAND, Shell
from workloads import Squares

from qdistd import errors
from qdistd.client.backup import fetch
from qdistd.store import open_store
from qdistd.store.backup import SUFFIX, FileCopy
from qdistd.store.checking import check
from qdistd.upkeep import Backup, Piece

BALLAST = 300
"""Tasks of 60 KB: a copy of them takes long enough to be met in its middle."""


@pytest.fixture
def cluster(new_cluster: NewCluster) -> Cluster:
    """One that has something to copy."""
    cluster = new_cluster(workers=0)
    with cluster.client() as q:
        q.options(queue="nobody").submit_many("square", [("x" * 60_000,) for _ in range(BALLAST)])
    return cluster


@pytest.fixture
def shell(cluster: Cluster) -> Shell:
    return Shell(cluster, "admin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the backup goes."""
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder


def beside_the_store(cluster: Cluster) -> list[str]:
    return [path.name for path in cluster.folder.iterdir() if SUFFIX in path.name]


def open_deleted_files(cluster: Cluster) -> list[str]:
    links = Path(f"/proc/{cluster.master.pid}/fd").iterdir()
    return [name for link in links if SUFFIX in (name := _target(link))]


def _target(link: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return str(link.readlink())
    return ""


def nothing_is_left(cluster: Cluster, folder: Path) -> bool:
    until(lambda: not open_deleted_files(cluster), "the master has let go of its copy")
    return beside_the_store(cluster) == [] and list(folder.iterdir()) == []


# -- what it is


def test_a_backup_is_the_whole_store_for_its_owner_alone(cluster: Cluster, shell: Shell, folder: Path) -> None:
    ran = shell("backup", folder / "b.db")
    assert ran.code == 0 and f"{BALLAST} tasks" in ran.out and "checked" in ran.out, ran
    assert stat.S_IMODE((folder / "b.db").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["b.db"]
    checked = check(folder / "b.db")
    assert (checked.tasks, checked.backup) == (BALLAST, True)
    assert beside_the_store(cluster) == [] and open_deleted_files(cluster) == []


def test_a_backup_under_load_has_all_that_was_acknowledged_before_it_began(
    new_cluster: NewCluster, folder: Path
) -> None:
    cluster = new_cluster()
    with cluster.client("admin") as q:
        before = q.options(queue="nobody").submit_many("square", [(n,) for n in range(3000)])
        q.flush()
        work = Squares(folder)
        work.begin(q)
        work.reach_middle()
        for number in range(3):
            q.backup(folder / f"{number}.db")
        work.let_go()
        work.finish()
    for number in range(3):
        copy = open_store(f"sqlite://{folder}/{number}.db")
        assert copy.results([handle.task_id for handle in before])[1] == []
        rows = dict(copy._db.execute("SELECT state, count(*) FROM task GROUP BY state"))  # type: ignore[attr-defined]
        counted: dict[int, int] = {}
        for states in copy.counts().values():
            for state, tasks in states.items():
                counted[state] = counted.get(state, 0) + tasks
        assert counted == rows, "a copy is of one moment, between two transactions"
        copy.close()


def test_a_backup_needs_an_admin(cluster: Cluster, folder: Path) -> None:
    ran = Shell(cluster)("backup", folder / "b.db")
    assert ran.code == 77 and "role admin" in ran.err and list(folder.iterdir()) == []


# -- what is there already


def test_a_file_that_is_there_is_replaced_only_by_force(shell: Shell, folder: Path) -> None:
    (folder / "b.db").write_text("mine")
    refused = shell("backup", folder / "b.db")
    assert refused.code == 1 and "is there already" in refused.err
    assert (folder / "b.db").read_text() == "mine"
    assert shell("backup", "--force", folder / "b.db").code == 0
    assert check(folder / "b.db").tasks == BALLAST
    a_folder = shell("backup", "--force", folder)
    assert a_folder.code == 1 and "is a folder" in a_folder.err


def test_a_folder_that_is_not_there_is_named(shell: Shell, folder: Path) -> None:
    ran = shell("backup", folder / "no/b.db")
    assert ran.code == 1 and str(folder / "no") in ran.err and "No such file" in ran.err


# -- two at a time


def test_a_second_backup_is_refused_while_one_is_made_and_welcome_after_that(
    cluster: Cluster, shell: Shell, folder: Path
) -> None:
    with cluster.client("admin") as first:
        first.ask(Backup())
        second = shell("backup", folder / "b.db")
        assert (second.code, second.out) == (75, "") and "another backup is under way" in second.err
    until(lambda: not open_deleted_files(cluster), "the copy has ended with its connection")
    assert shell("backup", folder / "b.db").code == 0


def test_a_piece_of_a_backup_that_was_never_begun_is_refused(cluster: Cluster) -> None:
    with cluster.client("admin") as q, pytest.raises(errors.Overloaded, match="begin anew"):
        q.ask(Backup(512), timeout=5)


# -- what goes wrong


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "qdist: interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_ctrl_c_and_a_stop_leave_nothing(
    cluster: Cluster, shell: Shell, folder: Path, number: signal.Signals, code: int, said: str
) -> None:
    process = shell.start("backup", folder / "b.db")
    until(lambda: "a backup begins" in cluster.master.log, "the backup has begun")
    process.send_signal(number)
    _, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (code, said)
    assert nothing_is_left(cluster, folder)


def test_a_master_that_is_killed_leaves_nothing_and_the_tool_says_so(
    cluster: Cluster, shell: Shell, folder: Path
) -> None:
    process = shell.start("--patience", "1s", "backup", folder / "b.db")
    until(lambda: "a backup begins" in cluster.master.log, "the backup has begun")
    cluster.master.kill()
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 75
    assert beside_the_store(cluster) == [] and list(folder.iterdir()) == []
    cluster.master.start()
    assert shell("backup", folder / "b.db").code == 0


def test_a_master_that_stops_waits_for_no_backup(cluster: Cluster, folder: Path) -> None:
    with cluster.client("admin") as q:
        q.ask(Backup())
        assert cluster.master.stop() == 0
        assert beside_the_store(cluster) == []
        cluster.master.start()


def test_a_file_that_may_not_grow_leaves_nothing(shell: Shell, cluster: Cluster, folder: Path) -> None:
    limit = ["prlimit", "--fsize=1048576", "--"]
    ran = subprocess.run(
        [*limit, *COMMAND, "backup", str(folder / "b.db")],
        env=shell.environ, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert ran.returncode == 1 and "File too large" in ran.stderr, ran
    assert nothing_is_left(cluster, folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_on_either_side_is_named_and_leaves_nothing(
    new_cluster: NewCluster, shell: Shell, cluster: Cluster, folder: Path
) -> None:
    with small_disk(folder, "4m"):
        ran = shell("backup", folder / "b.db")
        assert ran.code == 1 and "No space left" in ran.err, ran
        assert nothing_is_left(cluster, folder)
    other = new_cluster(workers=0)
    other.master.stop()
    with small_disk(other.folder / "small", "70m"):
        other.configure_master(master={"listen": [other.address], "store": f"sqlite://{other.folder}/small/qdist.db"})
        other.master.start()
        ran = Shell(other, "admin")("backup", folder / "b.db")
        assert ran.code == 75 and "MiB are free" in ran.err and str(other.folder / "small") in ran.err
        other.master.stop()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_copy_that_fills_the_disk_gives_way_to_the_store(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/qdist.db")
    with pytest.raises(errors.Overloaded, match="MiB are free"):
        FileCopy(store._db, f"{tmp_path}/qdist.db")._check_space(1 << 60)  # type: ignore[attr-defined]
    store.close()


def test_a_store_in_memory_has_no_backup() -> None:
    store = open_store("sqlite://:memory:")
    with pytest.raises(errors.Refused, match="in memory alone"):
        store.copy()


def test_what_a_dead_master_has_left_is_swept_away_at_the_next_start(tmp_path: Path) -> None:
    left = [tmp_path / f"qdist.db{SUFFIX}0123", tmp_path / ".qdist.db.0123.part"]
    others = [tmp_path / "qdist.db.replaced-1", tmp_path / ".other.db.0123.part"]
    for path in (*left, *others):
        path.write_bytes(b"half")
    open_store(f"sqlite://{tmp_path}/qdist.db").close()
    assert not any(path.exists() for path in left) and all(path.exists() for path in others)


# -- what came is checked


def damaged_pieces(content: bytes) -> Any:
    def ask(question: Backup) -> Piece:
        return Piece(len(content), len(content), True, content[question.at : question.at + 4096])

    return ask


def test_what_came_damaged_is_no_backup(tmp_path: Path, folder: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/qdist.db")
    store.close()
    whole = (tmp_path / "qdist.db").read_bytes()
    fetch(damaged_pieces(whole), folder / "whole.db", overwrite=False, told=lambda *_: None)
    (folder / "whole.db").unlink()
    for damaged in (whole[:8192], whole[:4096] + bytes(len(whole) - 4096), b"", b"no database" * 1000):
        with pytest.raises(errors.Refused):
            fetch(damaged_pieces(damaged), folder / "b.db", overwrite=False, told=lambda *_: None)
        assert list(folder.iterdir()) == []


def test_a_database_of_another_program_is_no_backup(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE theirs(x)")
    with pytest.raises(errors.Refused, match="no store of qdist"):
        check(tmp_path / "other.db")
