"""A file of tasks, line by line: {"task": "square", "args": [7], "queue": "mail"} or ["square", 7].

bytes ──blocks──> numbered lines ──read_line──> Line, or Refused with the reason
"""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import click

from qdistd.cli import words
from qdistd.client.options import Choices
from qdistd.client.options import read as check_options
from qdistd.errors import Refused

BLOCK = 256 * 1024
"""Bytes that are read at once: some thousand lines."""

LONGEST = 16 * 1024 * 1024
"""Bytes of a line: twice the largest payload that a master may be set to take."""

TIMES = {"delay": words.duration, "timeout": words.duration, "backoff": words.duration, "run_at": words.moment}
"""Options that may be text, as on the command line."""

EXPECTED = 'expected {"task": "square", "args": [7]} or ["square", 7]'


class Line(NamedTuple):
    """A task as a line has it."""

    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    choices: Choices


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


def read_line(text: bytes) -> Line:
    """The task on a line. Refused, saying why, where there is none."""
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
    return Line(task, args, kwargs, _choices(value))


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
