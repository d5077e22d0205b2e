"""`qdist result` and `qdist wait`: how tasks ended."""

import time
from typing import TYPE_CHECKING, Any

import click

from qdistd.cli.exits import Exit
from qdistd.cli.words import every_id, ids_argument, json_option, timeout_option
from qdistd.errors import QdistError, TaskFailed

if TYPE_CHECKING:
    from qdistd.client.handle import Handle


@click.command("result")
@ids_argument
@timeout_option
@json_option
def result_command(ids: tuple[str, ...], timeout: float | None, as_json: bool) -> int:
    """Print the results of tasks, each on a line.

    In the order of the IDs; waits for tasks that have not ended. A string is printed as it is, anything else as
    JSON. Of a task that has no result standard error says why, and
    the exit code is 1. An ID of - stands for the ids on standard input.
    """
    from qdistd.cli.context import connected

    deadline = None if timeout is None else time.monotonic() + timeout
    with connected(looking=False) as client:
        handles = [client.handle(task_id) for task_id in every_id(ids)]
        for handle in handles:
            handle.add_watcher(_nothing)  # has all of them asked for at once
        codes = [write_end(handle, as_json, _left(deadline)) for handle in handles]
    return max(codes)


@click.command("wait")
@ids_argument
@timeout_option
@json_option
def wait_command(ids: tuple[str, ...], timeout: float | None, as_json: bool) -> int:
    """Wait until tasks have ended.

    Prints the id and the state of each as it ends. The exit code is 0 if all of them succeeded, else 1. An ID of
    - stands for the ids on standard input.
    """
    from qdistd.cli.context import connected
    from qdistd.cli.progress import progress
    from qdistd.client.handle import as_completed

    code = Exit.OK
    with connected(looking=False) as client:
        handles = [client.handle(task_id) for task_id in dict.fromkeys(every_id(ids))]
        with progress("waiting", len(handles)) as advance:
            for handle in as_completed(handles, timeout):
                code = max(code, _write_state(handle, as_json))
                advance(1)
    return code


def _nothing(handle: "Handle[Any]") -> None:
    pass


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def write_end(
    handle: "Handle[Any]", as_json: bool, timeout: float | None = None, *, where: str = "", **more: Any
) -> Exit:
    """Wait for a task; print its result, or on standard error why there is none. TimeoutError as `Handle.result`.

    `where` begins the line on standard error, `more` the JSON object.
    """
    from qdistd.cli.output import text_of

    error = handle.exception(timeout)
    if as_json and _has_ended(error):
        _write_end_json(handle, more)
    elif error is None:
        click.echo(text_of(handle.result()))
    else:
        complain(error, where)
    return Exit.OK if error is None else Exit.FAILED


def _write_state(handle: "Handle[Any]", as_json: bool) -> Exit:
    from qdistd.cli.output import coloured

    error = handle.exception()
    if not _has_ended(error):
        complain(error)
    elif as_json:
        _write_end_json(handle, {})
    else:
        click.echo(f"{handle.id}  {coloured(handle.state().word)}")
    return Exit.OK if error is None else Exit.FAILED


def _has_ended(error: QdistError | None) -> bool:
    """Whether the task came to an end, well or not; else it was never taken, or is not there."""
    return error is None or isinstance(error, TaskFailed)


def _write_end_json(handle: "Handle[Any]", more: dict[str, Any]) -> None:
    """The end of a task: id, state, attempt, and `result` or `failure`."""
    from qdistd.cli.output import failure_json, write_json

    error = handle.exception()
    how = {"failure": failure_json(error.failure)} if isinstance(error, TaskFailed) else {"result": handle.result()}
    write_json({**more, "id": handle.id, "state": handle.state().word, "attempt": handle.attempt, **how})


def complain(error: BaseException | str | None, where: str = "") -> None:
    """Tell on standard error why there is no result, or none yet."""
    from qdistd.cli.output import one_line

    click.echo(f"qdist: {where}{one_line(str(error))}", err=True)
