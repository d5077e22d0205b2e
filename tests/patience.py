"""Waiting for what has no event to wait for: something in another process, seen only by asking again."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds after which what has not come will not come, on the slowest machine we know."""

GLANCE = 0.02
"""Seconds between two looks."""


def until(look: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """What `look` gives as soon as that is true. AssertionError, naming `what`, where it never is."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(GLANCE)
    return seen
