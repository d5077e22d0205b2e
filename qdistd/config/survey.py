"""What files say, judged by the table: values with their origin, and problems with their line.

Layer ──walk──> found {Where: Found}, problems ──> Survey ──> effective values, …Config
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from qdistd.config.kinds import NAME, Raw, echo
from qdistd.config.reading import Layer, Problem, Trail, dotted
from qdistd.config.rows import NAME as NAME_KEY
from qdistd.config.rows import Fault
from qdistd.config.settings import Config, Schema, WorkerConfig
from qdistd.errors import ConfigError

DEFAULT = "default"
"""The origin of what nothing sets."""

INSTANCES = "instance"
"""The table that holds one table for every instance of the worker."""

INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@\\-]{0,99}")
INSTANCE_EXPECTED = "letters, digits and _ . : @ \\ - (it is the name of a folder)"


class Where(NamedTuple):
    """A setting: the row of the table it belongs to, and the instance it is for ("": all).

    `name`: that of its own table, where the section is one of many, such as [queue.NAME].
    """

    instance: str
    section: str
    key: str
    name: str = ""


class Found(NamedTuple):
    """A value that something sets: as TOML, as Python, and `FILE:LINE` or what else it comes from."""

    raw: Raw
    value: Any
    origin: str


@dataclass(frozen=True)
class Survey:
    """All that the files of one program say, right and wrong."""

    schema: Schema
    files: tuple[str, ...]
    found: Mapping[Where, Found]
    problems: tuple[Problem, ...] = ()
    tables: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Section and name of every table that a person has named, and where it stands first."""

    def sound(self) -> "Survey":
        """Itself. ConfigError with a line for every problem, where there are any."""
        if self.problems:
            raise ConfigError("\n".join(str(problem) for problem in self.problems))
        return self

    @property
    def instances(self) -> list[str]:
        """The instances that have settings of their own."""
        return sorted({where.instance for where in self.found} - {""})

    def where(self, where: Where) -> Where:
        """Where the value of a setting of an instance stands: in its own table, or in that of all."""
        return where if where in self.found else where._replace(instance="")

    def look(self, where: Where) -> Found:
        """A setting as it counts: what something sets, or its default."""
        row = self.schema.rows(where.section)[where.key]
        return self.found.get(self.where(where)) or Found(row.default, row.kind.read(row.default), DEFAULT)

    def effective(self, instance: str = "") -> dict[tuple[str, str], Found]:
        """Every setting of an instance, by section and key, with defaults where nothing sets it."""
        sections = self.schema.sections.items()
        return {(section, key): self.look(Where(instance, section, key)) for section, rows in sections for key in rows}

    def named(self, section: str) -> dict[str, dict[str, Found]]:
        """Every setting of the tables that a person has named, by name and key. What misses a key is left out."""
        names = [name for kind, name in self.tables if kind == section and not any(self.missing(section, name))]
        return {name: {key: self.look(Where("", section, key, name)) for key in self._keys(section)} for name in names}

    def missing(self, section: str, name: str) -> Iterator[Where]:
        """What a table must have and has not."""
        for key, row in self.schema.rows(section).items():
            where = Where("", section, key, name)
            if row.required and where not in self.found:
                yield where

    def _keys(self, section: str) -> list[str]:
        return list(self.schema.rows(section))

    def config(self, instance: str = "") -> Config:
        """The settings of an instance as they are used."""
        effective = self.effective(instance)
        config = self.schema.config()
        for section, rows in self.schema.sections.items():
            values = {key: effective[section, key].value for key in rows}
            if section != self.schema.main:
                values = {section: replace(getattr(config, section), **values)}
            config = replace(config, **values)
        tables: dict[str, Any] = {section: self._tables(section) for section in self.schema.named}
        config = replace(config, **tables)
        return replace(config, instance=instance) if isinstance(config, WorkerConfig) and instance else config

    def _tables(self, section: str) -> Mapping[str, Any]:
        kind = self.schema.named[section].kind
        named = self.named(section).items()
        return MappingProxyType({name: kind(**{key: one.value for key, one in found.items()}) for name, found in named})


