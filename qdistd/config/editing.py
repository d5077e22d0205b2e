"""The library half of `qdist config set`: change one value in a person's file and nothing else.

    bytes ──edit──> bytes ──survey──> right? ──> temporary file, fsync, rename, fsync of the folder

The file that is there is always whole: the old one or the new one, whenever the power goes.
"""

import contextlib
import os
import re
import stat
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from qdistd.config.kinds import Raw, echo
from qdistd.config.loading import HERE, FileName, Place, main_file, survey
from qdistd.config.reading import Trail, Unusable, dotted, parse, read_bytes, statements
from qdistd.config.settings import FileKind, Schema, schema
from qdistd.config.showing import sample, toml_key, toml_value
from qdistd.config.survey import INSTANCE, INSTANCE_EXPECTED, INSTANCES, Where, did_you_mean, listed, unknown_key
from qdistd.durable import sync_folder
from qdistd.errors import ConfigError

NEW_FILE_MODE = 0o644
"""A configuration holds no secrets: everybody may read it."""


def set_value(kind: FileKind, path: FileName, name: str, text: str, *, place: Place = HERE) -> Path:
    """Write one setting into a file; the file it was written to.

    `name`: "limits.lease", for a master also "queue.NAME.rate", for a worker also "instance.NAME.queues" and
    "instance.NAME.limits.timeout". `text`: the value as TOML or without quotes, lists with commas. A missing file
    begins as the shipped sample. ConfigError, and the file stays as it is, where the name is unknown or anything
    would be wrong with the resulting file.
    """
    table = schema(kind)
    where, trail = _target(table, name)
    raw = _value(table, where, name, text)
    file = _file(kind, path, place)
    old = _old(kind, file)
    new = _edited(file, old.decode(), trail, raw).encode()
    _prove(kind, file, new, where, place)
    _write(Path(os.path.realpath(file)), new)
    return file


def _file(kind: FileKind, path: FileName, place: Place) -> Path:
    """The file that is read, or else the user's own: what one user sets is not for the whole host."""
    file = main_file(kind, path, place)
    new_for_all = file == place.etc / "client.toml" and not os.path.lexists(file)
    return place.home if place.home and new_for_all else file


def _target(table: Schema, name: str) -> tuple[Where, Trail]:
    """The setting that is meant, and where it stands in a file."""
    if name.split(".")[0] in table.named:
        return _target_in_named(table, name)
    instance, section, key = _parts(table, name)
    if instance and not INSTANCE.fullmatch(instance):
        raise ConfigError(f"{name}: {echo(instance)} is no name of an instance; expected {INSTANCE_EXPECTED}")
    where = Where(instance, section, key)
    if key not in table.sections[section]:
        raise ConfigError(f"{name}: {unknown_key(table, where)}")
    inner = (key,) if section == table.main else (section, key)
    return where, (INSTANCES, instance, *inner) if instance else (section, key)


def _target_in_named(table: Schema, name: str) -> tuple[Where, Trail]:
    """The setting of a table that a person names; that name may have dots in it."""
    section, *middle, key = name.split(".")
    if table.listed(section):
        raise ConfigError(f"{name}: the tables [[{section}]] are not changed from here; edit the file by hand")
    where = Where("", section, key, ".".join(middle))
    if not middle:
        raise ConfigError(f"{name}: there is no such setting; expected {section}.NAME.key")
    if key not in table.rows(section):
        raise ConfigError(f"{name}: {unknown_key(table, where)}")
    return where, (section, where.name, key)


def _parts(table: Schema, name: str) -> tuple[str, str, str]:
    """Instance, section and key of "section.key" or "instance.NAME.[section.]key"; NAME may have dots in it."""
    instance, rest = "", name.split(".")
    if rest[0] == INSTANCES and table.main == "worker" and len(rest) > 2:
        below = 2 if len(rest) > 3 and rest[-2] in table.sections and rest[-2] != table.main else 1
        instance, rest = ".".join(rest[1:-below]), [table.main, *rest[-below:]][-2:]
    if len(rest) == 2 and rest[0] in table.sections:
        return instance, rest[0], rest[1]
    known = [f"{section}.{key}" for section, rows in table.sections.items() for key in rows]
    hints = [other for other in known if other.rpartition(".")[2] == rest[-1]]
    hint = f"; did you mean {listed(hints)}?" if hints else did_you_mean(name, known)
    raise ConfigError(f"{name}: there is no such setting; expected section.key such as {known[0]}{hint}")


