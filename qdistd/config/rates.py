"""How often something may happen, as a person writes it: "100/s", "10/m", "10/30s"."""

import re
from typing import NamedTuple

from qdistd.config.kinds import Text, duration, echo

MOST = 1_000_000
"""The largest count: more tasks than that in any time are no limit to anybody."""

LONGEST = 366 * 86400.0
"""Seconds: the longest time a rate can be for, a year."""

_RATE = re.compile(r"\s*([0-9]{1,7})\s*/\s*([0-9.]*)\s*([A-Za-z]+)\s*")


class Rate(NamedTuple):
    """At most so many tasks in so many seconds."""

    tasks: int
    seconds: float


def rate(text: str) -> Rate | None:
    """The rate that a person wrote; None for "". ValueError where it is none."""
    if not text.strip():
        return None
    parts = _RATE.fullmatch(text)
    if not parts:
        raise ValueError(f"{echo(text)} is no rate")
    try:
        seconds = duration(f"{parts[2] or 1} {parts[3]}")
    except ValueError:
        raise ValueError(f"{echo(text)} is no rate") from None
    if not 0 < int(parts[1]) <= MOST or not 0 < seconds <= LONGEST:
        raise ValueError(f"{echo(text)} is out of range")
    return Rate(int(parts[1]), seconds)


RATE = Text('a rate such as "100/s", "10/m", "5/h", "1000/d" or "10/30s", or "" for none', rate)
