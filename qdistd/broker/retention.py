"""How long what has ended is kept, and when to look for what is over."""

import msgspec

from qdistd.store import Keep

DAY = 86400.0

PURGE_EVERY = 10.0
"""Seconds between two looks: one of them costs as much as a task."""

PURGE_PAUSE = 0.005
"""Seconds between two stretches of a purge: room for work in between, and still as many as a master settles."""

PURGE_REST = 0.2
"""Seconds of rest that each stretch of a walk earns in which nothing was to go, some fifty times as long as it takes:
much that is old and has to stay is looked at less often."""


class Retention(msgspec.Struct, frozen=True):
    """Seconds that tasks stay which succeeded, or ended otherwise; how many ended ones stay at most (0: all)."""

    finished: float = 7 * DAY
    failed: float = 30 * DAY
    count: int = 0

    def keep(self, now: float) -> Keep:
        """What stays at `now`. A failure is never forgotten before a success of the same age."""
        return Keep(now - self.finished, now - max(self.finished, self.failed), self.count)
