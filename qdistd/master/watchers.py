"""Who waits for the end of which task.

watch(id) ──task ends──> announce ──> Guest.push ──> its parked Wait, or the next one
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from qdistd.master.guest import PENDING_BYTES, Guest
from qdistd.model import Result
from qdistd.store import Store

READ_AT_ONCE = 16
"""Results read from the store between two looks at their size: the largest ones come to a few frames."""


class Read(NamedTuple):
    """What the store says of some ids; `unread`: what the next `Wait` will look at."""

    ended: list[Result]
    unknown: list[bytes]
    unread: list[bytes]


class Watchers:
    """Connections by the tasks that they watch."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guests: dict[bytes, tuple[Guest, ...]] = {}

    def announce(self, results: Sequence[Result]) -> None:
        """Hand results to whoever watches them."""
        touched: set[Guest] = set()
        for result in results:
            for guest in self._guests.pop(result.id, ()):
                guest.push(result)
                touched.add(guest)
        for guest in touched:
            guest.flush()

    def read(self, ids: list[bytes]) -> Read:
        """What has ended of `ids`, until that is as much as a connection may keep in memory."""
        ended: list[Result] = []
        unknown: list[bytes] = []
        at = size = 0
        while at < len(ids) and size <= PENDING_BYTES:
            found, strange = self._store.results(ids[at : at + READ_AT_ONCE])
            at += READ_AT_ONCE
            size += sum(len(result.value) for result in found)
            ended += found
            unknown += strange
        return Read(ended, unknown, ids[at:])

    def watch(self, guest: Guest, ids: Iterable[bytes], but: Sequence[bytes], read: Read) -> None:
        """Have `guest` hear of the end of these tasks, `but` of some; what was `read` of them it hears now."""
        skip = {*but, *read.unread, *(result.id for result in read.ended)}
        new = set(ids) - skip - guest.watched
        guest.watched |= new
        alone = (guest,)
        for task_id in new:
            others = self._guests.get(task_id)
            self._guests[task_id] = (*others, guest) if others else alone
        guest.overflow += read.unread
        for result in read.ended:
            guest.push(result)
        guest.flush()

    def forget(self, guest: Guest) -> None:
        """It has left."""
        for task_id in guest.watched:
            left = tuple(other for other in self._guests.get(task_id, ()) if other is not guest)
            if left:
                self._guests[task_id] = left
            else:
                self._guests.pop(task_id, None)
