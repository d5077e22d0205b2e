"""`qdist status`, `qdist queues`, `qdist workers`: how the master is and what it has."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from qdistd.cli.words import json_option

if TYPE_CHECKING:
    from qdistd.protocol import StatusView
    from qdistd.views import QueueView, WorkerView

OPEN_STATES = ("scheduled", "ready", "leased")
END_STATES = ("succeeded", "failed", "cancelled", "quarantined")


@click.command("status")
@json_option
def status_command(as_json: bool) -> None:
    """Say how the master is: its queues, its workers, its store.

    Exit code 0: it is there and answers. 75: it does not.
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
    """List the queues and the states of their tasks."""
    from qdistd.cli.context import asking
    from qdistd.cli.output import write_json
    from qdistd.protocol import Queues

    with asking() as ask:
        queues = ask(Queues()).queues
    if not as_json:
        _write_queues(queues)
        return
    for queue in queues:
        write_json(_queue_json(queue))


@click.command("workers")
@json_option
def workers_command(as_json: bool) -> None:
    """List the workers the master has heard of lately.

    A worker is connected, silent (its connection broke, its lease still runs) or gone.
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
        write_json(_worker_json(worker))


def _status_json(status: "StatusView") -> dict[str, Any]:
    from qdistd.cli.output import iso

    told = {name: getattr(status, name) for name in status.__struct_fields__}
    return told | {
        "started": iso(status.started),
        "now": iso(status.now),
        "queues": [_queue_json(queue) for queue in status.queues],
        "workers": [_worker_json(worker) for worker in status.workers],
    }


def _queue_json(queue: "QueueView") -> dict[str, Any]:
    return {"name": queue.name, **_all_counts(queue)}


def _worker_json(worker: "WorkerView") -> dict[str, Any]:
    from qdistd.cli.output import iso

    told = {name: getattr(worker, name) for name in worker.__struct_fields__}
    return told | {"since": iso(worker.since), "seen": iso(worker.seen)}


def _all_counts(queue: "QueueView") -> dict[str, int]:
    return {state: queue.counts.get(state, 0) for state in (*OPEN_STATES, *END_STATES)}


def _write_status(status: "StatusView") -> None:
    from qdistd.cli.output import amount, is_terminal, iso, span, write_pairs

    up = f"up {span(status.now - status.started)}" if is_terminal() else f"since {iso(status.started)}"
    connected = sum(worker.state == "connected" for worker in status.workers)
    write_pairs(
        (
            ("master", f"qdist {status.version} on {status.host}, pid {status.pid}, {up}"),
            ("listening", ", ".join(status.listen)),
            ("store", f"{status.store}, {amount(status.store_bytes)}"),
            ("tasks", _totals(status.queues)),
            ("workers", f"{connected} connected"),
            ("served", f"{status.submitted} submitted, {status.settled} settled, in {status.commits} commits"),
        )
    )
    if status.queues:
        click.echo()
        _write_queues(status.queues)
    if status.workers:
        click.echo()
        _write_workers(status.workers)


def _totals(queues: Iterable["QueueView"]) -> str:
    totals: dict[str, int] = {}
    for queue in queues:
        for state, number in queue.counts.items():
            totals[state] = totals.get(state, 0) + number
    ordered = [state for state in (*OPEN_STATES, *END_STATES) if totals.get(state)]
    return ", ".join(f"{totals[state]} {state}" for state in ordered) or "none"


def _write_queues(queues: Sequence["QueueView"]) -> None:
    from qdistd.cli.output import write_table

    states = (*OPEN_STATES, *END_STATES)
    rows = [(queue.name, *_all_counts(queue).values()) for queue in queues]
    write_table(("QUEUE", *(state.upper() for state in states)), rows)


def _write_workers(workers: Sequence["WorkerView"]) -> None:
    from qdistd.cli.output import when, write_table

    headers = ("WORKER", "HOST", "PID", "STATE", "PROCESSES", "LEASED", "SETTLED", "QUEUES", "SEEN")
    rows = [
        (
            *(worker.name, worker.host, worker.pid, worker.state, worker.processes, worker.leased, worker.settled),
            *(", ".join(worker.queues), when(worker.seen)),
        )
        for worker in workers
    ]
    write_table(headers, rows)
