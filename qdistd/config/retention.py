"""The section [retention] of master.toml."""

from dataclasses import dataclass

from qdistd.config.kinds import Duration, Number
from qdistd.config.rows import setting

MOST_KEPT = 1_000_000_000
"""Tasks: more than a disk holds."""


@dataclass(frozen=True)
class Retention:
    """How long tasks that have ended are kept, in seconds, and how many."""

    finished: float = setting(
        Duration("1m", "3650d"),
        "7d",
        "Duration: how long a finished task and its result can be asked for, counted from its end.",
    )
    failed: float = setting(
        Duration("1m", "3650d"),
        "30d",
        "Duration: the same for a task that failed, was cancelled or is quarantined, so that there is time to look "
        "into it and to try it again. Never less than finished.",
    )
    count: int = setting(
        Number(0, MOST_KEPT),
        0,
        "How many tasks that have ended are kept at most; of more, the oldest go, whatever their age. "
        "0: any number. What another task waits for, and a result that a plain client has not collected, stays.",
    )
