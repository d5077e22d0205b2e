"""What a task has used, as the kernel counts it for this process."""

import os
import resource

from qdistd.child.frames import Care


class Scale:
    """Weighs this process, and those children of it that have ended. See `child.cell` for one that sees more."""

    def __init__(self) -> None:
        self.rss = 0
        """Peak memory, KiB, as of the last time."""
        self._others = 0.0
        self.weigh()

    def begin(self, care: Care) -> None:
        """A task begins."""

    def end(self, care: Care) -> None:
        """It has ended, and was weighed."""

    def full(self) -> bool:
        """Whether it had as many processes and threads as it may have, since the last time."""
        return False

    def alone(self) -> bool:
        """Whether nothing that it has started is left, as far as one can know."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return False

    def weigh(self) -> float:
        """Seconds of processor time, other than of this process itself, since the last time."""
        self.rss = self.peak()
        before, self._others = self._others, self.others()
        return max(self._others - before, 0.0)

    def peak(self) -> int:
        """Peak memory, KiB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def others(self) -> float:
        """Seconds of processor time of others than this process, since it began."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime
