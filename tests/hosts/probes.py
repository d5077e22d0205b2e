"""What a task may want to do: each probe does it, or raises. Copied to a host, and run as tasks in a worker there.

A function whose name starts with `no_` does what no task should be able to.
"""

# The probes are written as people write tasks.
# ruff: noqa: PTH101, PTH116, PTH207, PTH208, PTH211, BLE001, SIM115

import contextlib
import ctypes
import fcntl
import glob
import mmap
import multiprocessing
import os
import pty
import resource
import select
import shutil
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import shared_memory
from pathlib import Path

import qdistd

libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWUSER = 0x10000000
RETURN_42 = b"\xb8\x2a\x00\x00\x00\xc3" if os.uname().machine == "x86_64" else b"\x40\x05\x80\x52\xc0\x03\x5f\xd6"
"""Machine code of a function that returns 42."""


@qdistd.task
def probe(name: str) -> str:
    """Run one probe; "" if it works, else what it raised."""
    try:
        PROBES[name]()
    except Exception as error:  # whatever it is, it is the answer
        return f"{type(error).__name__}: {error}"
    return ""


@qdistd.task
def names() -> list[str]:
    """All probes, in order."""
    return list(PROBES)


@qdistd.task
def wait_for(path: str) -> str:
    """What somebody writes into this FIFO, once somebody does."""
    return Path(path).read_text()


def called(result: int) -> int:
    """The result of a function of libc; OSError for -1."""
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


def double(number: int) -> int:
    return 2 * number


# -- files


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


# -- processes


def subprocess_run() -> None:
    assert run("/bin/echo", "x") == "x\n"


def shell_pipeline() -> None:
    assert run("sh", "-c", "seq 3 | wc -l").strip() == "3"


def python_subprocess() -> None:
    assert run(sys.executable, "-c", "print(1)") == "1\n"


def execute_a_script_of_its_own() -> None:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script")
        script.write_text("#!/bin/sh\necho x\n")
        script.chmod(0o700)
        assert run(str(script)) == "x\n"


def fork_and_wait() -> None:
    child = os.fork()
    if not child:
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def posix_spawn() -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


def _pool(method: str) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert pool.submit(abs, -2).result(20) == 2


def multiprocessing_fork() -> None:
    _pool("fork")


def multiprocessing_spawn() -> None:
    _pool("spawn")


def multiprocessing_forkserver() -> None:
    _pool("forkserver")


def multiprocessing_manager() -> None:
    with multiprocessing.Manager() as manager:
        assert manager.list([1])[0] == 1


def multiprocessing_lock() -> None:
    with multiprocessing.Lock():
        pass


def threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(double, range(8))) == list(range(0, 16, 2))


def session_and_process_group() -> None:
    subprocess.run(["/bin/true"], start_new_session=True, check=True, timeout=20)


def signals_and_timers() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM


def pidfd() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        descriptor = os.pidfd_open(process.pid)
        assert select.select([descriptor], [], [], 20)[0]
        os.close(descriptor)


def pseudo_terminal() -> None:
    master, slave = pty.openpty()
    os.write(slave, b"x")
    assert os.read(master, 1) == b"x"
    os.close(master)
    os.close(slave)


def nice() -> None:
    os.nice(1)


def cpu_affinity() -> None:
    os.sched_setaffinity(0, os.sched_getaffinity(0))


def batch_scheduling() -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def resource_limits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resource_usage() -> None:
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# -- memory


def shared_memory_block() -> None:
    block = shared_memory.SharedMemory(create=True, size=4096)
    block.buf[0] = 1
    block.close()
    block.unlink()


def system_v_shared_memory() -> None:
    number = called(libc.shmget(0, 4096, 0o1600))
    called(libc.shmctl(number, 0, None))


def anonymous_mapping() -> None:
    with mmap.mmap(-1, 1 << 24) as memory:
        memory[0] = 1


def memfd() -> None:
    os.close(os.memfd_create("probe"))


def memory_that_is_written_and_executed() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as memory:
        memory.write(RETURN_42)
        place = ctypes.c_char.from_buffer(memory)
        answer = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(place))()
        del place
    assert answer == 42


