"""Tasks for the tests of a task's life: they ask who they are, tell how far they are, and end in many ways.

See `task_samples` for `news` and `gate`.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from task_samples import hold, tell

import qdistd

kept: list[bytes] = []


def who() -> dict[str, object]:
    me = qdistd.current()
    return {name: getattr(me, name) for name in ("id", "attempt", "name", "queue", "deadline", "cancelled")}


def who_in_a_thread() -> str:
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(qdistd.current().id))
    thread.start()
    thread.join()
    return seen[0]


def give_back(*args: object) -> list[object]:
    return list(args)


def retry(after: float | None = None, message: str = "") -> None:
    raise qdistd.Retry(after, message)


class OwnRetry(qdistd.Retry):
    def __init__(self) -> None:
        self.after = "soon"  # type: ignore[assignment] # a mistake that people make


def retry_badly() -> None:
    raise OwnRetry


def reject(why: str) -> None:
    raise qdistd.Reject(why)


def outlast(news: str, gate: str) -> None:
    hold(news, "begun", gate)


def outlast_politely(news: str, gate: str) -> str:
    try:
        hold(news, "begun", gate)
    except qdistd.SoftTimeout as late:
        return str(late)
    return "in time"


def outlast_all(news: str, gate: str) -> None:
    with contextlib.suppress(qdistd.SoftTimeout):
        hold(news, "begun", gate)
    hold(news, "warned", gate)


def alarms() -> tuple[bool, float]:
    """Whether SIGALRM is as it was, and what is left of a timer."""
    return signal.getsignal(signal.SIGALRM) is signal.SIG_DFL, signal.getitimer(signal.ITIMER_REAL)[0]


def tidy_up(news: str, gate: str) -> None:
    me = qdistd.current()
    try:
        hold(news, f"begun {me.cancelled}", gate)
    finally:
        tell(news, f"tidied {me.cancelled}")


def tidy_up_in_vain(news: str, gate: str) -> None:
    try:
        hold(news, "begun", gate)
    finally:
        raise RuntimeError("tidying up has failed, too")


def finish_all_the_same(news: str, gate: str) -> str:
    with contextlib.suppress(qdistd.Cancelled):
        hold(news, "begun", gate)
    return "done"


def ignore_all(news: str, gate: str) -> None:
    while True:
        with contextlib.suppress(BaseException):
            hold(news, "begun", gate)


def watch_from_a_thread(news: str) -> str:
    """Another thread finds out that this is to end, or has ended."""
    me = qdistd.current()

    def watch() -> None:
        while not me.cancelled:
            time.sleep(0.01)
        tell(news, "seen")

    thread = threading.Thread(target=watch)
    thread.start()
    tell(news, "begun")
    thread.join()
    return "left"


def run_a_program(news: str) -> None:
    """A program that SIGTERM does not end."""
    script = "trap '' TERM; echo on; while :; do sleep 1000; done"
    program = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert program.stdout
    program.stdout.readline()
    tell(news, str(program.pid))
    signal.pause()


def raise_cancelled() -> None:
    raise qdistd.Cancelled("says the task itself")


def replace_the_handler() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(0.01)


def kill_a_copy() -> int:
    """How a forked copy of this process ends by SIGTERM."""
    copy = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    copy.start()
    copy.terminate()
    copy.join(10)
    return copy.exitcode or 0


def advance(news: str, gate: str, steps: int) -> None:
    for step in range(steps):
        qdistd.progress(step, steps, f"step {step}")
    hold(news, "advanced", gate)


def advance_quickly(steps: int) -> float:
    """Microseconds of each step."""
    begin = time.perf_counter()
    for step in range(steps):
        qdistd.progress(step, steps)
    return (time.perf_counter() - begin) / steps * 1e6


def advance_and_end() -> None:
    time.sleep(0.01)
    qdistd.progress(7, 7, "all")


def stream(count: int, news: str = "", gate: str = "") -> int:
    for number in range(count):
        qdistd.partial({"number": number})
    if gate:
        hold(news, "streamed", gate)
    return count


def stream_large() -> None:
    qdistd.partial(b"x" * 100_000)


def stream_what_is_not_plain() -> None:
    qdistd.partial(object())


def stream_from_a_copy() -> bytes:
    """What a forked copy hears when it tries."""
    reader, writer = os.pipe()
    if not os.fork():
        try:
            qdistd.partial(1)
        except qdistd.Refused as refused:
            os.write(writer, str(refused).encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    return os.read(reader, 1000)


def keep(size: int) -> int:
    """Leaks."""
    kept.append(os.urandom(1) * size)
    return os.getpid()


def say_and_leave(news: str) -> None:
    qdistd.progress(1, 2, "half")
    qdistd.partial("the last words")
    tell(news, "said")
    os._exit(3)


def eat(size: int) -> int:
    return len(bytearray(size))


def spin(news: str) -> None:
    tell(news, "begun")
    while True:
        pass


def argv() -> list[str]:
    return [*sys.argv, str(Path.cwd())]


def nothing_but_the_pid(number: int) -> int:
    return os.getpid()
