"""`qdist status`, `qdist queues`, `qdist workers`: how the master is and what it has."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from qdistd.cli.words import json_option

if TYPE_CHECKING:
    from qdistd.protocol import StatusView, Stuck
    from qdistd.views import QueueView, WorkerView

OPEN_STATES = ("blocked", "scheduled", "ready", "leased")
END_STATES = ("succeeded", "failed", "cancelled", "quarantined")


@click.command("status")
@json_option
def status_command(as_json: bool) -> None:
    """Say how the master is: its queues, its workers, its store.

    Tasks that no worker can take stand below, each kind with the reason. Exit code 0: it is there and answers. 75: it
    does not.
    """
    from qdistd.cli.context import asking
    from qdistd.cli.output import write_json
    from qdistd.protocol import Status

    with asking() as ask:
        status = ask(Status())
    write_json(_status_json(status)) if as_json else _write_status(status)


@click.command("queues")
@json_option
def queues_command(as_json: bool) -> None:
    """List the queues: the states of their tasks, their limits, and since when one is paused."""
    from qdistd.cli.context import asking
    from qdistd.cli.output import write_json
    from qdistd.protocol import Queues

    with asking() as ask:
        queues = ask(Queues()).queues
    if not as_json:
        _write_queues(queues)
        return
    for queue in queues:
        write_json(queue_json(queue))


@click.command("workers")
@json_option
def workers_command(as_json: bool) -> None:
    """List the workers the master has heard of lately.

    A worker is connected, silent (its connection broke, its lease still runs) or gone; one that is drained gets no
    more tasks. What it has trouble with stands below.
    """
    from qdistd.cli.context import asking
    from qdistd.cli.output import write_json
    from qdistd.protocol import Workers

    with asking() as ask:
        workers = ask(Workers()).workers
    if not as_json:
        _write_workers(workers)
        return
    for worker in workers:
        write_json(worker_json(worker))


def _status_json(status: "StatusView") -> dict[str, Any]:
    from qdistd.cli.output import iso

    told = {name: getattr(status, name) for name in status.__struct_fields__}
    return told | {
        "started": iso(status.started),
        "now": iso(status.now),
        "queues": [queue_json(queue) for queue in status.queues],
        "workers": [worker_json(worker) for worker in status.workers],
        "stuck": [{name: getattr(each, name) for name in each.__struct_fields__} for each in status.stuck],
    }


def queue_json(queue: "QueueView") -> dict[str, Any]:
    """A queue as `qdist queues --json` has it."""
    from qdistd.cli.output import iso

    return {"name": queue.name, "paused": iso(queue.paused), "limits": queue.limits, **_all_counts(queue)}


def worker_json(worker: "WorkerView") -> dict[str, Any]:
    """A worker as `qdist workers --json` has it."""
    from qdistd.cli.output import iso

    told = {name: getattr(worker, name) for name in worker.__struct_fields__}
    return told | {"since": iso(worker.since), "seen": iso(worker.seen)}


def _all_counts(queue: "QueueView") -> dict[str, int]:
    return {state: queue.counts.get(state, 0) for state in (*OPEN_STATES, *END_STATES)}


def _write_status(status: "StatusView") -> None:
    from qdistd.cli.output import write_pairs

    write_pairs(_facts(status))
    if status.queues:
        click.echo()
        _write_queues(status.queues)
    if status.workers:
        click.echo()
        _write_workers(status.workers)
    if status.stuck:
        click.echo()
        _write_stuck(status.stuck)


def _facts(status: "StatusView") -> Iterator[tuple[str, str]]:
    from qdistd.cli.output import amount, clean, is_terminal, iso, span

    up = f"up {span(status.now - status.started)}" if is_terminal() else f"since {iso(status.started)}"
    connected = sum(worker.state == "connected" for worker in status.workers)
    yield "master", f"qdist {status.version} on {status.host}, pid {status.pid}, {up}"
    yield "listening", ", ".join(status.listen)
    yield "store", f"{status.store}, {amount(status.store_bytes)}"
    yield "overloaded", clean(status.overload)
    yield "tasks", _totals(status.queues)
    yield "paused", clean(", ".join(queue.name for queue in status.queues if queue.paused))
    yield "workers", f"{connected} connected"
    yield "drained", clean(", ".join(status.drained))
    yield "served", f"{status.submitted} submitted, {status.settled} settled, in {status.commits} commits"


def _totals(queues: Iterable["QueueView"]) -> str:
    totals: dict[str, int] = {}
    for queue in queues:
        for state, number in queue.counts.items():
            totals[state] = totals.get(state, 0) + number
    ordered = [state for state in (*OPEN_STATES, *END_STATES) if totals.get(state)]
    return ", ".join(f"{totals[state]} {state}" for state in ordered) or "none"


def _write_queues(queues: Sequence["QueueView"]) -> None:
    from qdistd.cli.output import when, write_table

    states = (*OPEN_STATES, *END_STATES)
    rows = [
        (
            *(queue.name, *_all_counts(queue).values(), when(queue.paused) if queue.paused else ""),
            ", ".join(f"{name} {value}" for name, value in queue.limits.items()),
        )
        for queue in queues
    ]
    more = ("PAUSED", "LIMITS")
    write_table(("QUEUE", *(state.upper() for state in states), *more), rows, optional=more)


def _write_workers(workers: Sequence["WorkerView"]) -> None:
    from qdistd.cli.output import clean, when, write_table

    headers = ("WORKER", "HOST", "PID", "STATE", "PROCESSES", "LEASED", "SETTLED", "QUEUES", "LABELS", "SEEN")
    rows = [
        (
            *(worker.name, worker.host, worker.pid, state_of(worker), worker.processes, worker.leased, worker.settled),
            *(", ".join(worker.queues), ", ".join(worker.labels), when(worker.seen)),
        )
        for worker in workers
    ]
    write_table(headers, rows, optional=("LABELS",))
    for worker in workers:
        for trouble in worker.troubles:
            click.echo(f"{clean(worker.name)}: {clean(trouble)}")


def state_of(worker: "WorkerView") -> str:
    """The state of a worker, in a word for people."""
    return "drained" if worker.drained and worker.state == "connected" else worker.state


def _write_stuck(stuck: Sequence["Stuck"]) -> None:
    from qdistd.cli.output import write_table

    rows = [(each.queue, each.tasks, ", ".join(each.requires), each.reason) for each in stuck]
    write_table(("STUCK IN", "TASKS", "REQUIRE", "WHY"), rows, optional=("REQUIRE",))
