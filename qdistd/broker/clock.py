"""The time the master lives by: the wall clock as it was at the start, driven on by the monotonic one.

A step of the wall clock (a person, NTP after a boot with a wrong clock) moves no delay, no backoff and no retention.
Only what a person tied to a time of day follows it, by `ahead`. After a restart this time goes on no earlier than the
latest time in the store, whatever the wall clock says by then.
"""

from collections.abc import Callable

STEP = 1.0
"""Seconds by which wall clock and steady clock must part to count as a step: slewing stays far below."""


class SteadyClock:
    """Seconds since 1970 that never jump. `floor`: the latest time that was written before."""

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], float], floor: float) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._base = max(wall(), floor) - monotonic()
        self.ahead = self._ahead()
        """Seconds by which this clock was ahead of the wall clock when `stepped` last looked."""

    def __call__(self) -> float:
        """The time now."""
        return self._base + self._monotonic()

    def stepped(self) -> bool:
        """Whether the wall clock has stepped since the last look; `ahead` is then the new distance."""
        ahead = self._ahead()
        if abs(ahead - self.ahead) < STEP:
            return False
        self.ahead = ahead
        return True

    def _ahead(self) -> float:
        return self() - self._wall()
