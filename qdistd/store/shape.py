"""Rows of the SQLite store and the values that they stand for."""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from qdistd.model import Claim, State
from qdistd.store import Arrival, Ending, Leased, lane_of
from qdistd.store.bonds import PLAIN, kind_of
from qdistd.store.tallies import line_of, split


def leased(row: Sequence[Any]) -> Leased:
    """Of what `_LEASE` returns."""
    mine, payload = claim(row[1:13]), row[13]
    return Leased(mine, payload, row[14], crc32(payload, crc32(mine.id)) != row[15], 0.0, row[0])


def claim(row: Sequence[Any]) -> Claim:
    """Of the columns of `_CLAIM`."""
    mine = Claim(*row)
    if "\n" in mine.queue:
        mine.queue, mine.requires = split(mine.queue)
    return mine


def move_of(ending: Ending) -> tuple[str, State, str]:
    """Line, state and key: what the tally hears of an ending."""
    claim = ending.claim
    return line_of(claim.queue, claim.requires), ending.next.state, claim.key


def grouped(arrivals: Sequence[Arrival]) -> dict[tuple[str, State], list[Arrival]]:
    """Those with nothing special about them, by line and state."""
    groups: dict[tuple[str, State], list[Arrival]] = {}
    for arrival in arrivals:
        if not arrival.special:
            groups.setdefault((arrival.task.queue, arrival.state), []).append(arrival)
    return groups


def insert_row(arrival: Arrival, now: float) -> tuple[object, ...]:
    """The values of an INSERT."""
    task = arrival.task
    line = line_of(task.queue, lane_of(task.requires)) if arrival.special else task.queue
    return (
        *(task.id, task.name, line, arrival.state, task.priority, arrival.run_at, task.run_at or None),
        *(task.payload, crc32(task.payload, crc32(task.id)), task.timeout, task.retries, task.backoff, task.key),
        *(task.mailbox, now, kind_of(arrival) if arrival.special else PLAIN),
    )


def end_row(ending: Ending, now: float) -> tuple[object, ...]:
    """The values of the UPDATE that ends an attempt."""
    claim, after = ending.claim, ending.next
    final = after.state.final
    return (
        *(after.state, None if final else after.run_at, after.failures, after.crashes, after.losses),
        ending.outcome if final else None,
        *(ending.started, ending.wall, ending.cpu, ending.rss),
        *((now, ending.value, crc32(ending.value, crc32(claim.id))) if final else (None, None, None)),
        (ending.output or None) if final else None,
        *(claim.mailbox, claim.seq, claim.attempt),
    )


def attempt_row(ending: Ending, now: float) -> tuple[object, ...]:
    """The values of the INSERT that keeps one."""
    measured = (ending.outcome, ending.started, ending.wall, ending.cpu, ending.rss, ending.value)
    return (*measured, now, ending.output or None, ending.claim.seq, ending.claim.attempt)
