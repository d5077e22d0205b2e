"""What happens in this process: the task that runs, and the signals that are meant for it.

    SIGTERM  while a task runs:  Cancelled is raised in it, once, and `told` is true from then on
             between tasks:      the process ends, as any other would
    SIGALRM  the soft time limit of the task, where it has one: SoftTimeout is raised in it

Python handles signals between two steps of the main thread, which is the one that runs the tasks. Nothing is raised
in our own code: only while the user's function is entered and not left.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from qdistd.child.board import Board
from qdistd.child.conveyor import Assignment, Conveyor
from qdistd.errors import Cancelled, SoftTimeout


class Stage:
    """There is one in each process, and in those that are no child nothing ever happens on it."""

    def __init__(self) -> None:
        self.task: Assignment | None = None
        self.started = 0.0
        """Of the task, wall clock."""
        self.told = False
        """Whether it was told to end."""
        self.board: Board | None = None
        self.conveyor: Conveyor | None = None
        self.process = 0
        """The child itself, and not a copy of it that a task has forked off."""
        self._mask: set[int] = set()
        """The signals that were blocked before a fork."""
        self._inside = False
        self._paid = 0.0
        """Until when what was done is paid for; see `due`."""

    def __repr__(self) -> str:
        return "<the stage of this process>"

    def open(self, conveyor: Conveyor, board: Board) -> None:
        """This process is a child."""
        self.conveyor, self.board, self.process = conveyor, board, os.getpid()
        signal.signal(signal.SIGTERM, self._tell)
        os.register_at_fork(before=self._hold, after_in_parent=self._let_go, after_in_child=self._be_a_copy)

    def begin(self, task: Assignment) -> None:
        """This task has the child from now on."""
        self.told = False
        self.task = task

    def end(self) -> bool:
        """It is over; whether it was told to end."""
        self.task = None
        return self.told

    def run(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the user's function; raises what that raises, or what a signal has to say."""
        soft = self.task.soft if self.task else 0.0
        if soft:
            signal.signal(signal.SIGALRM, self._warn)
            signal.setitimer(signal.ITIMER_REAL, soft)
        try:
            self._inside = True
            if self.told:
                raise Cancelled("the task was told to end before it had begun")
            return function(*args, **kwargs)
        finally:
            self._inside = False
            if soft:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def due(self, cost: float, burst: float) -> float:
        """Take `cost` seconds of what this process may do; the seconds to wait for it, where it is beyond `burst`."""
        now = time.monotonic()
        self._paid = max(self._paid, now - burst) + cost
        return max(self._paid - now, 0.0)

    def _tell(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as signal handlers are called
        if self.task is None or os.getpid() != self.process:
            self._ordinary()
            os.kill(os.getpid(), number)
        elif not self.told:
            self.told = True
            if self._inside:
                raise Cancelled("the task was told to end")

    def _warn(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as above
        if self._inside and self.task:
            raise SoftTimeout(f"{self.task.name} ran longer than its soft limit of {self.task.soft:g} seconds")

    def _ordinary(self) -> None:
        """Have signals mean what they mean anywhere."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    # A copy that a task forks off ends by SIGTERM, from its first moment on: Python forgets what comes while it forks.

    def _hold(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _let_go(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _be_a_copy(self) -> None:
        self._ordinary()
        self._let_go()


STAGE = Stage()
"""Where `qdistd.current` and its like look; a user's function gets no argument of ours that could say it."""
