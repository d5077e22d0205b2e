"""From files to one frozen configuration, or to all that is wrong with them at once.

    FILE.toml, FILE.d/*.toml ──layers──> walk ──> {(instance, section, key): Found} ──effective──> …Config
    (later wins)                          └─────────────> problems <── faults of the whole ──┘

Every value knows where it comes from, so that each problem and `qdist config show --origin` can name it.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from qdistd.config.kinds import Raw, echo
from qdistd.config.reading import Layer, Problem, Trail, Unusable, parse, read_bytes
from qdistd.config.settings import (
    DEFAULT_INSTANCE,
    ClientConfig,
    Config,
    Fault,
    FileKind,
    MasterConfig,
    Schema,
    Setting,
    WorkerConfig,
    schema,
)
from qdistd.errors import ConfigError

DEFAULT = "default"
"""The origin of what no file sets."""

MASTERS_VARIABLE = "QDIST_MASTER"
FILE_VARIABLE = "QDIST_CONFIG"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"

_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@\\-]{0,99}")
INSTANCE_EXPECTED = "a name of letters, digits and _ . : @ \\ - (it is the name of a folder)"


@dataclass(frozen=True)
class Place:
    """What surrounds the files: the environment, and where the files of the host are."""

    environ: Mapping[str, str]
    etc: Path = Path("/etc/qdist")

    def credential(self, role: str) -> Path | None:
        """The systemd credential with the key of a role, where this service was given one."""
        folder = self.environ.get(CREDENTIALS_VARIABLE)
        path = Path(folder, f"{role}.key") if folder else None
        return path if path and os.path.lexists(path) else None


HERE = Place(os.environ)
"""This process, as it is when it asks."""


class Where(NamedTuple):
    """A setting: the table row it belongs to, and the instance it is for ("": all)."""

    instance: str
    section: str
    key: str


class Found(NamedTuple):
    """A value that something sets: as TOML, as Python, and `FILE:LINE` or what else it comes from."""

    raw: Raw
    value: Any
    origin: str


@dataclass(frozen=True)
class Survey:
    """All that the files of one program say, right and wrong."""

    schema: Schema
    files: tuple[Path, ...]
    found: Mapping[Where, Found]
    problems: tuple[Problem, ...]

    def effective(self, instance: str = "") -> dict[tuple[str, str], Found]:
        """Every setting of an instance, with defaults where nothing sets it."""
        return {
            (section, key): self.found.get(Where(instance, section, key))
            or self.found.get(Where("", section, key))
            or Found(row.default, row.kind.read(row.default), DEFAULT)
            for section, rows in self.schema.sections.items()
            for key, row in rows.items()
        }

    def config(self, instance: str = "") -> Config:
        """The settings of an instance as they are used."""
        return build(self.schema, self.effective(instance), instance)

    @property
    def instances(self) -> list[str]:
        """The instances that have settings of their own."""
        return sorted({where.instance for where in self.found} - {""})


def load_master(path: Path | str | None = None, *, place: Place = HERE) -> MasterConfig:
    """The master's settings. `path` None: /etc/qdist/master.toml, or the defaults. ConfigError names all problems."""
    config = _sound(survey("master", path, place)).config()
    assert isinstance(config, MasterConfig)
    return config


def load_worker(
    path: Path | str | None = None, instance: str = DEFAULT_INSTANCE, *, place: Place = HERE
) -> WorkerConfig:
    """The settings of one instance. `path` None: /etc/qdist/worker.toml. ConfigError names all problems."""
    if not _INSTANCE.fullmatch(instance):
        raise ConfigError(f"{echo(instance)} is no name of an instance; expected {INSTANCE_EXPECTED}")
    config = _sound(survey("worker", path, place)).config(instance)
    assert isinstance(config, WorkerConfig)
    return config


def load_client(path: Path | str | None = None, *, place: Place = HERE) -> ClientConfig:
    """The client's settings. ConfigError names all problems.

    `path` None: $QDIST_CONFIG, ~/.config/qdist/client.toml, /etc/qdist/client.toml, or the defaults, whichever is
    there first. $QDIST_MASTER (addresses, with commas) stands above `masters`.
    """
    config = _sound(survey("client", path, place)).config()
    assert isinstance(config, ClientConfig)
    return config


