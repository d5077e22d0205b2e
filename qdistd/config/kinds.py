"""The kinds of value a setting can have: how each is written, read, limited and explained.

    text typed at `qdist config set` ──toml──> TOML value ──read──> Python value
    TOML file ──────────────────────────────────────┘

`read` refuses with a ValueError that says what is wrong; `expected` says what would be right.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdistd.address import Address
from qdistd.errors import Refused

Raw = Any
"""A value as TOML gives it: str, int, float, bool, list, dict, or a date."""

SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
"""Units of a duration."""

BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
"""Units of a size. K, M, G and T mean the same, as for systemd; KB and MB are refused as ambiguous."""

LONGEST_NAME = 200
"""Characters of a name of a queue or a task, as in `qdistd.model.Name`."""

_LONGEST_ECHO = 60
_PLAIN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*")
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_LOWER_BYTES = {key.lower(): size for unit, size in BYTES.items() for key in (unit, unit[0])}


def duration(text: str) -> float:
    """Seconds from "30s", "500 ms", "1h 30m", "7d" or a plain number. ValueError where it is none."""
    if plain := _PLAIN.fullmatch(text):
        return float(plain[1])
    parts = _PART.findall(text)
    if _PART.sub("", text) or not parts or any(unit not in SECONDS for _, unit in parts):
        raise ValueError(f"{echo(text)} is no duration")
    return float(sum(float(number) * SECONDS[unit] for number, unit in parts))


def size(text: str) -> int:
    """Bytes from "64 KiB", "1.5 MiB", "512M" or a plain number; "" is 0. ValueError where it is none."""
    if not text.strip():
        return 0
    if plain := _PLAIN.fullmatch(text):
        return int(float(plain[1]))
    part = _PART.fullmatch(text)
    if not part or part[2].lower() not in _LOWER_BYTES:
        raise ValueError(f"{echo(text)} is no size")
    return int(float(part[1]) * _LOWER_BYTES[part[2].lower()])


def duration_text(seconds: float) -> str:
    """The duration in its largest whole unit: 90.0 is "90s", 3600.0 is "1h"."""
    unit = next((unit for unit in ("d", "h", "m", "s") if seconds and seconds % SECONDS[unit] == 0), "")
    return f"{seconds / SECONDS[unit]:.0f}{unit}" if unit else f"{seconds * 1000:g} ms" if seconds else "0s"


def size_text(number: int) -> str:
    """The size in its largest whole unit: 65536 is "64 KiB"."""
    unit = next(unit for unit in reversed(BYTES) if number % BYTES[unit] == 0 and (number or unit == "B"))
    return f"{number // BYTES[unit]} {unit}"


def echo(raw: Raw) -> str:
    """A wrong value as it is shown to the person who wrote it, cut where it is long."""
    match raw:
        case bool():
            return str(raw).lower()
        case int() | float():
            return str(raw)
        case str():
            return f'"{raw}"' if len(raw) <= _LONGEST_ECHO else f'"{raw[:_LONGEST_ECHO]}…"'
        case list():
            return "a list"
        case dict():
            return "a table"
    return "a date or time"


class Kind:
    """One kind of value."""

    @property
    def expected(self) -> str:
        """What would be right, to follow the word "expected"."""
        raise NotImplementedError

    def read(self, raw: Raw) -> Any:
        """The Python value of a TOML value; ValueError says what is wrong with it."""
        raise NotImplementedError

    def toml(self, text: str) -> Raw:
        """The TOML value of what a person typed: TOML where it parses, else the text itself."""
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text


@dataclass(frozen=True)
class Flag(Kind):
    """true or false."""

    @property
    def expected(self) -> str:
        return "true or false"

    def read(self, raw: Raw) -> bool:
        """The flag itself."""
        if not isinstance(raw, bool):
            raise ValueError(f"{echo(raw)} is neither true nor false")
        return raw


@dataclass(frozen=True)
class Number(Kind):
    """A whole number from `least` to `most`."""

    least: int
    most: int

    @property
    def expected(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def read(self, raw: Raw) -> int:
        """The number itself."""
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise ValueError(f"{echo(raw)} is no whole number")
        if not self.least <= raw <= self.most:
            raise ValueError(f"{raw} is out of range")
        return raw


@dataclass(frozen=True)
class Duration(Kind):
    """A time span, in seconds once read."""

    least: str
    most: str

    @property
    def expected(self) -> str:
        return f'a duration from "{self.least}" to "{self.most}" such as "30s", "500 ms" or "1h"'

    def read(self, raw: Raw) -> float:
        """Seconds."""
        if isinstance(raw, bool) or not isinstance(raw, str | int | float):
            raise ValueError(f"{echo(raw)} is no duration")
        seconds = duration(raw) if isinstance(raw, str) else float(raw)
        if not duration(self.least) <= seconds <= duration(self.most):
            raise ValueError(f"{echo(raw)} is out of range")
        return seconds


@dataclass(frozen=True)
class Size(Kind):
    """An amount of memory, in bytes once read."""

    least: str
    most: str
    optional: bool = False

    @property
    def expected(self) -> str:
        none = ', or "" for none' if self.optional else ""
        return f'a size from "{self.least}" to "{self.most}" such as "64 KiB" or "1 MiB"{none}'

    def read(self, raw: Raw) -> int:
        """Bytes; 0 stands for none."""
        if isinstance(raw, bool) or not isinstance(raw, str | int):
            raise ValueError(f"{echo(raw)} is no size")
        number = size(raw) if isinstance(raw, str) else raw
        if self.optional and number == 0:
            return 0
        if not size(self.least) <= number <= size(self.most):
            raise ValueError(f"{echo(raw)} is out of range")
        return number


@dataclass(frozen=True)
class Choice(Kind):
    """One word of a few."""

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        return " or ".join(f'"{word}"' for word in self.words)

    def read(self, raw: Raw) -> str:
        """The word itself."""
        if raw not in self.words:
            raise ValueError(f"{echo(raw)} is none of the choices")
        return str(raw)


@dataclass(frozen=True)
class Text(Kind):
    """A string that `rule` accepts; `rule` returns the value or raises ValueError."""

    form: str
    rule: Callable[[str], Any]

    @property
    def expected(self) -> str:
        return self.form

    def read(self, raw: Raw) -> Any:
        """What the rule makes of it."""
        if not isinstance(raw, str):
            raise ValueError(f"{echo(raw)} is no string")
        return self.rule(raw)


@dataclass(frozen=True)
class Several(Kind):
    """A list of strings, each read by `of`, none twice, `least` at the least. A tuple once read."""

    of: Text
    least: int = 0

    @property
    def expected(self) -> str:
        return f"a list of {self.of.expected}" if self.least == 0 else f"a list of at least one {self.of.expected}"

    def read(self, raw: Raw) -> tuple[Any, ...]:
        """The values in the order of the list."""
        if not isinstance(raw, list):
            raise ValueError(f"{echo(raw)} is no list")
        values = tuple(self.of.read(item) for item in raw)
        if len(values) < self.least:
            raise ValueError("the list is empty")
        if len(set(values)) < len(values):
            raise ValueError("the list names something twice")
        return values

    def toml(self, text: str) -> Raw:
        """A TOML list, or words with commas between them."""
        raw = super().toml(text)
        return [part.strip() for part in text.split(",") if part.strip()] if isinstance(raw, str) else raw


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except Refused as error:
        raise ValueError(f'"{text}" is no address') from error


def _master(text: str) -> Address:
    address = _address(text)
    if not address.path and address.port == 0:
        raise ValueError(f'"{text}" has port 0, where nobody can listen')
    return address


def _name(text: str) -> str:
    if not 0 < len(text) <= LONGEST_NAME or text != text.strip() or not text.isprintable():
        raise ValueError(f"{echo(text)} is no name")
    return text


def _module(text: str) -> str:
    if not _MODULE.fullmatch(text):
        raise ValueError(f"{echo(text)} is no name of a module")
    return text


def _folder(text: str) -> Path:
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{echo(text)} is no absolute path")
    return Path(text)


def _key_file(text: str) -> Path:
    """Never echoes the text: somebody may have written the key itself here."""
    path = Path(text).expanduser() if text.startswith("~/") else Path(text)
    if not path.is_absolute() or "\0" in text:
        raise ValueError("this is no absolute path of a key file (and a key itself must never stand here)")
    return path


def _store(text: str) -> str:
    if not re.fullmatch(r"sqlite:///.+|sqlite://:memory:", text) or text.endswith("/"):
        raise ValueError(f"{echo(text)} is no store")
    return text


ADDRESS_EXPECTED = 'address such as "127.0.0.1:5000", "[::1]:5000" or "unix:/run/qdist/master.sock"'

LISTEN = Several(Text(ADDRESS_EXPECTED, _address), least=1)
MASTERS = Several(Text(ADDRESS_EXPECTED, _master), least=1)
NAME = Text(f"a name of 1 to {LONGEST_NAME} printable characters", _name)
NAMES = Several(Text(f"name of 1 to {LONGEST_NAME} printable characters", _name), least=1)
MODULES = Several(Text('module name such as "mypackage.tasks"', _module), least=1)
FOLDER = Text('an absolute path such as "/var/lib/qdist/worker"', _folder)
FOLDERS = Several(Text('absolute paths such as "/opt/mytasks"', _folder))
KEY_FILE = Text('an absolute path such as "/etc/qdist/keys/work.key" or "~/.config/qdist/submit.key"', _key_file)
KEY_FILES = Several(Text('absolute paths such as "/etc/qdist/keys/work.key"', _key_file))
STORE = Text('"sqlite:///absolute/path/of/file.db"', _store)
