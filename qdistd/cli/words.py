"""How the words of a command line become values. What a function here refuses is a usage error that names it."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

STDIN = "-"
"""Stands for the ids that arrive on standard input, one a line."""


def value_of(text: str | bytes) -> Any:
    """The value that an argument of a task stands for: JSON where it parses, else the text itself."""
    try:
        return json_value(text)
    except (ValueError, RecursionError):
        return text


def json_value(text: str | bytes) -> Any:
    """JSON as the standard has it. ValueError (or RecursionError) where it is none."""
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")  # Python would read NaN and Infinity, which JSON does not have


def is_number(text: str) -> bool:
    """Whether the text is a JSON number: what tells the argument -7 from an option."""
    return type(value_of(text)) in (int, float)


def duration(text: str) -> float:
    """Seconds from 30s, 5m, "1h 30m" or a number of seconds."""
    from qdistd.config.kinds import duration as read

    try:
        return read(text.strip())
    except ValueError as error:
        raise click.BadParameter(f"{error}: expected something like 30s, 5m or 1h") from None


def pair(text: str) -> tuple[str, Any]:
    """Name and value from `name=value`, the value read as an argument is."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} has no name and value: expected something like n=7 or to=alice")
    return name, value_of(value)


def moment(text: str) -> datetime:
    """A point in time: ISO 8601, or HH:MM for the next time the clock shows it; this host's time zone if none."""
    try:
        clock = datetime.strptime(text, "%H:%M")
    except ValueError:
        return _date(text)
    now = datetime.now()
    today = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
    return (today if today > now else today + timedelta(days=1)).astimezone()


def expiry(text: str) -> float | datetime:
    """How long, as `duration`, or until when, as `moment`."""
    try:
        return duration(text)
    except click.BadParameter:
        pass
    try:
        return moment(text)
    except click.BadParameter:
        raise click.BadParameter(
            f"{text!r} is neither a length of time nor a time: expected something like 30m, 18:30 or 2026-11-24T18:30"
        ) from None


def _date(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no time: expected 18:30, 2026-11-24T18:30 or 2026-11-24T18:30+01:00"
        ) from None
    return moment if moment.tzinfo else moment.astimezone()


def task_id(text: str) -> str:
    """The id of a task as qdist writes it, typed with or without dashes; or `-`."""
    from qdistd.model import id_from_text, id_text

    if text == STDIN:
        return text
    try:
        return id_text(id_from_text(text))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no id of a task: expected something like 0192f0c1-2b3c-7d4e-8f90-a1b2c3d4e5f6"
        ) from None


def every_id(ids: Iterable[str]) -> Iterator[str]:
    """The ids, with those of standard input where `-` stands. A usage error names a line that is none."""
    for each in ids:
        if each == STDIN:
            yield from _ids_of_stdin()
        else:
            yield each


def _ids_of_stdin() -> Iterator[str]:
    for number, line in enumerate(sys.stdin, 1):
        try:
            if line.strip():
                yield task_id(line.strip())
        except click.BadParameter as error:
            raise click.UsageError(f"standard input, line {number}: {error.message}") from None


def ids_argument(command: Decorated) -> Decorated:
    """The argument ID…"""
    return click.argument("ids", metavar="ID...", type=task_id, nargs=-1, required=True)(command)


def json_option(command: Decorated) -> Decorated:
    """The option --json."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")(command)


def timeout_option(command: Decorated) -> Decorated:
    """The option --timeout of what waits."""
    text = "How long to wait at most [default: as long as it takes]"
    return click.option("--timeout", type=duration, help=text)(command)
