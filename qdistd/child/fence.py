"""Keeps tasks from harming their worker, which is a process of the same user: no signals to it, no look at its memory.

It is a fence of Landlock (Linux 6.12) around the child and all that it will ever start: they can send signals to each
other and to nobody else. It stands only where no process may gain privileges (NoNewPrivileges= of the shipped unit): a
worker that was started without that, as root perhaps, may be there to signal other services. Where the kernel is older,
or a filter of system calls forbids it, there is none: then a task that kills its worker is lost with it, and
quarantined when it has done so often enough.
"""

import os
import struct
from pathlib import Path

CREATE_RULESET, RESTRICT_SELF = 444, 446
"""Numbers of system calls: the same on every machine."""

RULES = struct.Struct("=QQQ")
"""What `struct landlock_ruleset_attr` is: access to files and to the network that is handled, and scopes."""

SCOPE_SIGNAL = 1 << 1


def enclose() -> bool:
    """Put up the fence; whether it stands. Only this thread and what it starts is behind it: say it early."""
    if b"\nNoNewPrivs:\t1\n" not in Path("/proc/self/status").read_bytes():
        return False
    import ctypes  # takes a millisecond, which those who need no fence do not pay

    call = ctypes.CDLL(None).syscall
    rules = call(CREATE_RULESET, RULES.pack(0, 0, SCOPE_SIGNAL), ctypes.c_size_t(RULES.size), 0)
    if rules < 0:
        return False
    done = call(RESTRICT_SELF, rules, 0)
    os.close(rules)
    return bool(done == 0)
