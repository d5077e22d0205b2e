"""Stops every thread of a process but its main one, for good: `python3 hold.py PID`.

It prints how many it holds, and ends when the process has ended.
"""

import ctypes
import os
import sys
from pathlib import Path

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000
"""Of waitpid: threads too."""


def hold(pid: int) -> int:
    """Stop all threads of a process but the first; how many that were."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    others = [int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir() if thread.name != str(pid)]
    for thread in others:
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            assert ptrace(request, thread, None, None) == 0, os.strerror(ctypes.get_errno())
    return len(others)


if __name__ == "__main__":
    print(hold(int(sys.argv[1])), flush=True)
    try:
        while True:
            os.waitpid(-1, WALL)  # or nobody could reap the process, not even when all of it is dead
    except ChildProcessError:
        pass
