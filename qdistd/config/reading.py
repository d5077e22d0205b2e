"""One TOML file, read with the line of every key.

    bytes ──> text ──> statements (one key or one header each) ──> {("limits", "lease"): line}
                └────> tomllib ──> tables

tomllib tells the place of a syntax error but not of a value, so the text is cut into statements here: a statement
is the fewest lines that are valid TOML by themselves.
"""

import re
import stat
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qdistd.config.kinds import NOT_TOML, Raw, quoted

LARGEST_FILE = 256 * 1024
"""Bytes of a configuration file: a thousand times more than anybody needs, and no device is read for ever."""

Trail = tuple[str, ...]
"""The names of the tables down to a key, and the key. An element of an array goes by its number, from 0."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_AT_END = " (at end of document)"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration. `str()` is one line: the place, the setting, what to do."""

    place: str
    setting: str
    wrong: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.setting, self.wrong) if part)


class Unusable(Exception):
    """A file that cannot be read at all, as the problem it is."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True)
class Layer:
    """One file: `tables` as TOML gives them, `lines` from the trail of a key or a table to its line."""

    file: str
    tables: Mapping[str, Raw]
    lines: Mapping[Trail, int]

    def place(self, trail: Trail) -> str:
        """`FILE:LINE` of a key or a table, or of the value that it stands in."""
        while trail and trail not in self.lines:
            trail = trail[:-1]
        return f"{self.file}:{self.lines.get(trail, 1)}"


class Statement(NamedTuple):
    """One header, key, comment or empty line: where it starts, the header it stands under, what it says alone."""

    line: int
    text: str
    header: Trail
    tables: Mapping[str, Raw]


def dotted(trail: Trail) -> str:
    """A trail as TOML writes it, with quotes where a name needs them."""
    return ".".join(name if _BARE.fullmatch(name) else quoted(name) for name in trail)


def read_bytes(path: Path) -> bytes:
    """The bytes of a configuration file. Unusable where there is none or it is none."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _unusable(path, "is not a regular file; expected a TOML file")
        if status.st_size > LARGEST_FILE:
            raise _unusable(path, f"holds {status.st_size} bytes; expected {LARGEST_FILE} at most")
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from error


def parse(path: Path, data: bytes) -> Layer:
    """The file cut into tables and lines. Unusable, with line and column, where it is no TOML."""
    try:
        text = data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise Unusable(Problem(f"{path}:{line}:{column}", "", "not valid TOML: not UTF-8 text")) from error
    try:
        tables = tomllib.loads(text)
    except NOT_TOML as error:
        raise Unusable(_syntax(path, text, str(error))) from error
    return Layer(str(path), tables, _first_lines(text))


def _unusable(path: Path, wrong: str) -> Unusable:
    return Unusable(Problem(str(path), "", wrong))


def _syntax(path: Path, text: str, message: str) -> Problem:
    found = _PLACE.search(message)
    line, column = (int(found[1]), int(found[2])) if found else _unfinished(text)
    wrong = _PLACE.sub("", message).removesuffix(_AT_END)
    return Problem(f"{path}:{line}:{column}", "", f"not valid TOML: {wrong}")


def _unfinished(text: str) -> tuple[int, int]:
    """Where the statement starts that never ends: tomllib names only the end of the file."""
    *_, last = statements(text)
    return last.line, 1


def statements(text: str) -> Iterator[Statement]:
    """The text cut into statements, in order, comments and empty lines among them. The last may be broken."""
    header: Trail = ()
    elements: Counter[Trail] = Counter()
    start, waiting = 1, ""
    for number, line in enumerate(text.split("\n"), 1):
        waiting += line
        tables = _tables(waiting)
        if tables is None:
            waiting += "\n"
            continue
        if waiting.lstrip().startswith("["):
            header = list(_trails((), tables))[-1]
        if waiting.lstrip().startswith("[["):
            elements[header] += 1
            header = (*header, str(elements[header] - 1))
        yield Statement(start, waiting, header, tables)
        start, waiting = number + 1, ""
    if waiting:
        yield Statement(start, waiting, header, {})


def _tables(statement: str) -> dict[str, Raw] | None:
    try:
        return tomllib.loads(statement)
    except NOT_TOML:
        return None


def _first_lines(text: str) -> dict[Trail, int]:
    """A table that is opened twice (`[a.b]`, then `[a]`) has the line of its first mention."""
    lines: dict[Trail, int] = {}
    for statement in statements(text):
        opens = statement.text.lstrip().startswith("[")
        for trail in _trails(() if opens else statement.header, statement.tables):
            lines.setdefault(trail, statement.line)
        lines.setdefault(statement.header, statement.line)
    return lines


def _trails(above: Trail, table: Mapping[str, Raw]) -> Iterator[Trail]:
    for key, value in table.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _trails((*above, key), value)
