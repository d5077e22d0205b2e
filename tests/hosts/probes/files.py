"""Probes of files: temporary ones, own ones, locks, archives, databases."""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path

from .tools import called, libc


def temporary_file() -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x")
        file.flush()
        assert Path(file.name).read_bytes() == b"x"


def temporary_folder_in_var_tmp() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder, "x").write_text("x")


def file_in_the_working_directory() -> None:
    Path("probe").write_text("x")
    Path("probe").unlink()


def file_in_dev_shm() -> None:
    Path("/dev/shm/probe").write_text("x")
    Path("/dev/shm/probe").unlink()


def read_etc() -> None:
    assert Path("/etc/os-release").read_text()


def read_usr_share() -> None:
    assert os.listdir("/usr/share")


def fifo_and_symlink() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(f"{folder}/fifo")
        os.symlink("fifo", f"{folder}/link")
        assert stat.S_ISFIFO(os.stat(f"{folder}/link").st_mode)


def file_locks() -> None:
    with tempfile.TemporaryFile() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)


def extended_attributes() -> None:
    with tempfile.NamedTemporaryFile() as file, contextlib.suppress(OSError):
        os.getxattr(file.name, "user.none")


def sparse_and_sendfile() -> None:
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as other:
        os.posix_fallocate(one.fileno(), 0, 65536)
        assert os.sendfile(other.fileno(), one.fileno(), 0, 65536) == 65536


def chmod_and_utime() -> None:
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o640)
        os.utime(file.name, (0, 0))


def archive_and_copy() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "in").mkdir()
        shutil.copy("/etc/os-release", f"{folder}/in/")
        shutil.make_archive(f"{folder}/out", "gztar", f"{folder}/in")


def sqlite_in_wal_mode() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(sqlite3.connect(f"{folder}/x.db")) as db:
        assert db.execute("pragma journal_mode=wal").fetchone() == ("wal",)
        db.execute("create table t (a)")


def disk_usage() -> None:
    assert shutil.disk_usage("/").total


def inotify() -> None:
    descriptor = called(libc.inotify_init())
    called(libc.inotify_add_watch(descriptor, b"/tmp", 0x100))
    os.close(descriptor)
