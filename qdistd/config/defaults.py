"""The [options] of client.toml: what holds for every task that is submitted from this host and does not say otherwise.

client.toml [options]  <  @task(…)  <  client.options(…)
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qdistd.config.kinds import LONGEST_NAME, NAME, Choice, Duration, Flag, Number, Several, Text, echo
from qdistd.config.rows import Fault, setting

LONGEST = "3650d"
"""The longest time that a task may be told to wait or to take."""


def _label(text: str) -> str:
    if not 0 < len(text) <= LONGEST_NAME or text.split() != [text]:
        raise ValueError(f"{echo(text)} is no label")
    return text


def _key(text: str) -> str:
    if len(text) > LONGEST_NAME:
        raise ValueError(f"{echo(text)} is too long for a key")
    return text


_SPAN = Duration("0s", LONGEST)
_LABELS = Several(Text('labels such as "gpu" or "site=berlin"', _label))
_KEY = Text(f"at most {LONGEST_NAME} printable characters", _key)


@dataclass(frozen=True)
class TaskOptions:
    """What holds for tasks that choose nothing else. The names are those of `qdistd.Choices`; times are seconds."""

    queue: str = setting(NAME, "default", "The queue that a task waits in.")
    priority: int = setting(Number(-1000, 1000), 0, "The priority of a task: lower runs first.")
    delay: float = setting(_SPAN, "0s", "Duration: how long after its arrival a task may not yet run.")
    expires: float = setting(
        _SPAN, "0s", "Duration: a task that has not begun this long after its arrival is cancelled. 0s: never."
    )
    timeout: float = setting(
        _SPAN, "0s", "Duration: how long one attempt may take. 0s: as long as the worker lets every task run."
    )
    soft_timeout: float = setting(
        _SPAN,
        "0s",
        "Duration: after this long SoftTimeout is raised in the task, so that it can end by itself. 0s: never.",
    )
    retries: int = setting(Number(0, 1_000_000), 0, "How many more attempts a failure earns.")
    backoff: float = setting(
        _SPAN, "1s", "Duration: the longest pause before the first retry. It doubles with every further one."
    )
    backoff_cap: float = setting(_SPAN, "1h", "Duration: what the pause before a retry never doubles beyond.")
    requires: tuple[str, ...] = setting(_LABELS, [], 'Labels that a worker must have, such as ["gpu"].')
    concurrency_key: str = setting(
        _KEY, "", "No more tasks with one key run at once than per_key of their queue allows. Empty: not counted."
    )
    unique: str = setting(
        Choice(("", "queued", "running")),
        "",
        'Whether a submit is an earlier task with the same queue, name and arguments: "queued" while that one waits, '
        '"running" until it has ended. Empty: it is a task of its own.',
    )
    coalesce: bool = setting(
        Flag(), False, "Whether a unique task that waits takes over the arguments of a submit that is that task."
    )
    if_failed: str = setting(
        Choice(("cancel", "run", "wait")),
        "cancel",
        "What happens to a task when one that it comes after ends without a result: it is cancelled, runs all the "
        "same, or waits until somebody retries that one.",
    )
    patient: bool = setting(
        Flag(),
        False,
        "Whether a submit that finds the master overloaded is repeated for as long as the timeout of [client].",
    )

    def choices(self) -> dict[str, Any]:
        """Those that differ from the defaults of every task, by name."""
        values = ((field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self))
        return {name: value for name, value, default in values if value != default}

    def faults(self) -> Iterator[Fault]:
        """What is wrong with the settings together."""
        if self.coalesce and not self.unique:
            keys = (("options", "coalesce"), ("options", "unique"))
            yield Fault(keys, "only a unique task can be another one", 'unique = "queued" or "running" as well')
        if 0 < self.timeout <= self.soft_timeout:
            keys = (("options", "soft_timeout"), ("options", "timeout"))
            wrong = f"soft_timeout ({self.soft_timeout:g} s) is not before timeout ({self.timeout:g} s)"
            yield Fault(keys, wrong, "a shorter soft_timeout")
        if 0 < self.expires <= self.delay:
            keys = (("options", "expires"), ("options", "delay"))
            wrong = f"what expires after {self.expires:g} s may not run before {self.delay:g} s (delay)"
            yield Fault(keys, wrong, "a longer expires")
