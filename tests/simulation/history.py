"""What happened, as seen from outside, and what must hold of it.

Clients write down what they submitted, what was acknowledged, which results they read; children write down every
start and end of an attempt. The checker knows nothing of qdist's inside. It is the `total-queue` and `set-full` of
Jepsen (jepsen/src/jepsen/checker.clj) with attempts added; `test_checker.py` feeds it every anomaly it names.
"""

import itertools
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Run:
    """One execution of one attempt. `ended` is None where its process was killed."""

    worker: str
    attempt: int
    began: float
    ended: float | None = None
    value: bytes = b""


@dataclass(frozen=True)
class Family:
    """Tasks that were submitted together, all or none. `after`: task → those it comes after; `failing`: `if_failed`."""

    tasks: tuple[bytes, ...]
    after: dict[bytes, tuple[bytes, ...]]
    failing: dict[bytes, str]


@dataclass
class Ending:
    """What the master says of a task at the very end: final state, value, and its attempts (number → outcome)."""

    state: str
    attempt: int
    value: bytes
    attempts: dict[int, str]


@dataclass
class History:
    """The record of one run of a cluster."""

    submitted: set[bytes] = field(default_factory=set)
    acknowledged: set[bytes] = field(default_factory=set)
    runs: dict[bytes, list[Run]] = field(default_factory=lambda: defaultdict(list))
    results: dict[bytes, set[tuple[str, int, bytes]]] = field(default_factory=lambda: defaultdict(set))
    waiting: set[bytes] = field(default_factory=set)
    """Tasks whose result a client that is still there has not been told."""
    failures: list[str] = field(default_factory=list)
    """What clients were told of tasks that the master should have taken."""
    narrow: dict[str, tuple[int, set[bytes]]] = field(default_factory=dict)
    """What has only so many places at once, and the tasks that need one."""
    final: dict[bytes, Ending] = field(default_factory=dict)
    families: list[Family] = field(default_factory=list)

    def read(self, task: bytes, state: str, attempt: int, value: bytes) -> None:
        """A client was told the result of a task."""
        self.results[task].add((state, attempt, value))


FINAL = {"succeeded", "failed", "cancelled", "quarantined"}

CAUSES_OF_OVERLAP = {"lost"}
"""Two attempts may run at the same time only where the master had given up on the earlier one's worker."""


def anomalies(history: History) -> list[str]:
    """Everything that must not be, each a sentence that begins with its kind."""
    found = [f"LOST {task.hex()} was acknowledged and is gone" for task in history.acknowledged - history.final.keys()]
    found += [f"UNEXPECTED {task.hex()} was never submitted" for task in history.final.keys() - history.submitted]
    found += [f"UNHEARD {task.hex()} has ended, and its client waits" for task in history.waiting]
    found += [f"REFUSED {failure}" for failure in history.failures]
    for task, ending in history.final.items():
        found += [f"{kind} {task.hex()}: {what}" for kind, what in _task_anomalies(history, task, ending)]
    for family in history.families:
        found += _family_anomalies(history, family)
    for name, (places, tasks) in history.narrow.items():
        found += _crowds(history, name, places, tasks)
    return found


def _crowds(history: History, name: str, places: int, tasks: set[bytes]) -> list[str]:
    """Moments at which more ran than there are places, other than attempts that the master had given up."""
    moments: list[tuple[float, int]] = []
    for task in tasks & history.final.keys():
        outcomes = history.final[task].attempts
        counted = [
            run for run in history.runs[task] if run.ended and outcomes.get(run.attempt) not in CAUSES_OF_OVERLAP
        ]
        moments += [(run.began, 1) for run in counted] + [(run.ended or 0.0, -1) for run in counted]
    now = 0
    for at, step in sorted(moments):
        now += step
        if now > places:
            return [f"CROWDED {name}: {now} tasks run at {at}, there are {places} places"]
    return []


def _family_anomalies(history: History, family: Family) -> list[str]:
    there = [task for task in family.tasks if task in history.final]
    if not there:
        return []
    if len(there) < len(family.tasks):
        return [f"TORN {there[0].hex()} is there, and not all that was submitted with it"]
    found: list[str] = []
    for task, needs in family.after.items():
        failed = [need for need in needs if history.final[need].state != "succeeded"]
        if failed and family.failing[task] == "cancel" and history.final[task].state != "cancelled":
            found.append(f"CARELESS {task.hex()} is {history.final[task].state}, and {failed[0].hex()} has failed")
        ready = max((_over(history, need) for need in needs), default=0.0)
        began = min((run.began for run in history.runs[task]), default=ready)
        if began < ready:
            found.append(f"EARLY {task.hex()} began at {began}, what it comes after ended at {ready}")
    return found


def _over(history: History, task: bytes) -> float:
    """When the attempt that counts had ended, as far as somebody saw that."""
    ending = history.final[task]
    ends = [run.ended for run in history.runs[task] if run.attempt == ending.attempt]
    return next((end for end in ends if end is not None and ending.state == "succeeded"), 0.0)


def _task_anomalies(history: History, task: bytes, ending: Ending) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if ending.state not in FINAL:
        found.append(("STUCK", f"still {ending.state}"))
    reads = history.results[task]
    if len(reads) > 1:
        found.append(("CHANGED", f"read as {sorted(reads)}"))
    if reads and ending.state in FINAL and (ending.state, ending.attempt, ending.value) not in reads:
        found.append(("CHANGED", f"read as {sorted(reads)}, in the end {ending}"))
    return found + _run_anomalies(history.runs[task], ending)


def _run_anomalies(runs: list[Run], ending: Ending) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    numbers = [run.attempt for run in runs]
    if len(set(numbers)) != len(numbers):
        found.append(("TWICE", f"attempts that ran: {numbers}"))
    if ending.attempts.keys() != set(range(1, len(ending.attempts) + 1)):
        found.append(("GAP", f"attempts recorded: {sorted(ending.attempts)}"))
    if not set(numbers) <= ending.attempts.keys():
        found.append(("UNEXPLAINED", f"ran {numbers}, recorded {sorted(ending.attempts)}"))
    if ending.state == "succeeded" and ending.value not in [r.value for r in runs if r.attempt == ending.attempt]:
        found.append(("INVENTED", f"attempt {ending.attempt} did not compute {ending.value!r}"))
    ordered = sorted(runs, key=lambda run: run.began)
    for earlier, later in itertools.pairwise(ordered):
        overlap = earlier.ended is not None and earlier.ended > later.began
        first, second = sorted((earlier.attempt, later.attempt))
        if overlap and ending.attempts.get(first) not in CAUSES_OF_OVERLAP:
            found.append(("OVERLAP", f"attempts {first} and {second} ran at the same time"))
    return found
