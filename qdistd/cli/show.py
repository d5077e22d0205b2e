"""`qdist show`: all about a task, once or, with --follow, as it happens."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from qdistd.cli.exits import Exit
from qdistd.cli.words import STDIN, every_id, ids_argument, json_option
from qdistd.errors import NotFound

if TYPE_CHECKING:
    from qdistd.model import TaskId
    from qdistd.views import TaskView

PAUSE = 0.5
"""Seconds between two looks at a task that is followed: a worker speaks of its progress once a second."""

MOST_NAMED = 10
"""Tasks that another one waits for and that are shown with it: each is a question to the master."""

Ask = Callable[[Any], Any]


@click.command("show")
@ids_argument
@click.option("-f", "--follow", is_flag=True, help="Of one task: tell what happens to it until it has ended.")
@json_option
def show_command(ids: tuple[str, ...], follow: bool, as_json: bool) -> int:
    """Show all about tasks: why each waits, how far it is, and how each attempt went.

    Arguments, result, times, what it waits for; of every attempt its worker, its length, its memory, and how it
    ended. With --follow a line is printed for whatever happens: a new state, progress, a partial result; the exit
    code is 1 then if it ends without success.
    """
    from qdistd.cli.context import asking

    with asking() as ask:
        if not follow:
            return _show_all(ask, ids, as_json)
        if len(ids) != 1 or ids[0] == STDIN:
            raise click.UsageError("--follow is for one task.")
        return _follow(ask, ids[0], as_json)


def _show_all(ask: Ask, ids: tuple[str, ...], as_json: bool) -> Exit:
    code = Exit.OK
    for position, task_id in enumerate(every_id(ids)):
        try:
            task = _look(ask, task_id)
        except NotFound as error:
            click.echo(f"qdist: {error}", err=True)
            code = Exit.FAILED
            continue
        if position and not as_json:
            click.echo()
        _write(ask, task, as_json)
    return code


def _write(ask: Ask, task: "TaskView", as_json: bool) -> None:
    from qdistd.cli.output import write_json
    from qdistd.cli.sheets import detail_json, write_predecessors, write_sheet

    if as_json:
        write_json(detail_json(task))
        return
    write_sheet(task)
    if task.after and not task.state.final:
        write_predecessors(list(_predecessors(ask, task.after[:MOST_NAMED])), len(task.after[MOST_NAMED:]))


def _predecessors(ask: Ask, ids: "list[TaskId]") -> "Iterator[TaskView]":
    """Those of the tasks that the master still has."""
    from qdistd.protocol import Show

    for task_id in ids:
        try:
            yield ask(Show(task_id))
        except NotFound:
            continue


def _look(ask: Ask, task_id: str) -> "TaskView":
    from qdistd.model import id_from_text
    from qdistd.protocol import Show

    task: TaskView = ask(Show(id_from_text(task_id)))
    return task


def _follow(ask: Ask, task_id: str, as_json: bool) -> Exit:
    from qdistd.cli.following import Follower, JsonFollower
    from qdistd.cli.progress import meter
    from qdistd.model import State

    with meter() as draw:
        follower = JsonFollower() if as_json else Follower(draw)
        while True:
            task = _look(ask, task_id)
            follower.tell(task)
            if task.state.final:
                return Exit.OK if task.state is State.SUCCEEDED else Exit.FAILED
            time.sleep(PAUSE)
