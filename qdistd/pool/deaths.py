"""How a child died, and what that means for the task that it ran."""

import os
import signal
from typing import NamedTuple

from qdistd.call import encode_failure
from qdistd.child.frames import CUT_OFF, UNFIT
from qdistd.model import Failure, Grant, Outcome, Settlement
from qdistd.pool.cgroups import Cell, Remains

GRACE = 2.0
"""Seconds in which a child that should end by itself must have done so."""

STUBBORN = 5.0
"""Seconds that `close` waits for children that even SIGKILL does not end, as the kernel does not let go of them."""


class Death(NamedTuple):
    """What the kernel says of a child that has ended. `status` as `subprocess.Popen.returncode` has it."""

    status: int
    cpu: float
    """Seconds of processor time from its birth, with its own children."""
    rss: int
    """Peak memory, KiB."""
    remains: Remains | None = None
    """What its cgroup says, where it had one: then `cpu` and `rss` are of all that it has started, too."""

    @property
    def starved(self) -> bool:
        """Whether it died for want of memory, as far as one can know."""
        return bool(self.remains and self.remains.starved and self.status == -signal.SIGKILL)

    @property
    def words(self) -> str:
        """What happened, to go on from "the child …"."""
        if self.starved:
            return self._memory()
        if self.status == CUT_OFF:
            return "could not say how it ended, as the pipe of its results was closed or replaced"
        if self.status == UNFIT:
            return "was not fit for another one, and ended itself"
        if self.status >= 0:
            return f"ended by itself with exit status {self.status}"
        return f"was killed by signal {-self.status} ({signal_name(-self.status)}){_HINTS.get(-self.status, '')}"

    def _memory(self) -> str:
        assert self.remains
        if limit := self.remains.limit:
            return f"took more memory than its limit of {_mib(limit)}, with all it had started, and was killed for it"
        peak = f"at its peak it had {_mib(self.rss << 10)}, with all it had started"
        return f"was killed as its host, or the unit of its worker, had no memory left; {peak}"


class Verdict(NamedTuple):
    """How an attempt ended without a result."""

    outcome: Outcome
    failure: Failure


Ended = tuple[str, Settlement]
"""The name of a task, and how it ended."""


class Burial(NamedTuple):
    """What a dead child leaves: the tasks that ended, the last of them with it, and those that it had not begun."""

    death: Death
    ended: list[Ended]
    grants: list[Grant]


_HINTS: dict[int, str] = {
    signal.SIGKILL: ": by somebody, or by the kernel because memory ran out",
    signal.SIGSEGV: ": a fault in code written in C, or no memory left",
    signal.SIGXCPU: ": over its limit of processor time",
}


def signal_name(number: int) -> str:
    """The name of a signal, e.g. SIGSEGV."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def reap(pid: int, cell: Cell | None) -> Death:
    """Take note of a process that has ended. It must be a child of ours that nobody has waited for."""
    _, status, usage = os.wait4(pid, 0)
    death = Death(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
    if cell is None:
        return death
    remains = cell.remains()
    return death._replace(
        cpu=max(remains.cpu, death.cpu),
        rss=remains.peak or death.rss,
        remains=remains,
    )


def crash(name: str, death: Death) -> Verdict:
    """The child died under the task, and not by our hand."""
    return Verdict(
        Outcome.CRASHED,
        Failure(_kind(death), f"the child that ran {name} {death.words}", number=abs(death.status)),
    )


def _kind(death: Death) -> str:
    if death.starved and death.remains:
        return "memory" if death.remains.limit else "oom"
    return "exit" if death.status >= 0 else "signal"


def struck(name: str) -> Verdict:
    """A signal that was not ours wanted the child to end, and ended its task alone."""
    message = f"{name} was ended by signal 15 (SIGTERM), which its worker had not sent"
    return Verdict(Outcome.CRASHED, Failure("signal", message, number=signal.SIGTERM))


def garbled(name: str, what: str) -> Verdict:
    """The child says things that no child says; it was killed for that."""
    message = f"{name} wrote into pipes that are not its own ({what}), and its child was killed for it"
    return Verdict(Outcome.CRASHED, Failure("signal", message, number=signal.SIGKILL))


def muted(name: str) -> Verdict:
    """The child lives, but nothing that it says can ever come here."""
    message = f"{name} closed the pipes of its child, which was killed for it"
    return Verdict(Outcome.CRASHED, Failure("signal", message, number=signal.SIGKILL))


def stalled(name: str, number: int, seconds: float) -> Verdict:
    """The child stood still, and the task that ran in it is to blame, as far as one can know."""
    what = f"{name} was stopped by signal {number} ({signal_name(number)})"
    message = f"{what} and did not go on within {seconds:g} seconds: its child was killed for it"
    return Verdict(Outcome.CRASHED, Failure("signal", message, number=number))


def overrun(name: str, limit: float) -> Verdict:
    """The task had its time."""
    return Verdict(
        Outcome.FAILED, Failure("timeout", f"{name} ran longer than its limit of {limit:g} seconds and was killed")
    )


def cancelled(name: str) -> Verdict:
    """Somebody wanted it to end."""
    return Verdict(Outcome.CANCELLED, Failure("cancelled", f"{name} was cancelled"))


def stopped(name: str, why: str) -> Verdict:
    """The task goes back unharmed."""
    return Verdict(Outcome.RELEASED, Failure("stopped", f"{name} was handed back: {why}"))


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def victim(grant: Grant, verdict: Verdict, death: Death, times: tuple[float, float, float], output: bytes) -> Ended:
    """A task that ended with its child. `times`: when it began (wall clock), its length and its processor time."""
    started, wall, cpu = times
    value = encode_failure(verdict.failure)
    measured = (started, wall, cpu, death.rss)
    return grant.name, Settlement(grant.id, grant.attempt, verdict.outcome, value, *measured, output=output)
