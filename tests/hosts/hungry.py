"""Tasks with an appetite, for workers on the hosts of the tests."""

import os
import subprocess
import sys
import time
from pathlib import Path

DAEMON = "echo $$; exec sleep 1000 >/dev/null"


def nibble(number: int) -> int:
    """Next to nothing."""
    return number * number


def eat(mib: int) -> int:
    """So much memory at once, all of it in use."""
    return len(b"x" * (mib << 20))


def have_eaten(mib: int) -> int:
    """The same in a process of its own."""
    return subprocess.run([sys.executable, "-c", f"len(b'x' * ({mib} << 20))"], check=False).returncode


def feast(mib: int, seconds: float) -> None:
    """Memory and processor time, in a process that is not even ours to wait for; it tells when it is done."""
    done = f"/tmp/done-{os.getpid()}-{time.monotonic_ns()}"
    os.mkfifo(done)
    code = f"""if True:
        import time
        food = b"x" * ({mib} << 20)
        while time.process_time() < {seconds}: pass
        open({done!r}, "w").close()
    """
    subprocess.run(["sh", "-c", 'setsid "$@" &', "sh", sys.executable, "-c", code], check=True)
    Path(done).read_bytes()


def wait_for(path: str) -> str:
    """Until there is such a file: its text."""
    while not Path(path).exists():
        time.sleep(0.05)
    return Path(path).read_text()


def leave_daemons(count: int) -> list[int]:
    """Processes of no family: each in a session of its own, and its parent is dead."""
    script = f"for _ in $(seq {count}); do setsid sh -c '{DAEMON}' & done"
    started = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    return [int(pid) for pid in started.stdout.split()]


def hold_daemons(count: int) -> None:
    """Start them, and wait for ever."""
    leave_daemons(count)
    time.sleep(1000)


def bomb() -> None:
    """Every copy makes copies of itself, until there can be no more: then each waits, and tries again."""
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.1)


def bomb_and_get_away() -> None:
    """The same, with an original that returns when it is refused one more."""
    if not os.fork():
        bomb()
    while not _refused():
        time.sleep(0.1)


def _refused() -> bool:
    return "max 0" not in (Path("/sys/fs/cgroup") / home().strip("/") / "../pids.events").read_text()


def poke_the_worker() -> str:
    """What comes of a signal to it."""
    try:
        os.kill(os.getppid(), 0)
    except PermissionError:
        return "refused"
    return "sent"


def home() -> str:
    """The cgroup that it runs in."""
    return Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
