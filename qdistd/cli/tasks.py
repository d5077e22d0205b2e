"""`qdist list`, `qdist cancel`, `qdist retry`: many tasks at once, and changing their course."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from qdistd.cli.completing import queue_names, worker_names
from qdistd.cli.exits import Exit
from qdistd.cli.words import every_id, ids_argument, json_option, timeout_option

if TYPE_CHECKING:
    from qdistd.model import State
    from qdistd.protocol import Cancel, List, Listed, Retry
    from qdistd.views import TaskView

STATES = ("blocked", "scheduled", "ready", "leased", "succeeded", "failed", "cancelled", "quarantined")

SHOWN = 50
"""Tasks that `qdist list` shows unless told otherwise: about a screen."""

Ask = Callable[[Any], Any]


@click.command("list")
@click.option(
    "--state", "states", type=click.Choice(STATES), multiple=True, help="Only in this state; may be repeated."
)
@click.option("--queue", default="", shell_complete=queue_names, help="Only in this queue.")
@click.option("--task", "--name", "name", default="", help="Only with this name.")
@click.option(
    "--worker",
    default="",
    shell_complete=worker_names,
    help="Only what this worker, or any worker of this host, has just now.",
)
@click.option("--limit", type=click.IntRange(0), default=SHOWN, show_default=True, help="How many at most; 0: all.")
@click.option("--ids", "only_ids", is_flag=True, help="Only the ids, for `qdist cancel -` and its like.")
@json_option
def list_command(
    states: tuple[str, ...], queue: str, name: str, worker: str, limit: int, only_ids: bool, as_json: bool
) -> None:
    """List tasks, the newest first.

    \b
      qdist list --worker host7
      qdist list --queue mail --state ready --limit 0 --ids | qdist cancel -
    """
    from qdistd.cli.context import asking
    from qdistd.cli.output import is_terminal
    from qdistd.model import State
    from qdistd.protocol import List

    if worker and set(states) - {"leased"}:
        raise click.UsageError("--worker shows what a worker has just now, which is leased: leave --state out.")
    question = List([State[state.upper()] for state in (("leased",) if worker else states)], queue, name)
    with asking() as ask:
        for page in _pages(ask, question, limit or sys.maxsize, worker):
            _write(page.tasks, only_ids, as_json)
    if page.before and is_terminal():
        click.echo("There may be more: --limit 0 lists all.", err=True)


def _write(tasks: "Sequence[TaskView]", only_ids: bool, as_json: bool) -> None:
    from qdistd.cli.output import write_json
    from qdistd.cli.sheets import summary_json, write_summaries
    from qdistd.model import id_text

    if as_json:
        for task in tasks:
            write_json(summary_json(task))
    elif only_ids:
        for task in tasks:
            click.echo(id_text(task.id))
    else:
        write_summaries(tasks)


def _pages(ask: Ask, question: "List", limit: int, worker: str) -> Iterator["Listed"]:
    """Pages until there are `limit` tasks, or no more; where a worker is named, of what it or its host has."""
    from qdistd.protocol import LARGEST_BATCH

    more = True
    while more and limit:
        question.limit = LARGEST_BATCH if worker else min(limit, LARGEST_BATCH)
        page: Listed = ask(question)
        if worker:
            page.tasks = [task for task in page.tasks if _is_of(task.worker, worker)][:limit]
        yield page
        limit -= len(page.tasks)
        question.before = page.before
        more = page.before != 0


def _is_of(name: str, worker: str) -> bool:
    """Whether this is the name of that worker, or of one of that host: `instance@host`."""
    return worker in (name, name.rpartition("@")[2])


@click.command("cancel")
@ids_argument
@click.option("--wait", is_flag=True, help="Wait until those that run have ended.")
@timeout_option
@json_option
def cancel_command(ids: tuple[str, ...], wait: bool, timeout: float | None, as_json: bool) -> int:
    """Cancel tasks.

    Prints the state of each. What waits is cancelled at once; one that is leased is stopped by its worker within
    moments. To say it twice is no mistake. The exit code is 1 if a task had ended otherwise before, or is not there.
    An ID of - stands for the ids on standard input.
    """
    from qdistd.cli.context import connected
    from qdistd.client.handle import as_completed
    from qdistd.model import State
    from qdistd.protocol import Cancel

    code, running = Exit.OK, []
    with connected(looking=True) as client:
        for task_id, state in _change(client.ask, Cancel, ids):
            if wait and state is State.LEASED:
                running.append(client.handle(task_id))
            else:
                code = max(code, _tell(task_id, state, State.CANCELLED, as_json))
        for handle in as_completed(running, timeout):
            code = max(code, _tell(handle.id, handle.state(), State.CANCELLED, as_json))
    return code


@click.command("retry")
@ids_argument
@json_option
def retry_command(ids: tuple[str, ...], as_json: bool) -> int:
    """Put failed tasks back into their queues.

    Cancelled and quarantined ones as well, all with fresh budgets; prints the state of each. The exit code is 1
    if a task has succeeded, or is not there. An ID of - stands for the ids on standard input.
    """
    from qdistd.cli.context import asking
    from qdistd.protocol import Retry

    code = Exit.OK
    with asking() as ask:
        for task_id, state in _change(ask, Retry, ids):
            code = max(code, _tell(task_id, state, None, as_json))
    return code


def _change(ask: Ask, verb: "type[Cancel | Retry]", ids: tuple[str, ...]) -> Iterator[tuple[str, "State | None"]]:
    """Say `verb` of all tasks: where each stands then, None where there is no such task."""
    from qdistd.model import id_from_text, id_text
    from qdistd.protocol import LARGEST_BATCH

    wanted = [id_from_text(task_id) for task_id in every_id(ids)]
    for start in range(0, len(wanted), LARGEST_BATCH):
        answer = ask(verb(wanted[start : start + LARGEST_BATCH]))
        yield from ((id_text(task_id), state) for task_id, state in answer.states.items())
        yield from ((id_text(task_id), None) for task_id in answer.unknown)


def _tell(task_id: str, state: "State | None", aim: "State | None", as_json: bool) -> Exit:
    """Print where a task stands. The exit code: whether it goes on, or has ended in the state that was the `aim`."""
    from qdistd.cli.output import coloured, write_json

    if state is None:
        return _complain(f"there is no task {task_id}")
    if as_json:
        write_json({"id": task_id, "state": state.word})
    else:
        click.echo(f"{task_id}  {coloured(state.word)}{_note(state, aim)}")
    if state.final and state is not aim:
        return _complain(f"task {task_id} has already ended: {state.word}")
    return Exit.OK


def _note(state: "State", aim: "State | None") -> str:
    """What is to be said of a task that is on its way to the aim."""
    return "  its worker is stopping it" if aim is not None and not state.final else ""


def _complain(text: str) -> Exit:
    click.echo(f"qdist: {text}", err=True)
    return Exit.FAILED
