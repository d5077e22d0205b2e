"""How a child and its tasks are to end, where that is not left to them.

    order ──> verdict ──SIGTERM──> the task ends, its child goes on      (TOLD stands beside the result)
                          └─ grace ─> SIGKILL, to all that the child has started, too

A SIGTERM meets whatever the child does at that moment. Where the task that it was meant for is over by then, it ends
the next one, or the child; so until the child says that it has taken it, no task is blamed for its end.
"""

import contextlib
import os
import signal

from qdistd.call import encode_failure
from qdistd.child.frames import ASKED, OUTCOME, TOLD, WAIT
from qdistd.model import Outcome
from qdistd.pool.cgroups import Cell
from qdistd.pool.deaths import Death, Verdict, crash, stopped, struck

NEVER = float("inf")

PLAIN = (Outcome.SUCCEEDED, Outcome.FAILED)
"""What a child says of nearly every task."""

KNOWN = frozenset(
    outcome | told | asked
    for outcome in (*PLAIN, Outcome.CANCELLED, Outcome.REJECTED)
    for told in (0, TOLD)
    for asked in ((0, ASKED) if outcome is Outcome.FAILED else (0,))
)
"""All that a child can say of one."""

Ending = tuple[Outcome, bytes, float]
"""Outcome, value and wait, as `Settlement` has them."""


class Fate:
    """`grace`: seconds from SIGTERM to SIGKILL."""

    def __init__(self, pid: int, cell: Cell | None, grace: float) -> None:
        self.kill_at = NEVER
        self.verdicts: dict[int, Verdict] = {}
        """How tasks end that are to end, by ticket."""
        self.asked = False
        """Whether there was a SIGTERM that the child has not said it has taken."""
        self.killed = False
        self.grace = grace
        self._pid = pid
        self._cell = cell

    @property
    def sealed(self) -> bool:
        """Whether the child is to end, or may end at any moment."""
        return self.asked or self.killed

    def by(self, moment: float) -> None:
        """Have it end by then."""
        self.kill_at = min(self.kill_at, moment)

    def ask(self, now: float) -> None:
        """Ask the task that runs to end, and the programs that it has started."""
        self.by(now + self.grace)
        if not self.asked:
            self.asked = True
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the child, and what its tasks have started."""
        self.killed = True
        self._signal(signal.SIGKILL)
        if self._cell:
            self._cell.kill()
        self.kill_at = NEVER

    def read(self, ticket: int, name: str, code: int, value: bytes) -> Ending:
        """What the child says of a task, in the light of what we know. `code` is one of `KNOWN`."""
        verdict = self.verdicts.pop(ticket, None)
        blameless = self.asked
        if code & TOLD:
            self.asked = False
        outcome = Outcome(code & OUTCOME)
        if outcome is Outcome.SUCCEEDED:
            return outcome, value, -1.0
        if outcome is Outcome.CANCELLED and not verdict:
            verdict = _bystander(name) if blameless else struck(name)
        if verdict:
            return verdict.outcome, encode_failure(verdict.failure), -1.0
        if code & ASKED:
            [wait] = WAIT.unpack_from(value)
            return outcome, value[WAIT.size :], wait
        return outcome, value, -1.0

    def spare(self) -> bool:
        """Whether the child goes on after all: nobody is to end any more. Then nothing hangs over it."""
        if self.sealed or self.verdicts:
            return False
        self.kill_at = NEVER
        return True

    def last(self, ticket: int, name: str, death: Death) -> Verdict:
        """How the task of this ticket has ended, which the child has taken with it."""
        if ticket in self.verdicts:
            return self.verdicts[ticket]
        return _bystander(name) if self.verdicts or self.asked else crash(name, death)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, number)


def _bystander(name: str) -> Verdict:
    return stopped(name, "its child had to be ended because of another task")