def _value(table: Schema, where: Where, name: str, text: str) -> Raw:
    kind = table.rows(where.section)[where.key].kind
    raw = kind.toml(text)
    try:
        kind.read(raw)
    except ValueError as error:
        raise ConfigError(f"{name}: {kind.refusal(raw, error)}") from None
    return raw


def _old(kind: FileKind, file: Path) -> bytes:
    """What is in the file now, if it is TOML at all."""
    if not os.path.lexists(file):
        return sample(kind).encode()
    try:
        data = read_bytes(file)
        parse(file, data)
    except Unusable as unusable:
        raise ConfigError(str(unusable)) from unusable
    return data


def _edited(file: Path, old: str, trail: Trail, raw: Raw) -> str:
    """The text with the value in it, proved to say the same as before about everything else."""
    meant = tomllib.loads(old)
    if _put(meant, trail, raw):
        is_set = trail in parse(file, old.encode()).lines
        for edit in (_replaced,) if is_set else (_inserted, _replaced):
            with contextlib.suppress(TOMLKitError, tomllib.TOMLDecodeError):
                new = edit(old, trail, raw)
                if tomllib.loads(new) == meant:
                    return new
    raise ConfigError(f"{file}: {dotted(trail)} cannot be changed without touching more; edit the file by hand")


def _put(tables: dict[str, Raw], trail: Trail, raw: Raw) -> bool:
    """Put a value into what tomllib made of a file; False where something else stands in its way."""
    inner: Raw = tables
    for name in trail[:-1]:
        inner = inner.setdefault(name, {})
        if not isinstance(inner, dict):
            return False
    inner[trail[-1]] = raw
    return True


def _replaced(old: str, trail: Trail, raw: Raw) -> str:
    """The value in place of the one that is set, with its spaces and its comment."""
    document = tomlkit.parse(old)
    table: Any = document
    for name in trail[:-1]:
        table = table[name]
    table[trail[-1]] = tomlkit.value(toml_value(raw)) if isinstance(raw, dict) else raw
    return tomlkit.dumps(document)


def _inserted(old: str, trail: Trail, raw: Raw) -> str:
    """A line for what is not set yet, where a person looks for it.

    That is below `#key = default`, else below the last key of its table, else in a new table at the end.
    """
    end = "\r\n" if "\r\n" in old else "\n"
    new = f"{tomlkit.key(trail[-1]).as_string()} = {toml_value(raw)}{end}"
    line = _line_below(old.replace("\r\n", "\n"), trail)
    lines = re.findall(r"[^\n]*\n|[^\n]+", old)
    if line is None:
        return "".join([*lines, _missing_end(lines, end), end, f"[{toml_key(trail[:-1])}]{end}", new])
    return "".join([*lines[:line], _missing_end(lines[:line], end), new, *lines[line:]])


def _line_below(old: str, trail: Trail) -> int | None:
    """The number of lines above the place for a new key; None: its table is not there."""
    comment = re.compile(rf"\s*#\s*{re.escape(trail[-1])}\s*=")
    table = [statement for statement in statements(old) if statement.header == trail[:-1]]
    commented = [statement for statement in table if comment.match(statement.text)]
    places = commented or [statement for statement in table if statement.tables]
    return places[-1].line + places[-1].text.count("\n") if places else None


def _missing_end(lines: list[str], end: str) -> str:
    return end if lines and not lines[-1].endswith("\n") else ""


def _prove(kind: FileKind, file: Path, new: bytes, where: Where, place: Place) -> None:
    """Everything would be right, and the new value would count. The environment of this moment is left out."""
    whole = survey(kind, file, Place({}, place.etc), {file: new}).sound()
    origin = whole.found[where].origin
    if not origin.startswith(f"{file}:"):
        raise ConfigError(f"{file}: nothing would change, for {origin} stands above it; change it there")


def _write(file: Path, data: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".new", dir=file.parent)
        try:
            with open(descriptor, "wb") as new:  # noqa: PTH123 - a descriptor, not a path
                _take_after(file, descriptor)
                new.write(data)
                new.flush()
                os.fsync(descriptor)
            Path(temporary).rename(file)
        finally:
            Path(temporary).unlink(missing_ok=True)
        sync_folder(file.parent)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error


def _take_after(file: Path, descriptor: int) -> None:
    """The new file gets the owner and the mode of the old one."""
    try:
        old = file.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, NEW_FILE_MODE)
        return
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
