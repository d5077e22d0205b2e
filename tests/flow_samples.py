"""Tasks that write down when they begin and end, so that a test can see what ran beside what."""

import os
import time


def mark(file: str, name: str, seconds: float) -> str:
    """`begin NAME TIME`, then `end NAME TIME` after so many seconds."""
    write(file, "begin", name)
    time.sleep(seconds)
    write(file, "end", name)
    return name


def write(file: str, word: str, name: str) -> None:
    """Add a line."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{word} {name} {time.monotonic()} {os.getpid()}\n".encode())
    os.close(descriptor)
