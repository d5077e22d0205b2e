"""The library half of `qdist config show` and `check`, and the text of the shipped samples."""

import textwrap
from collections.abc import Iterator, Mapping

import tomli_w
import tomlkit

from qdistd.config.keys import key_problems
from qdistd.config.kinds import Raw
from qdistd.config.loading import HERE, FileName, Place, survey
from qdistd.config.reading import Trail
from qdistd.config.rows import Named, Setting
from qdistd.config.settings import FileKind, schema
from qdistd.config.survey import Found, Survey, Where, section_name

SAMPLE_WIDTH = 100
"""Columns of the comments in a sample."""

_HEADS: Mapping[FileKind, str] = {
    "master": (
        "Settings of qdist-master, see qdist-master(8). Put your own into this file or into files of any name in "
        "master.d/ beside it (*.toml, read in the order of their names, later ones win). `qdist-master --check` "
        "says whether they are right; `systemctl reload qdist-master` applies them."
    ),
    "worker": (
        "Settings of the workers of this host, see qdist-worker(8). Put your own into this file or into files of any "
        "name in worker.d/ beside it (*.toml, read in the order of their names, later ones win). `qdist-worker "
        "--check` says whether they are right; `systemctl reload 'qdist-worker@*'` applies them."
    ),
    "client": (
        "Settings of clients, see qdist(1). The first of these files that is there is read: $QDIST_CONFIG, "
        "~/.config/qdist/client.toml, /etc/qdist/client.toml."
    ),
}
_HOW = (
    "A line with # and no space after it is a setting at its default: take the # away and change it. "
    'Durations are written "500 ms", "30s", "5m", "1h", "7d" (a plain number: seconds), sizes "64 KiB", "1 MiB", '
    '"2 GiB" (a plain number: bytes).'
)
_INSTANCES = """\
# Every setting can be another one for one instance: those of [worker] stand in a table of its name,
# the others in tables below that. For `systemctl start qdist-worker@mail`:
#
#     [instance.mail]
#     queues = ["mail"]
#     [instance.mail.limits]
#     timeout = "5m"
"""


def show(
    kind: FileKind, path: FileName = None, origin: bool = False, *, instance: str = "", place: Place = HERE
) -> str:
    """The effective settings as TOML that can be read back; with `origin`, a comment where each comes from.

    For a worker: those of one `instance`, or those of all with a table for every instance that has its own.
    ConfigError names all problems of the files.
    """
    whole = survey(kind, path, place).sound()
    tables = _effective(whole, instance)
    if not instance:
        tables.update(_own(whole))
    parts = [_files(whole)] if origin else []
    headed = [*((f"[{name}]", values) for name, values in tables.items()), *_named(whole)]
    parts += ["\n".join([header, *_lines(values, origin)]) for header, values in headed]
    return "\n\n".join(parts) + "\n"


def check(kind: FileKind, path: FileName = None, *, keys: bool = True, place: Place = HERE) -> list[str]:
    """All that is wrong, a line each; empty: the files are right. `keys`: look into the key files as well."""
    whole = survey(kind, path, place)
    if whole.problems:
        return [str(problem) for problem in whole.problems]
    return key_problems([whole.config(instance) for instance in ["", *whole.instances]], place) if keys else []


def sample(kind: FileKind) -> str:
    """The file that is shipped: every setting explained, and commented out at its default."""
    head = f"{_comment(_HEADS[kind])}\n#\n{_comment(_HOW)}\n"
    sections = [_sample_section(name, rows) for name, rows in schema(kind).sections.items()]
    sections += [_sample_table(name, named) for name, named in schema(kind).named.items()]
    return "\n".join([head, *sections, *([_INSTANCES] if kind == "worker" else [])])


def toml_key(trail: Trail) -> str:
    """A key or the name of a table, whole and with quotes where it needs them."""
    return tomlkit.key(trail).as_string()


def toml_value(raw: Raw) -> str:
    """A value on one line."""
    if isinstance(raw, dict):
        pairs = ", ".join(f"{toml_key((key,))} = {toml_value(value)}" for key, value in raw.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(raw, list):
        return f"[{', '.join(map(toml_value, raw))}]"
    return tomlkit.item(raw).as_string()


def _effective(whole: Survey, instance: str) -> dict[str, dict[str, Found]]:
    tables: dict[str, dict[str, Found]] = {}
    for (section, key), found in whole.effective(instance).items():
        tables.setdefault(section, {})[key] = found
    return tables


def _own(whole: Survey) -> dict[str, dict[str, Found]]:
    """What instances have of their own, by the name of the table."""
    tables: dict[str, dict[str, Found]] = {}
    for instance in whole.instances:
        for section, key in whole.effective(instance):
            own = whole.found.get(Where(instance, section, key))
            if own:
                tables.setdefault(section_name(whole.schema, instance, section), {})[key] = own
    return tables


def _named(whole: Survey) -> Iterator[tuple[str, dict[str, Found]]]:
    """What the tables have that a person has named, each below its header."""
    for section, kind in whole.schema.named.items():
        for name, found in whole.named(section).items():
            yield f"[[{section}]]" if kind.listed else f"[{toml_key((section, name))}]", found


def _files(whole: Survey) -> str:
    return "\n".join(f"# read: {file}" for file in whole.files) or "# read: no file, for there is none"


def _lines(values: Mapping[str, Found], origin: bool) -> Iterator[str]:
    for key, found in values.items():
        if origin:
            yield f"# {found.origin}"
        one_line = isinstance(found.raw, dict) or any(isinstance(inner, dict) for inner in _items(found.raw))
        yield f"{key} = {toml_value(found.raw)}" if one_line else tomli_w.dumps({key: found.raw}).rstrip()


def _items(raw: Raw) -> list[Raw]:
    return raw if isinstance(raw, list) else []


def _sample_section(name: str, rows: Mapping[str, Setting]) -> str:
    return "\n".join([f"[{name}]", *_sample_lines(rows)])


def _sample_table(name: str, named: Named) -> str:
    """An example of a table that a person names, commented out with its header."""
    header = f"[[{name}]]" if named.listed else f"[{name}.{named.example}]"
    head = f"{_comment(named.explanation)}\n#{header}\n"
    return "\n".join([head, *_sample_lines(named.rows)])


def _sample_lines(rows: Mapping[str, Setting]) -> Iterator[str]:
    for key, row in rows.items():
        yield f"{_comment(row.explanation)}\n#{key} = {toml_value(row.default)}\n"


def _comment(text: str) -> str:
    return textwrap.fill(
        text,
        SAMPLE_WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_on_hyphens=False,
        break_long_words=False,
    )
