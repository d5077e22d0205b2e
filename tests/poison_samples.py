"""Tasks that do what no task should, each in one way. See `test_poison.py` for what has to come of them.

`poison_values` gives and raises what cannot be sent, `poison_changes` changes something for the tasks that come after.
"""

import ctypes
import fcntl
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import qdistd

FOREVER = 1000.0

# -- ends of the process


def segfault() -> None:
    print("about to read address 0")
    ctypes.string_at(0)


def leave(status: int) -> None:
    os.write(1, b"about to leave\n")
    os._exit(status)


def leave_from_a_thread() -> None:
    threading.Thread(target=os._exit, args=(4,)).start()
    time.sleep(FOREVER)


def abort() -> None:
    os.abort()


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_ones_group() -> None:
    os.killpg(0, signal.SIGKILL)


def burn_out() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
    while True:
        pass


def become_a_daemon() -> None:
    """As the books say: fork, and the parent leaves."""
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(FOREVER)


def become_another_program() -> None:
    os.execv("/bin/sleep", ["sleep", str(FOREVER)])


def close_everything() -> None:
    os.closerange(0, 1000)


def close_everything_and_open(path: str) -> None:
    """Whoever writes where a pipe was writes into this file."""
    os.closerange(3, 1000)
    for _ in range(30):
        os.open(path, os.O_RDWR | os.O_CREAT)


def write_everywhere() -> None:
    for descriptor in range(3, 1000):
        try:
            os.write(descriptor, b"x" * 4096)
        except OSError:
            continue


def leave_a_flood() -> None:
    """A copy that nobody finds, and that writes into our pipes as long as somebody reads."""
    if os.fork():
        time.sleep(FOREVER)
    os.setsid()
    ours = [descriptor for descriptor in range(3, 1000) if _written(descriptor)]
    while any(_written(descriptor) for descriptor in ours):
        pass
    os._exit(0)


def _written(descriptor: int) -> bool:
    try:
        return os.write(descriptor, b"x" * (1 << 16)) > 0
    except OSError:
        return False


def write_into_what_it_reads() -> None:
    """Tickets that nobody has given, and halves of them."""
    for descriptor in range(3, 1000):
        try:
            if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                os.write(os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK), b"x" * 1001)
        except OSError:
            continue
    time.sleep(FOREVER)


def truncate_everything() -> str:
    for descriptor in range(3, 1000):
        try:
            os.ftruncate(descriptor, 0)
        except OSError:
            continue
    qdistd.progress(1, 2, "still here")
    time.sleep(3.0)  # somebody looks how far it is
    return "well"


def take_the_builtins_away() -> None:
    vars(sys.modules["builtins"]).clear()


# -- no end at all


def hang() -> None:
    print("about to hang")
    time.sleep(FOREVER)


def spin() -> None:
    print("about to spin")
    while True:
        pass


def spin_in_c() -> None:
    """Never lets go of the interpreter."""
    print("about to spin in C")
    re.match(r"(a+)+$", "a" * 64 + "b")


def ignore_every_signal() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    print("about to hear nothing")
    time.sleep(FOREVER)


def block_every_signal() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    print("about to hear nothing")
    time.sleep(FOREVER)


def have_everything_block() -> None:
    """Whoever shares an open file with us waits from now on."""
    for descriptor in range(3, 1000):
        try:
            os.set_blocking(descriptor, True)
        except OSError:
            continue
    print("about to wait")
    time.sleep(FOREVER)


def swallow_everything() -> None:
    print("about to swallow")
    while True:
        try:
            time.sleep(FOREVER)
        except BaseException as error:  # noqa: BLE001 - that is the poison
            print(type(error).__name__)


def stop_oneself() -> None:
    print("about to stop")
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_everything() -> None:
    subprocess.Popen(["sleep", str(FOREVER)])
    os.killpg(0, signal.SIGSTOP)


def bomb() -> None:
    """Every copy makes copies of itself, until there can be no more: then each waits, and tries again."""
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.1)


def bomb_and_return() -> int:
    """The same, with an original that gets away."""
    if os.fork():
        time.sleep(1.0)
        return 7
    bomb()
    return 0


def start_threads_for_ever() -> None:
    for _ in itertools.count():
        threading.Thread(target=time.sleep, args=(FOREVER,), daemon=True).start()


# -- too much


def take_at_once(size: int) -> int:
    return len(bytearray(size))


def take_bit_by_bit(size: int) -> int:
    """Touches all of it."""
    step = 16 << 20
    return sum(map(len, [b"x" * step for _ in range(size // step)]))


def print_much(size: int) -> int:
    line = "x" * 4095 + "\n"
    for _ in range(size // len(line)):
        sys.stdout.write(line)
    print("that was all")
    return size


def print_one_line(size: int) -> int:
    print("x" * size)
    return size


def pour_out(size: int) -> int:
    """By descriptor, as a program that was started does."""
    data = b"x" * (1 << 20)
    for _ in range(size // len(data)):
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
    os.write(1, b"\nthat was all\n")
    return size


def leave_somebody_who_prints() -> None:
    """Nobody reads, nobody ends it."""
    subprocess.Popen(["yes", "still here"], start_new_session=True)


def give_much(size: int) -> bytes:
    return b"x" * size


def give_many(count: int) -> list[int]:
    return list(range(count))


# -- what a task leaves


def leave_a_grandchild() -> int:
    return subprocess.Popen(["sleep", str(FOREVER)]).pid


def leave_a_session() -> int:
    """A process of no family: in a session of its own, and its parent is dead."""
    script = f"setsid sh -c 'echo $$; exec sleep {FOREVER} >/dev/null 2>&1' & wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout
        pid = int(shell.stdout.readline())
        shell.kill()
    return pid


def leave_a_session_and_hang(path: str) -> None:
    Path(path).write_text(str(leave_a_session()))
    time.sleep(FOREVER)


def leave_a_zombie() -> None:
    if not os.fork():
        os._exit(0)


def return_twice() -> int:
    os.fork()
    return 7


# -- others


def pid() -> int:
    return os.getpid()


def echo(value: Any) -> Any:
    return value


def signal_the_worker(number: int) -> str:
    """What came of it."""
    try:
        os.kill(os.getppid(), number)
    except PermissionError:
        return "refused"
    return "sent"


def read_the_worker() -> str:
    """Whether the memory of the worker, with its keys, can be read."""
    try:
        Path(f"/proc/{os.getppid()}/mem").open("rb").close()
    except PermissionError:
        return "refused"
    return "open"
