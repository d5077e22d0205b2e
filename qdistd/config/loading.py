"""From files to one frozen configuration, or to all that is wrong with them at once.

    FILE.toml, FILE.d/*.toml ──parse──> layers ──walk──> {Where: Found} ──effective──> …Config
    (later wins)                                 └────> problems <──── faults of the whole ──┘

Every value knows where it comes from, so that each problem and `qdist config show --origin` can name it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qdistd.config.kinds import echo
from qdistd.config.reading import Layer, Problem, Unusable, parse, read_bytes
from qdistd.config.settings import DEFAULT_INSTANCE, ClientConfig, FileKind, MasterConfig, WorkerConfig, schema
from qdistd.config.survey import INSTANCE, INSTANCE_EXPECTED, Found, Survey, Walk, Where
from qdistd.errors import ConfigError

FileName = str | os.PathLike[str] | None
"""The file a person named, or None for the default place."""

MASTERS_VARIABLE = "QDIST_MASTER"
FILE_VARIABLE = "QDIST_CONFIG"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
RUNTIME_VARIABLE = "RUNTIME_DIRECTORY"


@dataclass(frozen=True)
class Place:
    """What surrounds the files: the environment, and where the files of the host are."""

    environ: Mapping[str, str]
    etc: Path = Path("/etc/qdist")

    @property
    def credentials(self) -> Path | None:
        """The folder where systemd put the secrets of this service."""
        folder = self.environ.get(CREDENTIALS_VARIABLE)
        return Path(folder) if folder else None

    @property
    def renewed(self) -> Path | None:
        """The folder of credentials that were handed over since the start, for a reload."""
        folder = self.environ.get(RUNTIME_VARIABLE, "").partition(":")[0]
        return Path(folder, "keys") if folder else None

    @property
    def home(self) -> Path | None:
        """The client configuration of this user."""
        home = self.environ.get("HOME")
        return Path(home, ".config/qdist/client.toml") if home else None


HERE = Place(os.environ)
"""This process, as it is when it asks."""


def load_master(path: FileName = None, *, place: Place = HERE) -> MasterConfig:
    """The master's settings. `path` None: /etc/qdist/master.toml, or the defaults. ConfigError names all problems."""
    config = survey("master", path, place).sound().config()
    assert isinstance(config, MasterConfig)
    return config


def load_worker(path: FileName = None, instance: str = DEFAULT_INSTANCE, *, place: Place = HERE) -> WorkerConfig:
    """The settings of one instance. `path` None: /etc/qdist/worker.toml, or the defaults. ConfigError as above."""
    if not INSTANCE.fullmatch(instance):
        raise ConfigError(f"{echo(instance)} is no name of an instance; expected {INSTANCE_EXPECTED}")
    config = survey("worker", path, place).sound().config(instance)
    assert isinstance(config, WorkerConfig)
    return config


def load_client(path: FileName = None, *, place: Place = HERE) -> ClientConfig:
    """The client's settings. ConfigError names all problems.

    `path` None: $QDIST_CONFIG, ~/.config/qdist/client.toml, /etc/qdist/client.toml, or the defaults, whichever is
    there first. $QDIST_MASTER (addresses, with commas) stands above `masters`.
    """
    config = survey("client", path, place).sound().config()
    assert isinstance(config, ClientConfig)
    return config


def instances(path: FileName = None, *, place: Place = HERE) -> list[str]:
    """The instances of workers that have settings of their own, whatever may be wrong with the files."""
    return sorted(survey("worker", path, place).instances)


def named_tables(kind: FileKind, path: FileName = None, *, place: Place = HERE) -> list[tuple[str, str]]:
    """Section and name of the tables that a person has named, whatever may be wrong with the files."""
    return sorted(survey(kind, path, place).tables)


def survey(kind: FileKind, path: FileName, place: Place = HERE, instead: Mapping[Path, bytes] | None = None) -> Survey:
    """Read everything and judge it. `instead`: bytes to take for the content of a file (what would be written)."""
    walk = Walk(schema(kind))
    layers = _layers(kind, path, place, instead or {}, walk.problems)
    for layer in layers:
        walk.layer(layer)
    _add_credentials(walk, place)
    _add_masters(walk, place)
    return walk.survey(tuple(layer.file for layer in layers))


def main_file(kind: FileKind, path: FileName, place: Place = HERE) -> Path:
    """The file that is read first, whether it is there or not."""
    named = _named(kind, path, place)
    if named is not None:
        return named
    if kind == "client" and place.home and os.path.lexists(place.home):
        return place.home
    return place.etc / f"{kind}.toml"


def _named(kind: FileKind, path: FileName, place: Place) -> Path | None:
    """The file that somebody asked for by name: it has to be there."""
    named = path or (place.environ.get(FILE_VARIABLE) if kind == "client" else None)
    return Path(named) if named else None


def _layers(
    kind: FileKind, path: FileName, place: Place, instead: Mapping[Path, bytes], problems: list[Problem]
) -> list[Layer]:
    main = main_file(kind, path, place)
    missing = main not in instead and not os.path.lexists(main)
    if missing and _named(kind, path, place):
        wrong = f"there is no such file; `qdist config show {kind} > {main}` writes one with the defaults"
        problems.append(Problem(str(main), "", wrong))
    layers: list[Layer] = []
    for file in [*([] if missing else [main]), *_drop_ins(main, problems)]:
        try:
            layers.append(parse(file, instead[file] if file in instead else read_bytes(file)))
        except Unusable as unusable:
            problems.append(unusable.problem)
    return layers


def _drop_ins(main: Path, problems: list[Problem]) -> list[Path]:
    """FILE.d/*.toml beside FILE.toml, in the order of their names; hidden files are editors' leftovers."""
    if main.suffix != ".toml":
        return []
    folder = main.with_suffix(".d")
    try:
        files = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.append(Problem(str(folder), "", f"cannot be read: {error.strerror}"))
        return []
    return [file for file in files if file.suffix == ".toml" and not file.name.startswith(".")]


def _add_credentials(walk: Walk, place: Place) -> None:
    """A key that no file sets is the systemd credential of its role, where there is one."""
    for where, role in _KEY_SETTINGS[walk.schema.main]:
        credential = place.credentials / f"{role}.key" if place.credentials else None
        if credential and os.path.lexists(credential) and where not in walk.found:
            raw = [str(credential)] if where.section == "keys" else str(credential)
            value = walk.schema.sections[where.section][where.key].kind.read(raw)
            walk.found[where] = Found(raw, value, "systemd credential")


_KEY_SETTINGS: Mapping[FileKind, tuple[tuple[Where, str], ...]] = {
    "master": tuple((Where("", "keys", role), role) for role in ("admin", "work", "submit")),
    "worker": ((Where("", "worker", "key"), "work"),),
    "client": ((Where("", "client", "key"), "submit"),),
}
"""The settings that name key files, and the role whose credential stands in for them."""


def _add_masters(walk: Walk, place: Place) -> None:
    typed = place.environ.get(MASTERS_VARIABLE)
    if walk.schema.main == "client" and typed:
        where = Where("", "client", "masters")
        raw = walk.schema.sections["client"]["masters"].kind.toml(typed)
        walk.value(where, raw, f"${MASTERS_VARIABLE}", "")
