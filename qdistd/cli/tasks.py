"""`qdist show`, `qdist list`, `qdist cancel`, `qdist retry`: looking at tasks, and changing their course."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from qdistd.cli.exits import Exit
from qdistd.cli.words import every_id, ids_argument, json_option
from qdistd.errors import NotFound

if TYPE_CHECKING:
    from qdistd.model import State
    from qdistd.protocol import Cancel, List, Listed, Retry

STATES = ("scheduled", "ready", "leased", "succeeded", "failed", "cancelled", "quarantined")

SHOWN = 50
"""Tasks that `qdist list` shows unless told otherwise: about a screen."""

Ask = Callable[[Any], Any]


@click.command("show")
@ids_argument
@json_option
def show_command(ids: tuple[str, ...], as_json: bool) -> int:
    """Show all about tasks, and how each attempt went.

    Arguments, result, times; of every attempt its worker, its length, its memory, and how it ended.
    """
    from qdistd.cli.context import asking
    from qdistd.cli.output import write_json
    from qdistd.cli.sheets import detail_json, write_sheet
    from qdistd.model import id_from_text
    from qdistd.protocol import Show

    code = Exit.OK
    with asking() as ask:
        for position, task_id in enumerate(every_id(ids)):
            try:
                task = ask(Show(id_from_text(task_id)))
            except NotFound as error:
                code = _complain(str(error))
                continue
            if as_json:
                write_json(detail_json(task))
                continue
            if position:
                click.echo()
            write_sheet(task)
    return code


@click.command("list")
@click.option(
    "--state", "states", type=click.Choice(STATES), multiple=True, help="Only in this state; may be repeated."
)
@click.option("--queue", default="", help="Only in this queue.")
@click.option("--task", "name", default="", help="Only with this name.")
@click.option("--limit", type=click.IntRange(0), default=SHOWN, show_default=True, help="How many at most; 0: all.")
@json_option
def list_command(states: tuple[str, ...], queue: str, name: str, limit: int, as_json: bool) -> None:
    """List tasks, the newest first."""
    from qdistd.cli.context import asking
    from qdistd.cli.output import is_terminal, write_json
    from qdistd.cli.sheets import summary_json, write_summaries
    from qdistd.model import State
    from qdistd.protocol import List

    question = List([State[state.upper()] for state in states], queue, name)
    with asking() as ask:
        for page in _pages(ask, question, limit or sys.maxsize):
            if as_json:
                for task in page.tasks:
                    write_json(summary_json(task))
            else:
                write_summaries(page.tasks)
    if page.before and is_terminal():
        click.echo("There may be more: --limit 0 lists all.", err=True)


def _pages(ask: Ask, question: "List", limit: int) -> Iterator["Listed"]:
    from qdistd.protocol import LARGEST_BATCH

    more = True
    while more and limit:
        question.limit = min(limit, LARGEST_BATCH)
        page: Listed = ask(question)
        yield page
        limit -= len(page.tasks)
        question.before = page.before
        more = page.before != 0


@click.command("cancel")
@ids_argument
@json_option
def cancel_command(ids: tuple[str, ...], as_json: bool) -> int:
    """Cancel tasks.

    Prints the state of each: one that is leased is stopped by its worker within moments. The exit code is 1 if a
    task had ended otherwise before, or is not there. An ID of - stands for the ids on
    standard input.
    """
    from qdistd.model import State
    from qdistd.protocol import Cancel

    return _change(Cancel, ids, as_json, lambda state: state is State.CANCELLED or not state.final)


@click.command("retry")
@ids_argument
@json_option
def retry_command(ids: tuple[str, ...], as_json: bool) -> int:
    """Put failed tasks back into their queues.

    Cancelled and quarantined ones as well, all with fresh budgets; prints the state of each. The exit code is 1
    if a task has succeeded, or is not there. An ID of - stands for the ids on standard input.
    """
    from qdistd.protocol import Retry

    return _change(Retry, ids, as_json, lambda state: not state.final)


def _change(verb: "type[Cancel | Retry]", ids: tuple[str, ...], as_json: bool, well: Callable[["State"], bool]) -> int:
    """Say `verb` of all tasks, print where each stands then, and whether that is `well`."""
    from qdistd.cli.context import asking
    from qdistd.model import id_from_text
    from qdistd.protocol import LARGEST_BATCH

    code = Exit.OK
    wanted = [id_from_text(task_id) for task_id in every_id(ids)]
    with asking() as ask:
        for start in range(0, len(wanted), LARGEST_BATCH):
            answer = ask(verb(wanted[start : start + LARGEST_BATCH]))
            _write_states(answer.states, as_json)
            code = max(code, _judge(answer.states, answer.unknown, well))
    return code


def _write_states(states: "dict[bytes, State]", as_json: bool) -> None:
    from qdistd.cli.output import coloured, write_json
    from qdistd.model import id_text

    for task_id, state in states.items():
        if as_json:
            write_json({"id": id_text(task_id), "state": state.word})
        else:
            click.echo(f"{id_text(task_id)}  {coloured(state.word)}")


def _judge(states: "dict[bytes, State]", unknown: Iterable[bytes], well: Callable[["State"], bool]) -> Exit:
    from qdistd.model import id_text

    code = Exit.OK
    for task_id, state in states.items():
        if not well(state):
            code = _complain(f"task {id_text(task_id)} has already ended: {state.word}")
    for task_id in unknown:
        code = _complain(f"there is no task {id_text(task_id)}")
    return code


def _complain(text: str) -> Exit:
    click.echo(f"qdist: {text}", err=True)
    return Exit.FAILED
