"""What a pool writes down for the pool of the next image of its program: see `qdistd.succession`.

The children of a process stay its children over an exec, and its descriptors keep their numbers; the clock of the
loop goes on, too. So nothing but this is needed to go on with them.
"""

from collections.abc import Iterator

import msgspec

from qdistd.model import Grant, Said
from qdistd.pool.deaths import Verdict
from qdistd.pool.settings import PoolSettings


class ChildEstate(msgspec.Struct):
    """One child. All times are those of the loop."""

    pid: int
    settings: PoolSettings
    descriptors: dict[str, int]
    """By the names that `Spawned` has for them. Those of `tickets` are somebody else's once these are closed."""
    cell: str
    """The folder of its cgroup, where it has one."""
    tasks: bytes | None
    tickets: bytes | None
    """What the pipe has not taken yet; None: it is closed."""
    unread: bytes
    """The beginning of a result."""
    said: dict[int, tuple[bytes, bytes, int]]
    """Of each ticket the end of what was said, the beginning of a line, and how many lines the log did not take."""
    ended: bool
    """Whether no more results can come."""
    given: list[tuple[int, Grant, float]]
    """Ticket, task and its cost, the head first."""
    verdicts: dict[int, Verdict]
    last_ticket: int
    load: float
    since: float
    deaf_at: float
    kill_at: float
    cpu: float
    open: bool
    proven: bool
    retired: bool
    asked: bool = False
    """Whether a SIGTERM is on its way to it."""

    def kept(self) -> Iterator[int]:
        """The descriptors that are open."""
        for name, number in self.descriptors.items():
            if name != "tickets" or self.tickets is not None:
                yield number


class PoolEstate(msgspec.Struct):
    """A pool without those of its children that did not stand yet."""

    children: list[ChildEstate]
    waiting: list[tuple[Grant, float]]
    """Tasks without a child, and since when."""
    farewells: list[Said] = []
    """What tasks have said, and nobody was told of."""

    def descriptors(self) -> list[int]:
        """All that must stay open."""
        return [number for child in self.children for number in child.kept()]
