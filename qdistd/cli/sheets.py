"""What is told of a task: a line of `qdist list`, the sheet of `qdist show`, and both as JSON."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from qdistd.call import decode_call, decode_failure, decode_value
from qdistd.cli.output import (
    KIB,
    amount,
    clean,
    coloured,
    failure_json,
    iso,
    one_line,
    python,
    span,
    text_of,
    when,
    write_pairs,
    write_table,
)
from qdistd.errors import Malformed
from qdistd.model import Failure, State, id_text
from qdistd.views import AttemptView, TaskView

LAST_LINES = 10
"""Lines that `qdist show` shows of what an attempt has printed."""

LONGEST_ARGUMENT = 200
"""Characters of one argument on the sheet; --json has all."""

HEADERS = ("ID", "TASK", "QUEUE", "STATE", "ATTEMPT", "CREATED", "WORKER")


def summary_json(task: TaskView) -> dict[str, Any]:
    """A task as `qdist list --json` has it."""
    return {
        "id": id_text(task.id),
        "task": task.name,
        "queue": task.queue,
        "state": task.state.word,
        "attempt": task.attempt,
        "priority": task.priority,
        "created": iso(task.created),
        "run_at": iso(task.run_at),
        "finished": iso(task.finished),
        "retries": task.retries,
        "timeout": task.timeout,
        "key": task.key,
        "worker": task.worker,
    }


def detail_json(task: TaskView) -> dict[str, Any]:
    """A task as `qdist show --json` has it: with arguments, result or failure, and attempts."""
    told = summary_json(task)
    call = _call(task)
    told |= {"args": call[0], "kwargs": call[1]} if call else {"payload": task.payload}
    told |= _end_json(task)
    return told | {"attempts": [_attempt_json(attempt) for attempt in task.attempts]}


def _end_json(task: TaskView) -> dict[str, Any]:
    if task.state is State.SUCCEEDED:
        return {"result": decode_value(task.value)}
    return {"failure": failure_json(_failure(task))} if task.state.final else {}


def _attempt_json(attempt: AttemptView) -> dict[str, Any]:
    told = {name: getattr(attempt, name) for name in attempt.__struct_fields__}
    told |= {"started": iso(attempt.started), "failure": failure_json(attempt.failure)}
    told["rss"] = attempt.rss * KIB
    told["output"] = attempt.output.decode(errors="replace")
    return told


def write_summaries(tasks: Iterable[TaskView]) -> None:
    """The table of `qdist list`."""
    write_table(
        HEADERS,
        [
            (
                *(id_text(task.id), task.name, task.queue, task.state.word, task.attempt),
                *(when(task.created), task.worker),
            )
            for task in tasks
        ],
    )


def write_sheet(task: TaskView) -> None:
    """All about one task."""
    write_pairs(_facts(task))
    if task.attempts:
        click.echo()
        write_table(
            ("ATTEMPT", "OUTCOME", "WORKER", "HOST", "STARTED", "TIME", "CPU", "MEMORY"),
            [_attempt_row(attempt) for attempt in task.attempts],
        )
    for attempt in task.attempts:
        if attempt.failure:
            _write_failure(attempt.number, attempt.failure)
        if attempt.output:
            _write_output(attempt.number, attempt.output)


def _facts(task: TaskView) -> Iterator[tuple[str, str]]:
    yield "id", id_text(task.id)
    yield "task", clean(task.name)
    yield "arguments", ", ".join(_arguments(task)) or "none"
    yield "state", f"{coloured(task.state.word)}{f', attempt {task.attempt}' if task.attempt else ''}"
    yield "queue", clean(task.queue) + (f", priority {task.priority}" if task.priority else "")
    yield "key", clean(task.key)
    yield "timeout", span(task.timeout) if task.timeout else ""
    yield "retries", str(task.retries or "")
    yield "created", when(task.created)
    yield "runs", when(task.run_at) if task.state is State.SCHEDULED else ""
    yield "finished", when(task.finished) if task.finished else ""
    yield "worker", clean(task.worker) if task.state is State.LEASED else ""
    if task.state is State.SUCCEEDED:
        yield "result", text_of(decode_value(task.value))


def _arguments(task: TaskView) -> Iterator[str]:
    call = _call(task)
    if call is None:
        yield f"{len(task.payload)} bytes that are no call"
        return
    for value in call[0]:
        yield one_line(python(value), LONGEST_ARGUMENT)
    for name, value in call[1].items():
        yield one_line(f"{name}={python(value)}", LONGEST_ARGUMENT)


def _attempt_row(attempt: AttemptView) -> Sequence[object]:
    ended = attempt.outcome != "running"
    return (
        *(attempt.number, attempt.outcome, attempt.worker, attempt.host, when(attempt.started)),
        *(span(attempt.wall) if ended else "", span(attempt.cpu) if ended else ""),
        amount(attempt.rss * KIB) if attempt.rss else "",
    )


def _write_failure(number: int, failure: Failure) -> None:
    what = ": ".join(filter(None, (failure.type or failure.kind, failure.message)))
    click.echo(f"\nattempt {number}: {one_line(what)}")
    for line in clean(failure.traceback).splitlines():
        click.echo(f"  {line}")


def _write_output(number: int, output: bytes) -> None:
    lines = clean(output.decode(errors="replace")).splitlines()
    more = f" (the last of {len(lines)} lines; `qdist logs` has more)" if len(lines) > LAST_LINES else ""
    click.echo(f"\nattempt {number} printed{more}:")
    for line in lines[-LAST_LINES:]:
        click.echo(f"  {line}")


def _call(task: TaskView) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Arguments and keyword arguments; None where somebody submitted other bytes."""
    try:
        return decode_call(task.payload)
    except Malformed:
        return None


def _failure(task: TaskView) -> Failure | None:
    return decode_failure(task.value) if task.value else None