def survey(
    kind: FileKind, path: Path | str | None, place: Place = HERE, instead: Mapping[Path, bytes] | None = None
) -> Survey:
    """Read everything and judge it. `instead`: bytes to take for a file's content (what a `set` would write)."""
    table = schema(kind)
    problems: list[Problem] = []
    layers = list(_layers(files_of(kind, path, place), instead or {}, problems))
    found: dict[Where, Found] = {}
    for layer in layers:
        _walk(table, layer, found, problems)
    _surroundings(table, place, found, problems)
    whole = Survey(table, tuple(Path(layer.file) for layer in layers), found, ())
    if not problems:
        problems.extend(_faults(whole))
    return replace(whole, problems=tuple(problems))


def _sound(whole: Survey) -> Survey:
    if whole.problems:
        raise ConfigError("\n".join(str(problem) for problem in whole.problems))
    return whole


def main_file(kind: FileKind, path: Path | str | None, place: Place = HERE) -> Path:
    """The file that is read first, whether it is there or not."""
    if path is not None:
        return Path(path)
    if kind != "client":
        return place.etc / f"{kind}.toml"
    if explicit := place.environ.get(FILE_VARIABLE):
        return Path(explicit)
    home = place.environ.get("HOME")
    users = Path(home, ".config/qdist/client.toml") if home else None
    return users if users and os.path.lexists(users) else place.etc / "client.toml"


def files_of(kind: FileKind, path: Path | str | None, place: Place = HERE) -> list[Path]:
    """The files to read, in order: the main one unless it is a missing default, then its drop-ins."""
    main = main_file(kind, path, place)
    asked_for = path is not None or (kind == "client" and FILE_VARIABLE in place.environ)
    drop_ins = sorted(main.with_suffix(".d").glob("*.toml")) if main.suffix == ".toml" else []
    return [main, *drop_ins] if asked_for or os.path.lexists(main) else drop_ins


def _layers(files: list[Path], instead: Mapping[Path, bytes], problems: list[Problem]) -> Iterator[Layer]:
    for file in files:
        try:
            yield parse(file, instead[file] if file in instead else read_bytes(file))
        except Unusable as unusable:
            problems.append(unusable.problem)


def _walk(table: Schema, layer: Layer, found: dict[Where, Found], problems: list[Problem]) -> None:
    for trail, instance, section, content in _tables(table, layer.tables):
        if section not in table.sections:
            hint = did_you_mean(section, _sections(table))
            wrong = f"unknown section; expected {_listed(_sections(table))}{hint}"
            problems.append(Problem(layer.place(trail), f"[{'.'.join(trail)}]", wrong))
        elif not isinstance(content, dict):
            wrong = f"{echo(content)} is no section; expected [{'.'.join(trail)}] and its keys below"
            problems.append(Problem(layer.place(trail), ".".join(trail), wrong))
        elif instance and not _INSTANCE.fullmatch(instance):
            wrong = f"{echo(instance)} is no name of an instance; expected {INSTANCE_EXPECTED}"
            problems.append(Problem(layer.place(trail), f"[{'.'.join(trail)}]", wrong))
        else:
            _walk_section(table, layer, trail, Where(instance, section, ""), content, found, problems)


def _tables(table: Schema, tables: Mapping[str, Raw]) -> Iterator[tuple[Trail, str, str, Raw]]:
    """Trail, instance, section and content of every table of a file."""
    for name, content in tables.items():
        if name == "instance" and table.main == "worker" and isinstance(content, dict):
            for instance, own in content.items():
                yield from _tables_of_instance(table, instance, own)
        else:
            yield (name,), "", name, content


def _tables_of_instance(table: Schema, instance: str, own: Raw) -> Iterator[tuple[Trail, str, str, Raw]]:
    trail = ("instance", instance)
    if not isinstance(own, dict):
        yield trail, instance, table.main, own
        return
    below = [section for section in table.sections if section != table.main and section in own]
    yield trail, instance, table.main, {key: raw for key, raw in own.items() if key not in below}
    for section in below:
        yield (*trail, section), instance, section, own[section]


