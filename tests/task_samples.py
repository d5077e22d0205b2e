"""Tasks for the tests of the pool: good ones, bad ones, and ones that wait for the test to go on.

A task tells the test that it runs by writing a line into the fifo `news`, and goes on when the fifo `gate` ends.
"""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from os import system  # noqa: F401 - what is merely imported must not be exposed
from pathlib import Path

import qdistd

calls = 0


class Named:
    """What the decorator of the client makes: it calls the function, and may have a name of its own."""

    def __init__(self, name: str) -> None:
        self.__qdist_task__ = name

    def __call__(self, word: str) -> str:
        return word.upper()


class Proxy:
    """As those of a web framework outside of a request."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError("working outside of an application")


current_app = Proxy()
shout = Named("")
cry = Named("loud/cry")
CONSTANT = 7


def add(a: int, b: int = 0) -> int:
    return a + b


def _private() -> None:
    """Not for others."""


def echo(value: object) -> object:
    return value


def join(*words: str) -> str:
    return "".join(words)


def find_share(name: str) -> str:
    """In another thread, as a library may do it."""
    with ThreadPoolExecutor() as pool:
        return str(pool.submit(qdistd.share, name).result())


def tell(news: str, word: str) -> None:
    with Path(news).open("w") as fifo:
        fifo.write(f"{word}\n")


def hold(news: str, word: str, gate: str) -> str:
    tell(news, word)
    Path(gate).read_bytes()
    return word


def hold_and_tell_pid(news: str, gate: str) -> None:
    hold(news, str(os.getpid()), gate)


def hold_in_c(news: str, word: str, text: str = "a" * 64 + "b") -> None:
    """Never lets go of the interpreter again."""
    tell(news, word)
    re.match(r"(a+)+$", text)


def hold_against_sigterm(news: str, word: str, gate: str) -> str:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return hold(news, word, gate)


def hold_after_closing_everything(news: str, word: str, gate: str) -> None:
    os.closerange(0, 1000)
    hold(news, word, gate)


def hold_with_grandchild(news: str, gate: str) -> None:
    grandchild = subprocess.Popen(["sleep", "1000"])
    hold(news, str(grandchild.pid), gate)


def leave_grandchild() -> int:
    return subprocess.Popen(["sleep", "1000"]).pid


def leave_daemons(count: int) -> list[int]:
    """Processes of no family: each in a session of its own, and its parent is dead."""
    daemon = "echo $$; exec sleep 1000 >/dev/null"
    script = f"for _ in $(seq {count}); do setsid sh -c '{daemon}' & done"
    started = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    return [int(pid) for pid in started.stdout.split()]


def hold_with_daemons(news: str, count: int, gate: str) -> None:
    hold(news, ",".join(map(str, leave_daemons(count))), gate)


def home() -> str:
    """The cgroup of the child."""
    return Path("/proc/self/cgroup").read_text().partition("0::")[2].rstrip()


home_at_birth = home()


def where_it_was_born() -> str:
    return home_at_birth


def pid() -> int:
    return os.getpid()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def stop_oneself(news: str, word: str) -> None:
    tell(news, word)
    os.kill(os.getpid(), signal.SIGSTOP)


def segfault() -> None:
    ctypes.string_at(0)


def leave(status: int) -> None:
    os._exit(status)


def kill_oneself(number: int) -> None:
    os.kill(os.getpid(), number)


def close_everything() -> None:
    os.closerange(0, 1000)


def fork_and_return() -> int:
    os.fork()
    return 7


def write_everywhere() -> None:
    for descriptor in range(3, 300):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"x" * 4096)


def scribble(data: bytes, news: str) -> None:
    for descriptor in range(3, 300):
        with contextlib.suppress(OSError):
            os.write(descriptor, data)
    tell(news, "scribbled")


def print_much(lines: int, word: str) -> int:
    for _ in range(lines):
        print(word * 1000)
    return lines


def take_memory(size: int) -> int:
    return len(bytearray(size))


def give_lambda() -> object:
    return lambda: 0


def give_bytes(size: int) -> bytes:
    return b"x" * size


def burn(seconds: float) -> None:
    """Processor time, in a process of its own."""
    subprocess.run([sys.executable, "-c", f"import time\nwhile time.process_time() < {seconds}: pass"], check=True)


def burn_apart(folder: str, seconds: float) -> None:
    """The same in one that has left us; we wait, but not as its parent."""
    done = f"{folder}/done"
    os.mkfifo(done)
    code = f"import time\nwhile time.process_time() < {seconds}: pass\nopen('{done}', 'w').close()"
    subprocess.run(["sh", "-c", 'setsid "$@" &', "sh", sys.executable, "-c", code], check=True)
    Path(done).read_bytes()


def exit_politely() -> None:
    sys.exit("good bye")


def interrupt() -> None:
    raise KeyboardInterrupt


def recurse() -> None:
    recurse()


def raise_much() -> None:
    raise ValueError("long " * 100_000)


class RudeError(Exception):
    def __str__(self) -> str:
        raise SystemExit


def raise_rude() -> None:
    raise RudeError


def raise_chain() -> None:
    try:
        add("a", 1)  # type: ignore[arg-type]  # this is what goes wrong
    except TypeError as error:
        raise RuntimeError("could not add") from error


def surroundings() -> dict[str, object]:
    """What the child has got from the worker."""
    descriptors = [path for path in Path("/proc/self/fd").iterdir() if path.exists()]
    return {
        "environment": dict(os.environ),
        "descriptors": sorted(str(path.readlink()).split(":")[0] for path in descriptors if int(path.name) > 2),
        "inherited": [path.name for path in descriptors if os.get_inheritable(int(path.name))],
        "session": os.getsid(0) == os.getpgrp() == os.getpid(),
        "stdin": sys.stdin.read(),
        "arguments": sys.argv,
        "modules": [name for name in ("asyncio", "socket", "ssl") if name in sys.modules],
    }


def find_in_memory(half: str, other_half: str) -> bool:
    """Whether a secret, told in two halves, stands anywhere in the memory of this process."""
    wanted = re.compile(f"{half}(?={other_half})".encode())
    found = False
    with Path("/proc/self/maps").open() as maps, Path("/proc/self/mem").open("rb", 0) as memory:
        for line in maps:
            area, mode = line.split()[:2]
            start, end = (int(number, 16) for number in area.split("-"))
            if mode[0] == "r" and "[v" not in line:
                memory.seek(start)
                found = found or bool(wanted.search(memory.read(end - start)))
    return found


def find_secret(secret: str, half: str, other_half: str) -> bool:
    """The same, where it does."""
    return find_in_memory(half, other_half)
