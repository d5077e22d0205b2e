"""Which child gets what of the tasks that wait."""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from qdistd.model import Grant
from qdistd.pool.pace import ALONE, Pace
from qdistd.pool.process import ChildProcess

PORTION = 0.001
"""Seconds of work that a child is given before the next is looked at: keeps them level, and is cheap."""


class Waiting(NamedTuple):
    """A task without a child, and since when."""

    grant: Grant
    since: float


def line_up(waiting: deque[Waiting], newcomers: Iterable[Waiting], *, first: bool = False) -> None:
    """Have these wait, too: behind those of the same priority, or (`first`) before them."""
    if first:
        waiting.extendleft(reversed(list(newcomers)))
    else:
        waiting.extend(newcomers)
    if any(one.grant.priority > other.grant.priority for one, other in pairwise(waiting)):
        ordered = sorted(waiting, key=lambda one: one.grant.priority)
        waiting.clear()
        waiting.extend(ordered)


def deal(waiting: deque[Waiting], children: Sequence[ChildProcess], pace: Pace, now: float) -> set[ChildProcess]:
    """Give what waits to the children, the least busy first, until none has room for the task in front.

    Those that were given something: it goes out with their `flush`.
    """
    served: set[ChildProcess] = set()
    while waiting and children:
        child = min(children, key=_burden)
        if not _fill(child, waiting, pace, now):
            break
        served.add(child)
    return served


def _fill(child: ChildProcess, waiting: deque[Waiting], pace: Pace, now: float) -> bool:
    """Give one portion to this child. False where it has no room for the task in front."""
    portion = 0.0
    while waiting and portion < PORTION:
        grant = waiting[0].grant
        cost = pace.cost(grant.name)
        if not child.fits(cost):
            break
        waiting.popleft()
        child.give(grant, cost, now)
        portion += cost
    return portion > 0


def _burden(child: ChildProcess) -> float:
    return child.load if child.open else ALONE
