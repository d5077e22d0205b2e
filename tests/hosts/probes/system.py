"""Probes of memory, and of what the system tells: shared and executable memory, /proc, /sys, the own cgroup."""

import ctypes
import glob
import mmap
import os
import socket
import time
from multiprocessing import shared_memory
from pathlib import Path

from .tools import called, libc

RETURN_42 = b"\xb8\x2a\x00\x00\x00\xc3" if os.uname().machine == "x86_64" else b"\x40\x05\x80\x52\xc0\x03\x5f\xd6"
"""Machine code of a function that returns 42."""


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
