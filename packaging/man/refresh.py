#!/usr/bin/env python3
"""Writes into the man pages what the code knows: commands, options and settings, each with its default.

    ; from the code: settings master        a part begins
    ; end of the code                       it ends; everything around it is written by people

`.venv/bin/python packaging/man/refresh.py` writes the parts that changed and names their pages. With --check it writes
nothing, and the exit code is 1 where a part has changed.
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

from qdistd.cli.app import qdist
from qdistd.config.rows import Setting
from qdistd.config.settings import schema
from qdistd.config.showing import toml_value
from qdistd.programs import master, worker

PAGES = Path(__file__).parent

PART = re.compile(r"(?<=^; from the code: )(.*?)\n.*?(?=^; end of the code$)", re.MULTILINE | re.DOTALL)

WIDTH = 110

PROGRAMS: dict[str, click.Command] = {"qdist": qdist, "qdist-master": master._command, "qdist-worker": worker._command}


def main(arguments: list[str]) -> int:
    """Refresh all pages; the exit code."""
    stale = [page for page in sorted(PAGES.glob("*.scd")) if refreshed(page.read_text()) != page.read_text()]
    for page in stale:
        sys.stdout.write(f"{page}\n")
        if arguments != ["--check"]:
            page.write_text(refreshed(page.read_text()))
    return 1 if stale and arguments == ["--check"] else 0


def refreshed(text: str) -> str:
    """The text of a page with its parts made anew."""
    return PART.sub(lambda found: f"{found[1]}\n\n{part(*found[1].split())}\n\n", text)


def part(kind: str, name: str) -> str:
    """One part: the settings of a file, the options of a program, or the commands below it."""
    makers: dict[str, Callable[[str], Iterator[str]]] = {
        "settings": settings,
        "options": lambda program: options(PROGRAMS[program]),
        "commands": lambda program: commands(PROGRAMS[program]),
    }
    return "\n\n".join(makers[kind](name))


def settings(kind: str) -> Iterator[str]:
    """Every setting of a file, by section."""
    table = schema(kind)  # type: ignore[arg-type]  # pages name what there is
    for section, rows in table.sections.items():
        yield f"## [{section}]"
        yield from keys(rows)
    for section, named in table.named.items():
        yield f"## [[{section}]]" if named.listed else f"## [{section}.NAME]"
        yield fill(plain(named.explanation))
        yield from keys(named.rows)


def keys(rows: Mapping[str, Setting]) -> Iterator[str]:
    """The keys of one section. One that has no default has an example in its place."""
    for key, row in rows.items():
        head = f"*{plain(key)}*" if row.required else f"*{plain(key)}* = {plain(toml_value(row.default))}"
        yield entry(head, row.explanation, row.kind.expected)


def commands(group: click.Command, *names: str) -> Iterator[str]:
    """Every command of a group, and of the groups in it."""
    assert isinstance(group, click.Group)
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
            continue
        words = " ".join((*names, name))
        yield f"## {words}"
        _, *pieces = command.collect_usage_pieces(click.Context(command))
        yield " ".join([f"*qdist {words}*", "[_OPTION_]...", *map(plain, pieces)])
        yield from paragraphs(command)
        yield from options(command)


def paragraphs(command: click.Command) -> Iterator[str]:
    """The help of a command; a block that click must not fill is a literal one."""
    for text in inspect.cleandoc(command.help or "").split("\n\n"):
        if text.startswith("\b"):
            yield "\n".join(["```", textwrap.dedent(text.removeprefix("\b\n")), "```"])
        else:
            yield fill(plain(text))


def options(command: click.Command) -> Iterator[str]:
    """Every option of a command that is for people, but --help, which is said once for all."""
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            signs = ", ".join(f"*{plain(sign)}*" for sign in option.opts)
            value = metavar(option)
            text, _, default = (option.help or "").rstrip("].").partition(" [default: ")
            default = default or (str(option.default) if option.show_default else "")
            yield entry(f"{signs} {value}".strip(), text, allowed(option), default)


def metavar(option: click.Option) -> str:
    """How the value of an option is written; empty for a flag."""
    if option.is_flag or option.name in ("version", "help"):
        return ""
    if option.metavar or not isinstance(option.type, click.Choice):
        return f"_{plain(option.metavar or option.type.name.split()[0].upper())}_"
    return "|".join(map(plain, option.type.choices))


def allowed(option: click.Option) -> str:
    """What a number may be."""
    if not isinstance(option.type, click.IntRange):
        return ""
    most = f" to {option.type.max}" if option.type.max is not None else " on"
    return f"a whole number from {option.type.min}{most}"


def entry(head: str, text: str, expected: str, default: str = "") -> str:
    """One thing that is explained below its head."""
    sentences = [text, f"Takes {expected}" * bool(expected), f"Default: {default}" * bool(default)]
    filled = fill(plain(" ".join(f"{sentence.rstrip('.')}." for sentence in sentences if sentence)), indent="\t")
    return f"{head}\n{filled}"


def plain(text: str) -> str:
    """Text in which nothing is markup, but code in `backticks` bold."""
    escaped = re.sub(r"[\\*_#<>\[\]|~]", r"\\\g<0>", text)
    return re.sub(r"`([^`]+)`", r"*\1*", escaped)


def fill(text: str, indent: str = "") -> str:
    """A paragraph in lines; a line never begins with what would make it something else."""
    lines = textwrap.wrap(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(indent + re.sub(r"^([-.;|#])", r"\\\1", line) for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