def ctypes_callback() -> None:
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    numbers = (ctypes.c_int * 3)(3, 1, 2)
    libc.qsort(numbers, 3, 4, kind(lambda a, b: a[0] - b[0]))
    assert list(numbers) == [1, 2, 3]


def locked_memory() -> None:
    block = ctypes.create_string_buffer(4096)
    called(libc.mlock(block, 4096))
    called(libc.munlock(block, 4096))


# -- the system


def proc_meminfo() -> None:
    assert "MemTotal" in Path("/proc/meminfo").read_text()


def proc_cpuinfo() -> None:
    assert Path("/proc/cpuinfo").read_text()


def proc_self() -> None:
    assert os.listdir("/proc/self/fd") and Path("/proc/self/status").read_text()


def load_and_cpu_count() -> None:
    assert os.cpu_count() and os.getloadavg()


def sys_folder() -> None:
    assert glob.glob("/sys/devices/system/cpu/cpu*")


def clock_and_random() -> None:
    assert time.clock_gettime(time.CLOCK_BOOTTIME) and os.getrandom(8)


def name_of_the_user() -> None:
    import pwd

    assert pwd.getpwuid(os.getuid()).pw_name == "qdist-worker"


def name_of_the_host() -> None:
    assert socket.gethostname() == os.uname().nodename


def own_cgroup() -> None:
    place = Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
    below = Path("/sys/fs/cgroup", place, "probe")
    below.mkdir()
    below.rmdir()


def journal() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"MESSAGE=a probe\n", "/run/systemd/journal/socket")


def devices_null_and_urandom() -> None:
    assert len(Path("/dev/urandom").open("rb").read(8)) == 8
    Path("/dev/null").write_text("x")


# -- network


def _echo(family: int, address: object) -> None:
    with socket.socket(family) as server:
        server.bind(address)  # type: ignore[arg-type]
        server.listen()
        with socket.socket(family) as client:
            client.settimeout(10)
            client.connect(server.getsockname())
            with server.accept()[0] as peer:
                peer.sendall(b"x")
            assert client.recv(1) == b"x"


def tcp_on_ipv4() -> None:
    _echo(socket.AF_INET, ("127.0.0.1", 0))


def tcp_on_ipv6() -> None:
    _echo(socket.AF_INET6, ("::1", 0))


def unix_socket() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _echo(socket.AF_UNIX, f"{folder}/socket")


def abstract_unix_socket() -> None:
    _echo(socket.AF_UNIX, f"\0probe-{os.getpid()}-{threading.get_ident()}")


def udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.sendto(b"x", one.getsockname())
        assert one.recv(1) == b"x"


def names_of_interfaces() -> None:
    assert socket.if_nameindex()


def addresses_of_names() -> None:
    assert socket.getaddrinfo("localhost", 80)


def tls_context() -> None:
    assert ssl.create_default_context()


def socketpair_and_epoll() -> None:
    one, other = socket.socketpair()
    with one, other, select.epoll() as poll:
        poll.register(other, select.EPOLLIN)
        one.send(b"x")
        assert poll.poll(10)


# -- what no task should be able to


def no_write_to_etc() -> None:
    Path("/etc/probe").write_text("x")


def no_look_at_the_masters_state() -> None:
    os.listdir("/var/lib/qdist")


def no_look_at_the_keys() -> None:
    os.listdir("/etc/qdist/keys")


def no_look_at_homes() -> None:
    os.listdir("/home")


def no_look_at_processes_of_others() -> None:
    os.stat("/proc/1/status")


def no_namespaces() -> None:
    called(libc.unshare(CLONE_NEWUSER))


def no_other_user() -> None:
    os.setuid(0)


def no_file_with_the_rights_of_its_owner() -> None:
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o4755)


def no_kernel_log() -> None:
    called(libc.klogctl(3, ctypes.create_string_buffer(64), 64))


def no_raw_socket() -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


def no_mount() -> None:
    called(libc.mount(b"none", b"/mnt", b"tmpfs", 0, None))


def no_clock() -> None:
    time.clock_settime(time.CLOCK_REALTIME, time.time())


PROBES: dict[str, Callable[[], None]] = {
    name: value
    for name, value in list(globals().items())
    if callable(value)
    and getattr(value, "__module__", None) == __name__
    and not name.startswith("_")
    and name not in ("probe", "names", "wait_for", "called", "run", "double")
}
