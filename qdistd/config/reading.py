"""One TOML file, read with the line of every key.

    bytes ──> text ──> statements (one key or one header each) ──> {("limits", "lease"): line}
                └────> tomllib ──> tables

tomllib tells the place of a syntax error but not of a value, so the text is cut into statements here: a statement
is the fewest lines that are valid TOML by themselves.
"""

import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qdistd.config.kinds import Raw

LARGEST_FILE = 256 * 1024
"""Bytes of a configuration file: a thousand times more than anybody needs, and no device is read for ever."""

Trail = tuple[str, ...]
"""The names of the tables down to a key, and the key."""

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
        """`FILE:LINE` of a key or a table."""
        return f"{self.file}:{self.lines.get(trail, 1)}"


def read_bytes(path: Path) -> bytes:
    """The bytes of a configuration file. Unusable where there is none or it is none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _unusable(path, "is not a regular file; expected a TOML file")
        if path.stat().st_size > LARGEST_FILE:
            raise _unusable(path, f"is larger than a configuration can be ({LARGEST_FILE} bytes)")
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from error


def parse(path: Path, data: bytes) -> Layer:
    """The file cut into tables and lines. Unusable, with line and column, where it is no TOML."""
    try:
        text = data.decode().replace("\r\n", "\n")
        return Layer(str(path), tomllib.loads(text), _first_lines(text))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise Unusable(Problem(f"{path}:{line}:{column}", "", "is not UTF-8 text")) from error
    except tomllib.TOMLDecodeError as error:
        raise Unusable(_syntax(path, text, str(error))) from error


def _unusable(path: Path, wrong: str) -> Unusable:
    return Unusable(Problem(str(path), "", wrong))


def _syntax(path: Path, text: str, message: str) -> Problem:
    found = _PLACE.search(message)
    line, column = (int(found[1]), int(found[2])) if found else _unfinished(text)
    wrong = _PLACE.sub("", message).removesuffix(_AT_END)
    return Problem(f"{path}:{line}:{column}", "", f"not valid TOML: {wrong}")


def _unfinished(text: str) -> tuple[int, int]:
    """Where the statement starts that the end of the file cuts off: tomllib names only the end."""
    *_, (line, _) = _statements(text)
    return line, 1


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of every statement, comments and empty lines among them."""
    waiting: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        waiting.append(line)
        statement = "\n".join(waiting)
        if _complete(statement):
            yield number + 1 - len(waiting), statement
            waiting.clear()
    if waiting:
        yield number + 1 - len(waiting), "\n".join(waiting)


def _complete(statement: str) -> bool:
    try:
        tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _first_lines(text: str) -> dict[Trail, int]:
    """A table that is opened twice (`[a.b]`, then `[a]`) has the line of its first mention."""
    lines: dict[Trail, int] = {}
    for trail, number in _lines(text):
        lines.setdefault(trail, number)
    return lines


def _lines(text: str) -> Iterator[tuple[Trail, int]]:
    header: Trail = ()
    for number, statement in _statements(text):
        trails = list(_trails((), tomllib.loads(statement)))
        if statement.lstrip().startswith("["):
            header = trails[-1] if trails else ()
            yield from ((trail, number) for trail in trails)
        else:
            yield from ((header + trail, number) for trail in trails)


def _trails(above: Trail, table: Mapping[str, Raw]) -> Iterator[Trail]:
    for key, value in table.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _trails((*above, key), value)
