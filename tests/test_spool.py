"""The spool on a real disk: what it promised to keep is there for the next process, whatever became of the last one."""

import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qdistd.errors import ConfigError
from qdistd.model import Grant, Outcome, Settlement
from qdistd.worker.spool import Spool

LOG = logging.getLogger("test.spool")


def settlement(number: int, attempt: int = 1, value: bytes = b"value") -> Settlement:
    return Settlement(bytes([number]) * 16, attempt, Outcome.SUCCEEDED, value, 1.5, 0.25, 0.2, 4096, b"t" * 16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.db"


def test_a_result_is_there_for_the_next_owner_with_every_field(path: Path) -> None:
    first = Spool(path, LOG)
    assert first.save([settlement(2), settlement(1)])
    first.close()
    assert Spool(path, LOG).unsent() == [settlement(1), settlement(2)]


def test_a_result_survives_the_kill_of_its_process(path: Path) -> None:
    script = (
        "import logging, os, sys\n"
        "from pathlib import Path\n"
        "from qdistd.model import Outcome, Settlement\n"
        "from qdistd.worker.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]), logging.getLogger())\n"
        "spool.save([Settlement(bytes(16), 3, Outcome.FAILED, b'why', token=bytes(16))])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -signal.SIGKILL
    assert Spool(path, LOG).unsent() == [Settlement(bytes(16), 3, Outcome.FAILED, b"why", token=bytes(16))]


def test_two_attempts_of_one_task_are_two_entries_and_one_attempt_is_one(path: Path) -> None:
    spool = Spool(path, LOG)
    spool.save([settlement(1, 1), settlement(1, 2), settlement(1, 2, b"again")])
    assert spool.unsent() == [settlement(1, 1), settlement(1, 2, b"again")]


def test_what_the_master_has_is_forgotten_and_nothing_else(path: Path) -> None:
    spool = Spool(path, LOG)
    spool.save([settlement(1), settlement(2), settlement(3)])
    assert spool.forget([settlement(1), settlement(3), settlement(9)])
    assert spool.unsent() == [settlement(2)]


def test_a_taken_task_stays_until_it_is_dropped(path: Path) -> None:
    spool = Spool(path, LOG)
    grants = [Grant(bytes([number]) * 16, 1, "square", b"payload") for number in (1, 2)]
    for grant in grants:
        assert spool.take(grant)
    assert spool.taken() == grants
    spool.drop([grants[0].id])
    spool.close()
    assert Spool(path, LOG).taken() == grants[1:]


def test_what_was_written_is_on_the_disk_and_not_in_a_cache(path: Path) -> None:
    (level,) = Spool(path, LOG)._db.execute("PRAGMA synchronous").fetchone()
    assert level == 2  # FULL: an fsync for every transaction


def test_nobody_else_may_read_it(path: Path) -> None:
    Spool(path, LOG)
    for file in (path, path.with_name("spool.db-wal")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("garbage", [b"no database at all " * 400, b"SQLite format 3\0" + bytes(4000)])
def test_a_damaged_file_is_set_aside_with_an_error_and_a_fresh_one_begun(
    path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(garbage)
        spool = Spool(path, LOG)
        assert spool.unsent() == []
        assert spool.save([settlement(1)])
        spool.close()
        assert path.with_name(f"spool.db.damaged-{number}").read_bytes() == garbage
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "damaged-1" in caplog.records[0].getMessage()


def test_a_file_of_a_newer_version_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Spool(path, LOG).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert Spool(path, LOG).unsent() == []
    assert "its version is 99" in caplog.text


def test_a_changed_bit_costs_the_entry_it_hit_and_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(path, LOG)
    spool.save([settlement(1), settlement(2, value=b"a value that is found")])
    spool.close()
    data = path.read_bytes()
    assert data.count(b"that is found") == 1
    path.write_bytes(data.replace(b"that is found", b"that is fount"))
    assert Spool(path, LOG).unsent() == [settlement(1)]
    assert "1 damaged entries" in caplog.text


def test_two_workers_cannot_share_a_spool(path: Path) -> None:
    first = Spool(path, LOG)
    with pytest.raises(ConfigError, match="in use by another worker"):
        Spool(path, LOG, patience=0.01)
    assert first.save([settlement(1)])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="expected a folder"):
        Spool(tmp_path / "file" / "spool.db", LOG)


def test_a_full_disk_is_told_once_and_a_later_write_succeeds(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(path, LOG)
    # SQLite's own limit stands for the disk's: both fail the write with SQLITE_FULL
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count = {pages}")
    huge = settlement(1, value=os.urandom(100_000))
    assert not spool.save([huge])
    assert not spool.save([huge])
    assert len(caplog.records) == 1
    spool._db.execute("PRAGMA max_page_count = 1000000")
    assert spool.save([huge])
    assert spool.unsent() == [huge]
