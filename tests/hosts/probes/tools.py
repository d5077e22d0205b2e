"""What several probes use."""

import ctypes
import os
import subprocess

libc = ctypes.CDLL(None, use_errno=True)


def called(result: int) -> int:
    """The result of a function of libc; OSError for -1."""
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def run(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