class Walk:
    """Collects what layer after layer says; a later layer wins."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.found: dict[Where, Found] = {}
        self.problems: list[Problem] = []
        self.tables: dict[tuple[str, str], str] = {}
        self._spoiled: set[tuple[str, str, str]] = set()

    def layer(self, layer: Layer) -> None:
        """Take in one file."""
        here: set[tuple[str, str]] = set()
        """The tables with names that it has."""
        for trail, where, content in self._tables(layer.tables):
            header = table_name(self.schema, where, trail)
            wrong = self._flaw(where, content) or self._twice(where, here)
            if wrong:
                name = header if isinstance(content, dict) else dotted(trail[:1] if header[:2] == "[[" else trail)
                self.problems.append(Problem(layer.place(trail), name, wrong))
                continue
            if where.name:
                here.add((where.section, where.name))
                self.tables.setdefault((where.section, where.name), layer.place(trail))
            for key, raw in content.items():
                self.value(where._replace(key=key), raw, layer.place((*trail, key)), f"{header} {dotted((key,))}")

    def value(self, where: Where, raw: Raw, origin: str, name: str) -> None:
        """Take in one value. `name` stands in the problem that it may be."""
        row = self.schema.rows(where.section).get(where.key)
        if row is None:
            self.problems.append(Problem(origin, name, unknown_key(self.schema, where)))
            return
        try:
            self.found[where] = Found(raw, row.kind.read(raw), origin)
        except ValueError as error:
            self.problems.append(Problem(origin, name, row.kind.refusal(raw, error)))
            self._spoiled.add((where.section, where.key, where.name))

    def survey(self, files: tuple[str, ...]) -> Survey:
        """All of it, with what is wrong with the values together; values that are wrong alone are left out of that."""
        whole = Survey(self.schema, files, self.found, tables=self.tables)
        faults = dict.fromkeys(
            _problem(whole, instance, fault)
            for instance in ["", *whole.instances]
            for fault in whole.config(instance).faults()
            if self._spoiled.isdisjoint((*pair, fault.name) for pair in fault.keys)
        )
        return replace(whole, problems=(*self.problems, *self._incomplete(whole), *faults))

    def _incomplete(self, whole: Survey) -> Iterator[Problem]:
        """A problem for each key that a table must have and has not."""
        for (section, name), place in self.tables.items():
            for where in whole.missing(section, name):
                if (section, where.key, name) not in self._spoiled:
                    expected = self.schema.rows(section)[where.key].kind.expected
                    header = table_name(self.schema, where, (section, name))
                    yield Problem(place, header, f"{where.key} is missing; expected {expected}")

    def _tables(self, tables: Mapping[str, Raw]) -> Iterator[tuple[Trail, Where, Raw]]:
        """Trail, place and content of every table of a file; the place has no key yet."""
        for name, content in tables.items():
            if name == INSTANCES and self.schema.main == "worker" and isinstance(content, dict):
                for instance, own in content.items():
                    yield from self._tables_of_instance(instance, own)
            elif self.schema.listed(name):
                for number, inner in enumerate(content if isinstance(content, list) else [[content]]):
                    own = inner.get(NAME_KEY, "") if isinstance(inner, dict) else ""
                    yield (name, str(number)), Where("", name, "", own if isinstance(own, str) else ""), inner
            elif name in self.schema.named and isinstance(content, dict):
                for own, inner in content.items():
                    yield (name, own), Where("", name, "", own), inner
            else:
                yield (name,), Where("", name, ""), content

    def _tables_of_instance(self, instance: str, own: Raw) -> Iterator[tuple[Trail, Where, Raw]]:
        """The keys of the main section stand in the table itself, the other sections below it."""
        main, trail = self.schema.main, (INSTANCES, instance)
        if not isinstance(own, dict):
            yield trail, Where(instance, main, ""), own
            return
        below = [section for section in self.schema.sections if section != main and section in own]
        yield trail, Where(instance, main, ""), {key: raw for key, raw in own.items() if key not in below}
        for section in below:
            yield (*trail, section), Where(instance, section, ""), own[section]

    def _twice(self, where: Where, here: set[tuple[str, str]]) -> str:
        """TOML itself sees to it that no other table stands in one file twice."""
        known = (where.section, where.name) in here
        return f"{echo(where.name)} stands in this file already; expected one for each name" if known else ""

    def _flaw(self, where: Where, content: Raw) -> str:
        """What is wrong with a table before its keys are looked at."""
        instance, section = where.instance, where.section
        if self.schema.listed(section):
            return _mislisted(self.schema, where, content)
        if section in self.schema.named:
            return _misnamed(where, content)
        known = [*self.schema.sections, *self.schema.named, *([INSTANCES] if self.schema.main == "worker" else [])]
        if section not in known and not isinstance(content, dict):
            return _astray(self.schema, section) + did_you_mean(section, filter(self.schema.listed, self.schema.named))
        if not isinstance(content, dict):
            return f"this is no section; expected [{dotted((INSTANCES, instance)) if instance else section}]"
        if section not in known:
            return f"unknown section; expected {listed(known)}{did_you_mean(section, known)}"
        if instance and not INSTANCE.fullmatch(instance):
            return f"{echo(instance)} is no name of an instance; expected {INSTANCE_EXPECTED}"
        return ""


def table_name(schema: Schema, where: Where, trail: Trail) -> str:
    """The header of a table, as its file has it."""
    return f"[[{where.section}]]" if schema.listed(where.section) else f"[{dotted(trail)}]"


def unknown_key(schema: Schema, where: Where) -> str:
    """What to say about a key that its section does not have."""
    rows = list(schema.rows(where.section))
    hint = did_you_mean(where.key, rows)
    elsewhere = [section for section, others in schema.sections.items() if where.key in others]
    if elsewhere and not hint:
        hint = f"; did you mean [{section_name(schema, where.instance, elsewhere[0])}] {where.key}?"
    return f"unknown key; expected {listed(rows)}{hint}"


def section_name(schema: Schema, instance: str, section: str) -> str:
    """The name of the table in which a section stands, for all or for one instance."""
    return dotted(_trail(schema, instance, section))


def _trail(schema: Schema, instance: str, section: str) -> Trail:
    if not instance:
        return (section,)
    return (INSTANCES, instance, *(() if section == schema.main else (section,)))


def _misnamed(where: Where, content: Raw) -> str:
    """What is wrong with a table that a person names, before its keys are looked at."""
    if not isinstance(content, dict):
        return f"this is no table; expected [{where.section}.NAME] with its keys below"
    try:
        NAME.read(where.name)
    except ValueError as error:
        return f"{error}; expected {NAME.expected}"
    return ""


def _mislisted(schema: Schema, where: Where, content: Raw) -> str:
    """What is wrong with a table that has its name in a key."""
    if not isinstance(content, dict):
        return f"this is no list of tables; expected [[{where.section}]] with its keys below"
    kind = schema.rows(where.section)[NAME_KEY].kind
    if NAME_KEY not in content:
        return f"{NAME_KEY} is missing; expected {kind.expected}"
    try:
        kind.read(content[NAME_KEY])
    except ValueError as error:
        return f"{NAME_KEY}: {kind.refusal(content[NAME_KEY], error)}"
    return ""


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """A hint to follow a problem; empty where nothing is near."""
    near = difflib.get_close_matches(word.lower(), list(words), n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def listed(words: list[str]) -> str:
    """Words as a sentence lists them: a, b or c."""
    return ", ".join(words[:-1]) + f" or {words[-1]}" if len(words) > 1 else words[0]


def _astray(schema: Schema, key: str) -> str:
    """A value outside of all sections: somebody forgot the header."""
    homes = [f"[{section}]" for section, rows in schema.sections.items() if key in rows]
    return f"this stands outside of every section; expected it below {listed(homes or [f'[{schema.main}]'])}"


def _problem(whole: Survey, instance: str, fault: Fault) -> Problem:
    """The fault at the first of its settings that something sets."""
    places = [Where(instance, section, key, fault.name) for section, key in fault.keys]
    place = next((where for where in places if whole.look(where).origin != DEFAULT), places[0])
    where = whole.where(place)
    trail = (where.section, where.name) if where.name else _trail(whole.schema, where.instance, where.section)
    name = f"{table_name(whole.schema, where, trail)} {where.key}"
    return Problem(whole.look(where).origin, name, f"{fault.wrong}; expected {fault.expected}")
