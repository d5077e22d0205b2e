"""The kinds of value a setting can have: how each is written, read, limited and explained.

    text typed at `qdist config set` ──toml──> TOML value ──read──> Python value
    TOML file ──────────────────────────────────────┘

`read` refuses with a ValueError that says what is wrong; `expected` says what would be right.
"""

import difflib
import json
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

NOT_TOML = (ValueError, RecursionError)
"""What tomllib raises: TOMLDecodeError, or these for a number too long and for brackets too deep."""

SECONDS = {
    **dict.fromkeys(("ms", "msec"), 0.001),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400),
}
"""Units of a duration, spelled as systemd.time(7) spells them."""

BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
"""Units of a size. K, M, G and T mean the same, as for systemd; KB and MB are refused as ambiguous."""

LONGEST_NAME = 200
"""Characters of a name of a queue or a task, as in `qdistd.model.Name`."""

LONGEST_ECHO = 60
"""Characters of a wrong value that a message repeats."""

_PLAIN = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*")
_PART = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z]+)\s*")
_AMBIGUOUS = re.compile(r"(?i)([kmgt])b\s*$")
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


def quoted(text: str) -> str:
    """A string in double quotes, on one line, cut where it is long."""
    cut = text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}…"
    return json.dumps(cut, ensure_ascii=not cut.isprintable())


def echo(raw: Raw) -> str:
    """A wrong value as it is shown to the person who wrote it."""
    match raw:
        case str():
            return quoted(raw)
        case bool():
            return str(raw).lower()
        case int() | float():
            return str(raw)[:LONGEST_ECHO]
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
        except NOT_TOML:
            return text

    def near(self, raw: Raw) -> str:
        """What a wrong value was probably meant to be, as TOML; empty where nothing is near."""
        meant = self.toml(raw) if isinstance(raw, str) else raw
        try:
            self.read(meant)
        except ValueError:
            return ""
        return json.dumps(meant)

    def refusal(self, raw: Raw, error: ValueError) -> str:
        """The whole sentence about a value that `read` has refused with `error`."""
        near = self.near(raw)
        return f"{error}; expected {self.expected}" + (f"; did you mean {near}?" if near else "")


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
            raise ValueError(f"{echo(raw)} is out of range")
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
        seconds = duration(raw) if isinstance(raw, str) else raw
        if not duration(self.least) <= seconds <= duration(self.most):
            raise ValueError(f"{echo(raw)} is out of range")
        return float(seconds)


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

    def near(self, raw: Raw) -> str:
        """KB and MB may mean 1000 or 1024; here people mean 1024."""
        return super().near(_AMBIGUOUS.sub(r"\1iB", raw) if isinstance(raw, str) else raw)


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

    def toml(self, text: str) -> Raw:
        """The word, whether it was typed in quotes or not."""
        return _text(super().toml(text), text)

    def near(self, raw: Raw) -> str:
        """The choice that is spelled almost so."""
        near = difflib.get_close_matches(str(raw).lower(), self.words, n=1)
        return quoted(near[0]) if near else ""


@dataclass(frozen=True)
class Text(Kind):
    """A string that `rule` accepts; `rule` returns the value or raises ValueError.

    Where `secret`, a wrong value is never repeated: somebody may have written
    the key itself where its file was asked for.
    """

    form: str
    rule: Callable[[str], Any]
    secret: bool = False

    @property
    def expected(self) -> str:
        return self.form

    def read(self, raw: Raw) -> Any:
        """What the rule makes of it."""
        if not isinstance(raw, str):
            raise ValueError(f"{self.shown(raw)} is no string")
        if not raw.isprintable():
            raise ValueError(f"{self.shown(raw)} holds characters that cannot be printed")
        return self.rule(raw)

    def toml(self, text: str) -> Raw:
        """The text, whether it was typed in quotes or not."""
        return _text(super().toml(text), text)

    def near(self, raw: Raw) -> str:
        """What was meant without a second pair of quotes; never of a secret."""
        return "" if self.secret else super().near(raw)

    def shown(self, raw: Raw) -> str:
        """A wrong value as a message may show it."""
        return "this" if self.secret else echo(raw)


