"""What is to be done next, as the parts of the broker leave it for each other and for the master.

ended ──> finished: told after the commit ·  kin: looked at for those that come after
came ───> ready: queues for the lobby     ·  alarm: when the tick must look
"""

from collections import deque
from collections.abc import Callable

from qdistd.model import Result, State


class Agenda:
    """`now`: the master's time. `monotonic`: what `alarm` is told in."""

    def __init__(self, monotonic: Callable[[], float], now: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._now = now
        self.finished: list[Result] = []
        self.ready: set[str] = set()
        self.kin: deque[tuple[bytes, State]] = deque()
        """Tasks that have ended and that others may wait for."""
        self.kin_rest = False
        """Whether so much was done for these that the tick goes on with the rest, in a transaction of its own."""
        self.next_due: float | None = None
        self.next_expiry: float | None = None
        self.alarm = 0.0

    def end(self, result: Result) -> None:
        """A task has ended for good."""
        self.finished.append(result)
        self.kin.append((result.id, result.state))

    def due(self, run_at: float) -> None:
        """A task is scheduled for then."""
        if self.next_due is None or run_at < self.next_due:
            self.next_due = run_at
            self.wake(run_at)

    def expires(self, at: float) -> None:
        """A task expires then."""
        if self.next_expiry is None or at < self.next_expiry:
            self.next_expiry = at
            self.wake(at)

    def wake(self, at: float) -> None:
        """The tick has something to do by then, a time of the master."""
        self.alarm = min(self.alarm, self.monotonic(at))

    def monotonic(self, at: float | None) -> float:
        """A time of the master as a monotonic one; never, where there is none."""
        return float("inf") if at is None else self._monotonic() + at - self._now()
