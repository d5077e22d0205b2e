"""The tables that a person names: what is special about one queue."""

# ruff: noqa: RUF009 - `setting` makes dataclass fields, which ruff cannot see
from dataclasses import dataclass

from qdistd.config.kinds import Number
from qdistd.config.rates import RATE, Rate
from qdistd.config.rows import setting

MOST_TASKS = 1_000_000_000
"""Tasks in one limit: more than any store will ever hold."""

HEAVIEST = 1000
"""The largest weight: shares finer than a thousandth are none."""


@dataclass(frozen=True)
class QueueConfig:
    """How one queue flows. A queue without a table has these defaults."""

    concurrency: int = setting(
        Number(0, MOST_TASKS),
        0,
        "How many tasks of the queue may run at once, on all workers together. 0: no limit.",
    )
    per_key: int = setting(
        Number(0, MOST_TASKS),
        0,
        "How many tasks of the queue with the same concurrency key may run at once, on all workers together. 0: no "
        "limit.",
    )
    rate: Rate | None = setting(
        RATE,
        "",
        "How many tasks of the queue may begin in a time, on all workers together: a number, a slash, and a duration, "
        'such as "100/s" or "10/30s". Empty: no limit.',
    )
    weight: int = setting(
        Number(1, HEAVIEST),
        1,
        "The share of the queue beside the others that a worker serves: one with weight 2 gets twice the turns of one "
        "with weight 1, as long as both have work.",
    )
    limit: int = setting(
        Number(0, MOST_TASKS),
        0,
        "How many tasks may wait in the queue; more are refused as overloaded, with a hint when to come back. 0: no "
        "limit.",
    )