@dataclass(frozen=True)
class Several(Kind):
    """A list of strings, each read by `of`, none twice, `least` at the least. A tuple once read."""

    of: Text
    least: int = 0

    @property
    def expected(self) -> str:
        return f"a list of {'one or more' if self.least else 'any number of'} {self.of.form}"

    def read(self, raw: Raw) -> tuple[Any, ...]:
        """The values in the order of the list."""
        if not isinstance(raw, list):
            raise ValueError(f"{self.of.shown(raw)} is no list")
        values = tuple(self.of.read(item) for item in raw)
        if len(values) < self.least:
            raise ValueError("the list is empty")
        if len(set(values)) < len(values):
            raise ValueError("the list names something twice")
        return values

    def toml(self, text: str) -> Raw:
        """A TOML list, or words with commas between them."""
        raw = super().toml(text)
        if isinstance(raw, list):
            return raw
        return [part for part in re.split(r"[\s,]+", _text(raw, text)) if part]

    def near(self, raw: Raw) -> str:
        """A single word that should be a list of one; never of a secret."""
        return "" if self.of.secret else super().near(raw)


def _text(raw: Raw, typed: str) -> str:
    """What was typed for a string: 42 and true are strings there."""
    return raw if isinstance(raw, str) else typed


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except Refused as error:
        raise ValueError(f"{quoted(text)} is no address") from error


def _master(text: str) -> Address:
    address = _address(text)
    if not address.path and address.port == 0:
        raise ValueError(f"{quoted(text)} has port 0, where nobody can listen")
    return address


def _name(text: str) -> str:
    if not 0 < len(text) <= LONGEST_NAME or text != text.strip():
        raise ValueError(f"{echo(text)} is no name")
    return text


def _module(text: str) -> str:
    if not _MODULE.fullmatch(text):
        raise ValueError(f"{echo(text)} is no name of a module")
    return text


def _folder(text: str) -> Path:
    if not text.startswith("/"):
        raise ValueError(f"{echo(text)} is no absolute path")
    return Path(text)


def _key_file(text: str) -> Path:
    """Never echoes the text: somebody may have written the key itself here."""
    path = Path(text).expanduser() if text.startswith("~/") else Path(text)
    if not path.is_absolute():
        raise ValueError("this is no absolute path of a key file (the key itself must never stand here)")
    return path


def _store(text: str) -> str:
    if not re.fullmatch(r"sqlite:///.+|sqlite://:memory:", text) or text.endswith("/"):
        raise ValueError(f"{echo(text)} is no store")
    return text


_ADDRESSES = 'addresses such as "127.0.0.1:5000", "[::1]:5000" or "unix:/run/qdist-master/qdist.sock"'
_NAMES = f"of 1 to {LONGEST_NAME} printable characters"

LISTEN = Several(Text(_ADDRESSES, _address), least=1)
MASTERS = Several(Text(_ADDRESSES, _master), least=1)
NAME = Text(f"a name {_NAMES}", _name)
NAMES = Several(Text(f"names {_NAMES}", _name), least=1)
MODULES = Several(Text('module names such as "mypackage.tasks"', _module), least=1)
FOLDER = Text('an absolute path such as "/var/lib/qdist/worker"', _folder)
FOLDERS = Several(Text('absolute paths such as "/opt/mytasks"', _folder))
KEY_FILE = Text('an absolute path such as "/etc/qdist/keys/work.key" or "~/my.key"', _key_file, secret=True)
KEY_FILES = Several(Text('absolute paths such as "/etc/qdist/keys/work.key"', _key_file, secret=True))
STORE = Text('"sqlite:///absolute/path/of/file.db"', _store)
