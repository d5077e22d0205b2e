"""What no task should be able to do: each of these must fail."""

import ctypes
import os
import socket
import tempfile
import time
from pathlib import Path

from .tools import called, libc

CLONE_NEWUSER = 0x10000000


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
