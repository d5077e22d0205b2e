"""A file of tasks, line by line: {"task": "square", "args": [7], "queue": "mail"} or ["square", 7].

bytes ──blocks──> numbered lines ──read_line──> Line, or Refused with the reason
                                                  └──submit_line──> Handle
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, cast

import click

from qdistd.cli import words
from qdistd.client.handle import Handle
from qdistd.client.options import Choices
from qdistd.client.options import read as check_options
from qdistd.client.submitter import Submitter
from qdistd.errors import Refused

BLOCK = 256 * 1024
"""Bytes that are read at once: some thousand lines."""

LONGEST = 16 * 1024 * 1024
"""Bytes of a line: twice the largest payload that a master may be set to take."""

TIMES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("delay", "timeout", "soft_timeout", "backoff", "backoff_cap"), words.duration),
    "run_at": words.moment,
    "expires": words.expiry,
}
"""Options that may be text, as on the command line."""

EXPECTED = 'expected {"task": "square", "args": [7]} or ["square", 7]'


class Line(NamedTuple):
    """A task as a line has it."""

    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    choices: Choices
    after: Sequence[int | str] = ()
    """`after` with what only a whole file can tell: numbers of lines above."""


def blocks(file: BinaryIO) -> Iterator[list[tuple[int, bytes]]]:
    """The lines that are not empty, with their numbers: all that are there at a time. Refused over `LONGEST`."""
    number, rest = 0, b""
    while block := file.read1(BLOCK):  # type: ignore[attr-defined]  # BinaryIO leaves it out, every buffered file has it
        *lines, rest = (rest + block).split(b"\n")
        yield [(at, line) for at, line in enumerate(lines, number + 1) if line.strip()]
        number += len(lines)
        if len(rest) > LONGEST:
            raise Refused(f"line {number + 1} has more than {LONGEST} bytes")
    if rest.strip():
        yield [(number + 1, rest)]


def read_line(text: bytes, *, linked: bool = False) -> Line:
    """The task on a line. Refused, saying why, where there is none. `linked`: it may name lines above in `after`."""
    try:
        value = words.json_value(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"this is no JSON{_why(error)}; {EXPECTED}") from None
    if isinstance(value, list):
        value = {"task": value[0] if value else None, "args": value[1:]}
    if not isinstance(value, dict) or not isinstance(value.get("task"), str):
        raise Refused(f"there is no name of a task; {EXPECTED}")
    task, args, kwargs = value.pop("task"), value.pop("args", []), value.pop("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise Refused("args must be an array, kwargs an object")
    after = value.get("after", ())
    if not isinstance(after, list) or not any(type(each) is int for each in after):
        return Line(task, args, kwargs, _choices(value))
    if not linked:
        raise Refused("after: numbers of lines are for --atomic; else it takes ids of tasks")
    value["after"] = [_stand_in(each) if type(each) is int else each for each in after]
    return Line(task, args, kwargs, _choices(value), after)


def _stand_in(number: int) -> str:
    """An id for the task of a line above, which has none yet, so that the options of this line can be checked."""
    return str(uuid.UUID(int=number % 2**128))


def submit_line(
    submitter: Submitter, number: int, line: Line, key: str, above: Mapping[int, Handle[Any]] | None = None
) -> Handle[Any]:
    """Submit the task of a line. Its own choices stand above those of the submitter.

    `key`: what its key begins with, where it has none. `above`: the tasks of the lines above, which it may come after.
    """
    choices = line.choices
    if key and "key" not in choices:
        choices = {**choices, "key": f"{key}:{number}"}
    if line.after:
        choices = {**choices, "after": [_task_of(each, above or {}) for each in line.after]}
    if choices:
        submitter = submitter.options(**choices)
    return submitter.submit(line.task, *line.args, **line.kwargs)


def _task_of(named: int | str, above: Mapping[int, Handle[Any]]) -> Handle[Any] | str:
    if isinstance(named, str):
        return named
    if named not in above:
        raise Refused(f"after: {named} is no line with a task above this one")
    return above[named]


def _why(error: Exception) -> str:
    """Where the JSON ends to be some: its own line is not the one of the file."""
    return f" from column {error.colno} on ({error.msg})" if isinstance(error, json.JSONDecodeError) else f" ({error})"


def _choices(given: dict[str, Any]) -> Choices:
    if "at" in given:
        given["run_at"] = given.pop("at")
    for name, read in TIMES.items():
        if isinstance(given.get(name), str):
            try:
                given[name] = read(given[name])
            except click.BadParameter as error:
                raise Refused(f"{name}: {error.message}") from None
    choices = cast(Choices, given)
    if given:
        check_options(choices)
    return choices
