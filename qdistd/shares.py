"""Shares: folders that several hosts have, each at a place of its own, and one name for the same file on all of them.

    submit("count_lines", "share://data/in/x.log")      needs the label `share=data` ──> goes to a worker that has it
    worker 1: data at /mnt/data    ──resolve──> count_lines("/mnt/data/in/x.log")
    worker 2: data at /srv/nas/d   ──resolve──> count_lines("/srv/nas/d/in/x.log")

Only whole strings count, also as items of lists and tuples and as values of dicts. Results are not rewritten.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdistd.errors import NotAllowed, NotFound

SCHEME = "share://"

MARK = SCHEME.encode()
"""Stands in the bytes of every call that has to do with shares: those without it are not looked through."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""What a share may be called: it is a part of labels and of paths."""

LABEL = "share="
"""How the labels begin that say which shares a worker has."""

VARIABLE = "QDIST_SHARES"
"""The shares of a worker, name and path as JSON, for its tasks and the programs that they start."""


def share(name: str) -> Path:
    """Where the share `name` is on this worker: for a task to call. NotFound where there is none of that name.

    A task that was submitted with a `share://NAME/…` argument, or with `requires=["share=NAME"]`, runs where it is.
    """
    return Path(_folder(name, json.loads(os.environ.get(VARIABLE, "{}")), f"share({name!r})"))


def names_in(value: object) -> set[str]:
    """The shares that the arguments of a call name."""
    names: set[str] = set()
    seen: set[int] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str) and item.startswith(SCHEME):
            names.add(_parts(item)[0])
        elif isinstance(item, list | tuple | dict) and id(item) not in seen:
            seen.add(id(item))  # a list may hold itself
            stack += item.values() if isinstance(item, dict) else item
    return names


def resolve(value: Any, shares: Mapping[str, str]) -> Any:
    """The same value with this worker's own path in place of each `share://NAME/rest`. `shares`: path by name.

    NotFound where there is no such share, NotAllowed where `..` leads out of it, RecursionError where it has no end.
    """
    if type(value) is str:
        return _path(value, shares) if value.startswith(SCHEME) else value
    if type(value) is dict:
        return {key: resolve(item, shares) for key, item in value.items()}
    if type(value) is list:
        return [resolve(item, shares) for item in value]
    return tuple(resolve(item, shares) for item in value) if type(value) is tuple else value


def _path(address: str, shares: Mapping[str, str]) -> str:
    name, rest = _parts(address)
    folder = _folder(name, shares, address)
    depth = 0
    for part in rest.split("/"):
        depth += (part not in ("", ".")) - 2 * (part == "..")
        if depth < 0:
            raise NotAllowed(f"{address} leads out of the share {name}")
    return f"{folder.rstrip('/')}/{rest}" if rest else folder


def _parts(address: str) -> tuple[str, str]:
    """The name of the share, and the path below it."""
    name, _, rest = address.removeprefix(SCHEME).partition("/")
    return name, rest.lstrip("/")


def _folder(name: str, shares: Mapping[str, str], what: str) -> str:
    folder = shares.get(name)
    if folder is None:
        has = f"it has {', '.join(shares)}" if shares else "it has none"
        raise NotFound(f"{what}: there is no share {name} on this worker; {has} ([[share]] in worker.toml)")
    return folder