def _walk_section(
    table: Schema,
    layer: Layer,
    trail: Trail,
    where: Where,
    content: Mapping[str, Raw],
    found: dict[Where, Found],
    problems: list[Problem],
) -> None:
    rows = table.sections[where.section]
    for key, raw in content.items():
        origin, name = layer.place((*trail, key)), f"[{'.'.join(trail)}] {key}"
        if key not in rows:
            problems.append(Problem(origin, name, unknown_key(table, where.section, key)))
            continue
        try:
            found[where._replace(key=key)] = Found(raw, rows[key].kind.read(raw), origin)
        except ValueError as error:
            problems.append(Problem(origin, name, f"{error}; expected {rows[key].kind.expected}"))


def unknown_key(table: Schema, section: str, key: str) -> str:
    """What to say about a key that the section does not have."""
    elsewhere = [other for other, rows in table.sections.items() if key in rows]
    if elsewhere:
        return f"there is no such key in this section; it belongs to [{elsewhere[0]}]"
    rows = list(table.sections[section])
    return f"unknown key; expected {_listed(rows)}{did_you_mean(key, rows)}"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """A hint to follow a problem, empty where nothing is near."""
    near = difflib.get_close_matches(word.lower(), list(words), n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def _sections(table: Schema) -> list[str]:
    return [*table.sections, "instance"] if table.main == "worker" else list(table.sections)


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + f" or {words[-1]}" if len(words) > 1 else words[0]


def _surroundings(table: Schema, place: Place, found: dict[Where, Found], problems: list[Problem]) -> None:
    """What the environment says: credentials below the files, $QDIST_MASTER above them."""
    for where, role, listed in _KEY_SETTINGS[table.main]:
        credential = place.credential(role)
        if credential and where not in found:
            value = (credential,) if listed else credential
            found[where] = Found([str(credential)] if listed else str(credential), value, "systemd credential")
    typed = place.environ.get(MASTERS_VARIABLE)
    if table.main == "client" and typed:
        row: Setting = table.sections["client"]["masters"]
        raw = row.kind.toml(typed)
        try:
            found[Where("", "client", "masters")] = Found(raw, row.kind.read(raw), f"${MASTERS_VARIABLE}")
        except ValueError as error:
            problems.append(Problem(f"${MASTERS_VARIABLE}", "", f"{error}; expected {row.kind.expected}"))


_KEY_SETTINGS: Mapping[FileKind, tuple[tuple[Where, str, bool], ...]] = {
    "master": tuple((Where("", "keys", role), role, True) for role in ("admin", "work", "submit")),
    "worker": ((Where("", "worker", "key"), "work", False),),
    "client": ((Where("", "client", "key"), "submit", False),),
}
"""The settings that name key files, the role whose credential they fall back to, and whether they are lists."""


def _faults(whole: Survey) -> Iterator[Problem]:
    seen: set[Problem] = set()
    for instance in ["", *whole.instances]:
        effective = whole.effective(instance)
        for fault in whole.config(instance).faults():
            problem = _fault(whole, instance, effective, fault)
            if problem not in seen:
                yield problem
            seen.add(problem)


def _fault(whole: Survey, instance: str, effective: dict[tuple[str, str], Found], fault: Fault) -> Problem:
    section, key = next((pair for pair in fault.keys if effective[pair].origin != DEFAULT), fault.keys[0])
    own = instance and Where(instance, section, key) in whole.found
    inner = ("instance", instance, *(() if section == whole.schema.main else (section,)))
    name = f"[{'.'.join(inner) if own else section}] {key}"
    return Problem(effective[section, key].origin, name, f"{fault.wrong}; expected {fault.expected}")


def build(table: Schema, effective: Mapping[tuple[str, str], Found], instance: str = "") -> Config:
    """The frozen configuration that these values make."""
    config = table.config()
    for section, rows in table.sections.items():
        values = {key: effective[section, key].value for key in rows}
        if section == table.main:
            config = replace(config, **values)
        else:
            config = replace(config, **{section: replace(getattr(config, section), **values)})
    return replace(config, instance=instance) if isinstance(config, WorkerConfig) and instance else config
