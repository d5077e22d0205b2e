"""The options of a task on the command line: what each is called there, and what becomes of it.

    --require gpu --after ID --expires 2h  ──task_options──> click ──choices_of──> client.options.Choices

What a value must be beyond its kind is checked where every client checks it.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qdistd.cli.completing import queue_names
from qdistd.cli.words import duration, every_id, expiry, moment, task_id

if TYPE_CHECKING:
    from qdistd.client.options import Choices

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--queue", shell_complete=queue_names, help="The queue it waits in [default: default]"),
    click.option("--priority", type=click.IntRange(-1000, 1000), help="Lower runs first [default: 0]"),
    click.option("--delay", type=duration, help="How long after now it may run: 90s, 5m, 1h."),
    click.option(
        "--at", "run_at", type=moment, help="When it may run: 18:30, or 2026-11-24T18:30 with or without +01:00."
    ),
    click.option(
        "--expires",
        metavar="DURATION|MOMENT",
        type=expiry,
        help="How long after now, or until when, it is worth beginning: what has not begun by then is cancelled.",
    ),
    click.option(
        "--timeout",
        type=duration,
        help="How long one attempt may take before it is killed with all that it has started [default: the worker's "
        "limit]",
    ),
    click.option(
        "--soft-timeout",
        type=duration,
        help="How long one attempt may take before SoftTimeout is raised in it [default: the worker's limit]",
    ),
    click.option(
        "--retries", type=click.IntRange(0, 1_000_000), help="How many more attempts a failure earns [default: 0]"
    ),
    click.option("--backoff", type=duration, help="Pause before the first retry; it doubles [default: 1s]"),
    click.option("--backoff-cap", type=duration, help="What that pause never doubles beyond [default: 1h]"),
    click.option(
        "--require",
        "requires",
        metavar="LABEL",
        multiple=True,
        help="A label that its worker must have, such as gpu or site=berlin; may be repeated.",
    ),
    click.option(
        "--concurrency-key",
        help="Of tasks with the same one, no more run at once than `per_key` of their queue says.",
    ),
    click.option("--key", help="Idempotency key: the same key is the same task, however often it is submitted."),
    click.option(
        "--unique",
        type=click.Choice(["queued", "running"]),
        help="While another one like it waits (queued), or waits or runs (running), it is that other task.",
    ),
    click.option("--unique-key", help="What makes tasks alike [default: queue, name and arguments]"),
    click.option(
        "--coalesce",
        is_flag=True,
        default=None,
        help="With --unique: the one that waits already gets the arguments of this one.",
    ),
    click.option(
        "--after",
        metavar="ID",
        type=task_id,
        multiple=True,
        help="It runs when this task has succeeded; may be repeated, and - stands for the ids on standard input.",
    ),
    click.option(
        "--if-failed",
        type=click.Choice(["cancel", "run", "wait"]),
        help="When a task of --after ends without success: cancel this one, run it all the same, or wait until "
        "somebody retries that one [default: cancel]",
    ),
    click.option(
        "--take",
        type=click.Choice(["args", "list"]),
        help="The results of --after come before the arguments: one by one (args), or as one list (list).",
    ),
)


def task_options(command: Decorated) -> Decorated:
    """All of them, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def choices_of(given: Mapping[str, Any]) -> "Choices":
    """What was chosen of them. Reads the ids on standard input where `--after -` says so."""
    chosen: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value is not None and value != ()
    }
    if "after" in chosen:
        chosen["after"] = list(every_id(chosen["after"]))
    return chosen  # type: ignore[return-value]  # click's names are those of Choices
