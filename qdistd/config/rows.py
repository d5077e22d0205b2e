"""What the table of settings is made of: a row for each key, a dataclass for each section.

setting · required ──> a key          section ──> [limits]          named ──> [queue.NAME], as many as there are
                                                                     listed ──> [[share]], with a key `name`
"""

import dataclasses
from types import MappingProxyType
from typing import Any, NamedTuple

from qdistd.config.kinds import Kind, Raw

NAME = "name"
"""The key of a listed table that tells it from the others."""


class Setting(NamedTuple):
    """One row of the table. `default` is the TOML value that stands in the sample; an example where `required`."""

    kind: Kind
    default: Raw
    explanation: str
    required: bool = False


class Named(NamedTuple):
    """Tables of one kind, each with a name that a person chooses. `example`: the name that stands in the sample.

    `listed`: they are written as [[share]], and their name stands in a key of theirs.
    """

    kind: type[Any]
    example: str
    explanation: str
    listed: bool = False

    @property
    def rows(self) -> dict[str, Setting]:
        """The keys that each of them has."""
        return rows(self.kind)


class Fault(NamedTuple):
    """Settings that are right one by one and wrong together.

    `keys`: (section, key), the one to change first; `name`: that of the table, where the section is one of many.
    """

    keys: tuple[tuple[str, str], ...]
    wrong: str
    expected: str
    name: str = ""


def setting(kind: Kind, default: Raw, explanation: str) -> Any:
    """A field that is a key of a file."""
    metadata = {"setting": Setting(kind, default, explanation)}
    if isinstance(default, dict):  # dataclasses want a new one for each
        return dataclasses.field(default_factory=lambda: kind.read({**default}), metadata=metadata)
    return dataclasses.field(default=kind.read(default), metadata=metadata)


def required(kind: Kind, example: Raw, explanation: str) -> Any:
    """A field that is a key without a default: its table must have it."""
    return dataclasses.field(metadata={"setting": Setting(kind, example, explanation, required=True)})


def section(kind: type) -> Any:
    """A field that is a section of a file."""
    return dataclasses.field(default=kind(), metadata={"section": kind})


def named(kind: type, example: str, explanation: str) -> Any:
    """A field that holds tables by their name. A mapping has no hash, and needs none to be frozen."""
    metadata = {"named": Named(kind, example, explanation)}
    return dataclasses.field(default_factory=lambda: MappingProxyType({}), hash=False, metadata=metadata)


def listed(kind: type, explanation: str) -> Any:
    """The same of tables that have their name in a key `name`."""
    metadata = {"named": Named(kind, rows(kind)[NAME].default, explanation, listed=True)}
    return dataclasses.field(default_factory=lambda: MappingProxyType({}), hash=False, metadata=metadata)


def rows(config: type[Any]) -> dict[str, Setting]:
    """The keys among the fields of a dataclass."""
    fields = dataclasses.fields(config)
    return {field.name: field.metadata["setting"] for field in fields if "setting" in field.metadata}
