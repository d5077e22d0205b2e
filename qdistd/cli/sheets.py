"""What is told of a task: a line of `qdist list`, the sheet of `qdist show`, and both as JSON."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from qdistd.call import decode_call, decode_failure, decode_value
from qdistd.cli.causes import advice, cause_of, long, used
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
from qdistd.model import Failure, Progress, State, id_text
from qdistd.views import AttemptView, TaskView

LAST_LINES = 10
"""Lines that `qdist show` shows of what an attempt has printed."""

LONGEST_ARGUMENT = 200
"""Characters of one argument on the sheet; --json has all."""

PLAIN = (
    *("why", "blocked_by", "if_failed", "requires", "concurrency_key", "soft_timeout", "backoff", "backoff_cap"),
    *("failures", "crashes", "losses", "partials_before"),
)
"""What `qdist show --json` has of a task as it is, beside what `qdist list` has."""

BAR = 20
"""Characters of a bar that shows how far a task is."""

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
    told |= {name: getattr(task, name) for name in PLAIN}
    return told | {
        "expires": iso(task.expires),
        "after": [id_text(each) for each in task.after],
        "progress": progress_json(task.progress),
        "partials": [value_or_bytes(each) for each in task.partials],
        "attempts": [_attempt_json(attempt) for attempt in task.attempts],
    }


def progress_json(progress: Progress | None) -> dict[str, Any] | None:
    """How far a task is, as JSON has it; `total` is null where the task does not know."""
    if progress is None:
        return None
    return {"done": progress.done, "total": progress.total or None, "note": progress.note}


def value_or_bytes(encoded: bytes) -> Any:
    """An encoded value; the bytes themselves where they are none."""
    try:
        return decode_value(encoded)
    except Malformed:
        return encoded


def _end_json(task: TaskView) -> dict[str, Any]:
    if task.state is State.SUCCEEDED:
        return {"result": value_or_bytes(task.value)}
    return {"failure": failure_json(_failure(task))} if task.state.final else {}


def _attempt_json(attempt: AttemptView) -> dict[str, Any]:
    told = {name: getattr(attempt, name) for name in attempt.__struct_fields__}
    told |= {"started": iso(attempt.started), "failure": failure_json(attempt.failure)}
    told["rss"] = attempt.rss * KIB
    told["output"] = attempt.output.decode(errors="replace")
    return told


def write_summaries(tasks: Iterable[TaskView]) -> None:
    """The table of `qdist list`."""
    write_table(HEADERS, [_summary_row(task) for task in tasks])


def _summary_row(task: TaskView) -> Sequence[object]:
    return (
        *(id_text(task.id), task.name, task.queue, task.state.word, task.attempt),
        *(when(task.created), task.worker),
    )


def write_sheet(task: TaskView) -> None:
    """All about one task."""
    write_pairs(_facts(task))
    if task.attempts:
        click.echo()
        write_table(
            ("ATTEMPT", "OUTCOME", "CAUSE", "WORKER", "HOST", "STARTED", "TIME", "CPU", "MEMORY"),
            [_attempt_row(attempt) for attempt in task.attempts],
        )
    for attempt in task.attempts:
        if attempt.failure:
            _write_failure(attempt, attempt.failure)
        if attempt.output:
            _write_output(attempt.number, attempt.output)
    _write_partials(task)
    if lines := list(advice(task)):
        click.echo("\n" + "\n".join(lines))


def _facts(task: TaskView) -> Iterator[tuple[str, str]]:
    yield "id", id_text(task.id)
    yield "task", clean(task.name)
    yield "arguments", ", ".join(_arguments(task)) or "none"
    yield "state", f"{coloured(task.state.word)}{f', attempt {task.attempt}' if task.attempt else ''}"
    yield "queue", clean(task.queue) + (f", priority {task.priority}" if task.priority else "")
    yield "because", clean(task.why) or end_of(task)
    yield "after", _after(task)
    yield "key", clean(task.key)
    yield "requires", clean(", ".join(task.requires))
    yield "at once", f"limited by the key {clean(task.concurrency_key)}" if task.concurrency_key else ""
    yield "timeout", ", ".join(_limits(task))
    yield "retries", _retries(task)
    yield "used", used(task)
    yield "created", when(task.created)
    yield "runs", when(task.run_at) if task.state is State.SCHEDULED else ""
    yield "expires", when(task.expires) if task.expires and not task.state.final else ""
    yield "finished", when(task.finished) if task.finished else ""
    yield "worker", clean(task.worker) if task.state is State.LEASED else ""
    yield "progress", bar(task.progress) if task.progress else ""
    if task.state is State.SUCCEEDED:
        yield "result", text_of(value_or_bytes(task.value))


def end_of(task: TaskView) -> str:
    """Why it has ended, where that is not what its last attempt says."""
    failure = _failure(task) if task.state.final and task.state is not State.SUCCEEDED else None
    said = [attempt.failure for attempt in task.attempts[-1:]]
    return one_line(failure.message) if failure and failure not in said else ""


def _after(task: TaskView) -> str:
    if not task.after:
        return ""
    waits = f", waits for {task.blocked_by} of them" if task.blocked_by else ""
    return f"{len(task.after)} {'task' if len(task.after) == 1 else 'tasks'}{waits}; if one fails: {task.if_failed}"


def _limits(task: TaskView) -> Iterator[str]:
    if task.timeout:
        yield span(task.timeout)
    if task.soft_timeout:
        yield f"SoftTimeout after {span(task.soft_timeout)}"


def _retries(task: TaskView) -> str:
    if not task.retries:
        return ""
    return (
        f"{task.retries}, the first after {span(task.backoff)} at most, none after more than {span(task.backoff_cap)}"
    )


def bar(progress: Progress) -> str:
    """How far a task is, drawn where it knows: "[#####.....]  50 %  5 of 10, copying"."""
    note = one_line(progress.note, LONGEST_ARGUMENT)
    if progress.total <= 0:
        return ", ".join(filter(None, (f"{progress.done:g}", note)))
    share = min(max(progress.done / progress.total, 0.0), 1.0)
    drawn = "#" * int(share * BAR)
    numbers = ", ".join(filter(None, (f"{progress.done:g} of {progress.total:g}", note)))
    return f"[{drawn:.<{BAR}}] {share:4.0%}  {numbers}"


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
        *(attempt.number, attempt.outcome, cause_of(attempt), attempt.worker, attempt.host, when(attempt.started)),
        *(span(attempt.wall) if ended else "", span(attempt.cpu) if ended else ""),
        amount(attempt.rss * KIB) if attempt.rss else "",
    )


def _write_failure(attempt: AttemptView, failure: Failure) -> None:
    click.echo(f"\nattempt {attempt.number} {attempt.outcome}: {long(failure)}")
    for line in clean(failure.traceback).splitlines():
        click.echo(f"  {line}")


def _write_output(number: int, output: bytes) -> None:
    lines = clean(output.decode(errors="replace")).splitlines()
    more = f" (the last of {len(lines)} lines; `qdist logs` has more)" if len(lines) > LAST_LINES else ""
    click.echo(f"\nattempt {number} printed{more}:")
    for line in lines[-LAST_LINES:]:
        click.echo(f"  {line}")


def _write_partials(task: TaskView) -> None:
    shown = task.partials[-LAST_LINES:]
    before = task.partials_before + len(task.partials) - len(shown)
    if shown:
        click.echo(f"\npartial results{f' (the last of {before + len(shown)})' if before else ''}:")
    for number, value in enumerate(shown, before + 1):
        click.echo(f"  {number:>3}  {one_line(text_of(value_or_bytes(value)), LONGEST_ARGUMENT)}")


def write_predecessors(tasks: Sequence[TaskView], more: int) -> None:
    """The tasks that another one comes after and that have not succeeded; `more`: of how many others is not known."""
    click.echo("\ncomes after:")
    write_table(HEADERS, [_summary_row(task) for task in tasks])
    if more:
        click.echo(f"and {more} more (--json has their ids)")


def _call(task: TaskView) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Arguments and keyword arguments; None where somebody submitted other bytes."""
    try:
        return decode_call(task.payload)
    except Malformed:
        return None


def _failure(task: TaskView) -> Failure | None:
    return decode_failure(task.value) if task.value else None
