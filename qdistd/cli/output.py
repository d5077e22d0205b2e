"""How things are shown: text for people, JSON for programs.

On a terminal times are relative and states are coloured; in a file or a pipe times are ISO 8601 and nothing is
coloured, nor where NO_COLOR is set. Text that others wrote cannot steer the terminal.
"""

import base64
import json
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "quarantined": "red",
    "crashed": "red",
    "lost": "red",
    "silent": "yellow",
    "rejected": "red",
    "drained": "yellow",
    "paused": "yellow",
    "leased": "cyan",
    "running": "cyan",
    "cancelled": "yellow",
    "gone": "bright_black",
}
"""Words that get a colour wherever they are shown."""

SECOND, MINUTE, HOUR, DAY = 1, 60, 3600, 86400

UNITS = ((DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (SECOND, "s"))

KIB = 1024

DEEPEST = 100
"""Containers in one another that are shown: nobody reads more, and Python counts how deep it goes."""

LONGEST_NUMBER = 10_000
"""Bits of a number that is shown in decimal: Python refuses to make more than some thousand digits of one."""


def is_terminal() -> bool:
    """Whether a person reads our output as it comes."""
    return sys.stdout.isatty()


# -- JSON


def write_json(thing: Any) -> None:
    """One thing, one line."""
    click.echo(json_text(thing))


def json_text(thing: Any) -> str:
    """A thing as one line of JSON."""
    return json.dumps(jsonable(thing), ensure_ascii=False, allow_nan=False)


def jsonable(value: Any, above: tuple[Any, ...] = ()) -> Any:
    """Plain data as JSON can say it.

    Tuples and sets become lists; bytes become {"base64": …}; complex, nan and the infinities their text; numbers of
    thousands of digits their hexadecimal text; keys that are no strings the text that Python writes for them. What
    contains itself, or is nested too deeply to be read, ends in "…". `above`: the containers that it stands in.
    """
    if isinstance(value, dict | list | tuple):
        if len(above) >= DEEPEST or any(value is each for each in above):
            return "…"
        above = (*above, value)
    if isinstance(value, dict):
        return {key if isinstance(key, str) else python(key): jsonable(each, above) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(each, above) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((jsonable(each, above) for each in value), key=repr)
    if isinstance(value, int) and value.bit_length() > LONGEST_NUMBER:
        return hex(value)
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, complex) or (isinstance(value, float) and not abs(value) < float("inf")):
        return str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half of a surrogate pair is no text to anybody else
    return value


def python(value: Any) -> str:
    """Plain data as Python writes it; as JSON where that cannot be, as it is nested too deeply or has a huge number."""
    try:
        return repr(value)
    except (RecursionError, ValueError):
        return json_text(value)


def iso(moment: float) -> str | None:
    """Seconds since 1970 as ISO 8601 in UTC; None for 0, which stands for never."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds") if moment else None


def failure_json(failure: Any) -> dict[str, Any] | None:
    """A `model.Failure` as JSON: kind and message, and what else is known."""
    if failure is None:
        return None
    told = {name: getattr(failure, name) for name in failure.__struct_fields__}
    return {name: value for name, value in told.items() if value or name in ("kind", "message")}


# -- text


def clean(text: str) -> str:
    """The text with every control character but line ends and tabs written out, so that it cannot steer a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def one_line(text: str, longest: int = 0) -> str:
    """The text on one line, cut to `longest` characters (0: never)."""
    line = " ".join(clean(text).split())
    return f"{line[: longest - 1]}…" if 0 < longest < len(line) else line


def text_of(value: Any) -> str:
    """A result as people read it: a string as it is, anything else as JSON."""
    if isinstance(value, str):
        return clean(value) if is_terminal() else value
    return json_text(value)


def when(moment: float) -> str:
    """A moment for people: relative on a terminal, ISO 8601 elsewhere, "-" for never."""
    if not moment:
        return "-"
    return _relative(moment - time.time()) if is_terminal() else str(iso(moment))


def _relative(seconds: float) -> str:
    whole = round(seconds)
    if whole == 0:
        return "now"
    return f"in {span(whole)}" if whole > 0 else f"{span(-whole)} ago"


def span(seconds: float) -> str:
    """A length of time in its two largest units: "3 min 20 s", "2 d 4 h"; "12 ms" below a second."""
    if seconds < SECOND:
        return f"{seconds * 1000:.2g} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    if seconds < MINUTE:
        return f"{seconds:.3g} s"
    rest, parts = round(seconds), []
    for size, unit in UNITS:
        number, rest = divmod(rest, size)
        if number:
            parts.append(f"{number} {unit}")
        elif parts:
            break
    return " ".join(parts[:2])


def amount(number: float) -> str:
    """Bytes for people: "1.2 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < KIB:
            return f"{number:.3g} {unit}"
        number /= KIB
    return f"{number:.3g} TiB"


def coloured(word: str) -> str:
    """The word in its colour; `click.echo` takes the colour away where it does not belong."""
    return click.style(word, COLOURS[word]) if word in COLOURS else word


def write_table(headers: Sequence[str], rows: Iterable[Sequence[object]], optional: Sequence[str] = ()) -> None:
    """Columns of equal width; numbers to the right. An `optional` column is left out where nothing is in it."""
    lines = [[clean(str(cell)) for cell in row] for row in (headers, *rows)]
    if len(lines) == 1:
        return
    columns = [column for column in zip(*lines, strict=True) if column[0] not in optional or any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell.isdigit() for cell in column[1:]) for column in columns]
    for line in zip(*columns, strict=True):
        padded = (_pad(*cell) for cell in zip(line, widths, right, strict=True))
        click.echo("  ".join(padded).rstrip())


def _pad(cell: str, width: int, right: bool) -> str:
    space = " " * (width - len(cell))
    return space + coloured(cell) if right else coloured(cell) + space


def write_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """A label and what it says, line by line; nothing for what is empty."""
    for label, text in pairs:
        if text:
            click.echo(f"{label:<10} {text}")
