"""Probes of processes: subprocesses, pools, threads, signals, priorities and limits."""

import multiprocessing
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from .tools import run


def double(number: int) -> int:
    return 2 * number


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
