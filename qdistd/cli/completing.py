"""What a shell is told beyond commands, options and files: settings, their values, instances, and what a master has.

A press of the Tab key ends in these functions. Each gives the words that begin with what is typed already.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from qdistd.config import FileKind

MOMENT = 1.0
"""Seconds that the Tab key waits for a master."""


def setting_names(context: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """The settings of the file that is named before, as `qdist config set` takes them."""
    kind: FileKind | None = context.params.get("kind")
    return _beginning(typed, _settings(kind, context.params.get("file"))) if kind else []


def setting_values(context: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """The values of the setting that is named before, where there are a few."""
    from qdistd.config.kinds import Choice, Flag
    from qdistd.config.settings import schema

    kind, setting = context.params.get("kind"), context.params.get("setting")
    if not kind or not setting:
        return []
    *tables, key = setting.split(".")
    table = schema(kind)
    section = next((name for name in (*tables[:1], *tables[-1:]) if name in (*table.named, *table.sections)), kind)
    row = table.rows(section).get(key)
    words = row.kind.words if row and isinstance(row.kind, Choice) else ()
    return _beginning(typed, ("false", "true") if row and isinstance(row.kind, Flag) else words)


def worker_instances(context: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """The instances of this host that have settings of their own."""
    from qdistd.config.loading import instances

    return _beginning(typed, instances(context.params.get("file")))


def queue_names(context: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """The queues of the master, if it answers at once."""
    from qdistd.protocol import Queues

    answer = _ask(context, Queues())
    return _beginning(typed, [queue.name for queue in answer.queues] if answer else ())


def worker_names(context: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """The workers of the master and their hosts, if it answers at once."""
    from qdistd.protocol import Workers

    answer = _ask(context, Workers())
    return _beginning(
        typed, sorted({name for each in answer.workers for name in (each.name, each.host)} if answer else ())
    )


def _ask(context: click.Context, question: Any) -> Any:
    """The answer of the master, None where there is none."""
    from qdistd.client.client import Client
    from qdistd.errors import QdistError

    given = context.find_root().params
    try:
        with Client(key=given.get("key"), config=given.get("config"), timeout=MOMENT) as client:
            return client.ask(question)
    except (QdistError, OSError):
        return None


def _settings(kind: "FileKind", file: Path | None) -> Iterator[str]:
    from qdistd.config.loading import instances, named_tables
    from qdistd.config.settings import schema

    sections = schema(kind).sections
    for section, rows in sections.items():
        yield from (f"{section}.{key}" for key in rows)
    for instance in instances(file) if kind == "worker" else []:
        for section, rows in sections.items():
            table = f"instance.{instance}" if section == kind else f"instance.{instance}.{section}"
            yield from (f"{table}.{key}" for key in rows)
    for section, name in named_tables(kind, file):
        if not schema(kind).listed(section):
            yield from (f"{section}.{name}.{key}" for key in schema(kind).rows(section))


def _beginning(typed: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(typed)]
