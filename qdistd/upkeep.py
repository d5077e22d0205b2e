"""What whoever looks after a store says to its master, and hears: the shapes of `purge` and `backup` in `protocol`."""

from typing import Annotated

import msgspec

from qdistd.model import Moment, Seconds, State

LONGEST_GLANCE = 60.0
"""Seconds that a question for a piece may wait, as any other long poll."""

Position = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


class Purge(msgspec.Struct):
    """Delete some tasks that ended before `before`, from `cursor` on. To be said until `cursor` comes back as 0.

    Where `before` is 0, it is `older` seconds ago. No states: all in which a task has ended. `dry`: only count.
    """

    older: Seconds = 0.0
    before: Moment = 0.0
    states: Annotated[list[State], msgspec.Meta(max_length=len(State))] = []
    queue: str = ""
    name: str = ""
    cursor: Position = 0
    dry: bool = False


class Purged(msgspec.Struct):
    """So many tasks; `cursor` and `before` are for the next `Purge`."""

    tasks: int
    cursor: int
    before: float


class Backup(msgspec.Struct):
    """A piece of a copy of the store, from byte `at` on; 0 begins the copy, and its end ends it.

    While it is not complete, the answer comes after `seconds`, and says how far it is.
    """

    at: Position = 0
    seconds: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_GLANCE)] = 0.0


class Piece(msgspec.Struct, array_like=True):
    """`done` bytes of `size` are copied; once that is `complete`, `data` is what was asked for; none at the end."""

    done: int
    size: int
    complete: bool
    data: bytes = b""
