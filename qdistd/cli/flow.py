"""`qdist pause`, `qdist resume`, `qdist drain`, `qdist undrain`: what gets tasks just now, and what does not.

    pause QUEUE   ──> the tasks of a queue wait, whoever asks for them
    drain WORKER  ──> a worker, or all of a host, get no tasks: they end what they run

Both outlive restarts, and are said twice with the effect of once.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from qdistd.cli.completing import queue_names, worker_names
from qdistd.cli.exits import Exit
from qdistd.cli.words import json_option, timeout_option

if TYPE_CHECKING:
    from qdistd.protocol import Switched
    from qdistd.views import WorkerView

PAUSE = 0.5
"""Seconds between two looks at whether a drained worker still has tasks."""

Ask = Callable[[Any], Any]


@click.command("pause")
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True, shell_complete=queue_names)
@json_option
def pause_command(queues: tuple[str, ...], as_json: bool) -> int:
    """Pause queues: none of their tasks begins until `qdist resume`.

    Tasks can still be submitted, and those that run are left alone. It holds over restarts of the master. To pause a
    queue twice is no mistake. A queue that nobody has heard of is paused for the time when it is there; that is said,
    and the exit code is 1. Needs a key of the role admin.
    """
    return _pause(queues, on=True, as_json=as_json)


@click.command("resume")
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True, shell_complete=queue_names)
@json_option
def resume_command(queues: tuple[str, ...], as_json: bool) -> int:
    """Have the tasks of queues begin again after `qdist pause`."""
    return _pause(queues, on=False, as_json=as_json)


def _pause(queues: Sequence[str], *, on: bool, as_json: bool) -> Exit:
    from qdistd.cli.context import asking
    from qdistd.protocol import Pause

    with asking() as ask:
        switched = ask(Pause([*dict.fromkeys(queues)], on))
    return _tell("queue", queues, "paused" if on else "resumed", switched, as_json)


@click.command("drain")
@click.argument("names", metavar="WORKER|HOST...", nargs=-1, required=True, shell_complete=worker_names)
@click.option("--wait", is_flag=True, help="Wait until they have ended all tasks that they have.")
@timeout_option
@json_option
def drain_command(names: tuple[str, ...], wait: bool, timeout: float | None, as_json: bool) -> int:
    """Give workers no more tasks, each alone or all workers of a host, until `qdist undrain`.

    They end what they run, and what they have not begun goes back. It holds for whoever comes under that name later,
    and over restarts. With --wait the command ends when the last of their tasks has, so that the host can go down.
    Where nobody has heard of one, that is said, and the exit code is 1. Needs a key of the role admin.
    """
    from qdistd.cli.context import asking
    from qdistd.protocol import Drain

    with asking() as ask:
        switched = ask(Drain([*dict.fromkeys(names)]))
        code = _tell("worker", names, "drained", switched, as_json)
        sys.stdout.flush()
        if wait:
            _await_idle(ask, set(names) - set(switched.unknown), timeout)
    return code


@click.command("undrain")
@click.argument("names", metavar="WORKER|HOST...", nargs=-1, required=True, shell_complete=worker_names)
@json_option
def undrain_command(names: tuple[str, ...], as_json: bool) -> int:
    """Give workers tasks again after `qdist drain`."""
    from qdistd.cli.context import asking
    from qdistd.protocol import Drain

    with asking() as ask:
        switched = ask(Drain([*dict.fromkeys(names)], on=False))
    return _tell("worker", names, "undrained", switched, as_json)


def _tell(kind: str, names: Sequence[str], now: str, switched: "Switched", as_json: bool) -> Exit:
    """Say of each name what it is now, and whether it was so before. The exit code: whether all of them are known."""
    from qdistd.cli.output import clean, coloured, write_json

    for name in dict.fromkeys(names):
        changed = name in switched.changed
        if as_json:
            write_json({kind: name, "now": now, "changed": changed})
        else:
            click.echo(f"{clean(name)}  {coloured(now)}{'' if changed else ' (was so before)'}")
        if name in switched.unknown:
            click.echo(f"qdist: nobody has heard of a {kind} {clean(name)} so far", err=True)
    return Exit.FAILED if switched.unknown else Exit.OK


def _await_idle(ask: Ask, names: set[str], timeout: float | None) -> None:
    """Return when none of these workers has a task any more. TimeoutError, saying who has, when that takes too long."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while busy := _busy(ask, names):
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(", ".join(f"{worker.name} still has {worker.leased} tasks" for worker in busy))
        time.sleep(PAUSE)


def _busy(ask: Ask, names: set[str]) -> "list[WorkerView]":
    from qdistd.protocol import Workers

    workers: Sequence[WorkerView] = ask(Workers()).workers
    return [worker for worker in workers if worker.leased and names & {worker.name, worker.host}]
