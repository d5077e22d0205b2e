"""`qdist submit --file --atomic`: the tasks of all lines in one transaction, or none of them.

file ──> read to its end ──> one batch ──> one commit ──> the ids, in the order of the lines
             └──wrong──────────┴──refused──> FILE:LINE: why, and nothing is submitted
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from qdistd.cli.bulk import LONGEST_PAUSE, name_of, opened, read_lines
from qdistd.cli.context import Connection, connected
from qdistd.cli.exits import Exit
from qdistd.cli.lines import Line, submit_line
from qdistd.cli.output import json_text
from qdistd.cli.results import complain, write_end
from qdistd.client.handle import Handle
from qdistd.client.options import Choices
from qdistd.errors import Overloaded, Refused, Unavailable

Handles = dict[int, Handle[Any]]
"""The number of a line → its task."""


def submit_whole(path: Path, choices: Choices, *, wait: bool, as_json: bool) -> Exit:
    """Submit every line of a file or of a pipe, or none. Raises what the master has against one of them."""
    name = name_of(path)
    with opened(path) as file:
        lines = list(read_lines(name, file, linked=True))
    with connected(looking=False) as client:
        handles = _submit(client, name, lines, {**choices, "watch": wait})
        if wait:
            return max((_end(name, *each, as_json) for each in handles.items()), default=Exit.OK)
    for number, handle in handles.items():
        click.echo(json_text({"line": number, "id": handle.id}) if as_json else handle.id)
    return Exit.OK


def _submit(client: Connection, name: str, lines: Sequence[tuple[int, Line]], choices: Choices) -> Handles:
    """Submit them; a master that is overloaded is waited for."""
    told = False
    while True:
        try:
            return _submit_once(client, name, lines, choices)
        except Overloaded as error:
            if not told:
                told = True
                complain(f"{error}; trying again until it takes them (Ctrl-C ends that)", f"{name}: ")
            time.sleep(min(error.after, LONGEST_PAUSE))


def _submit_once(client: Connection, name: str, lines: Sequence[tuple[int, Line]], choices: Choices) -> Handles:
    handles: Handles = {}
    key = choices.get("key", "")
    try:
        with client.batch() as batch:
            chosen: Choices = {**choices, "key": ""}
            submitter = batch.options(**chosen)
            for number, line in lines:
                try:
                    handles[number] = submit_line(submitter, number, line, key, handles)
                except Refused as error:
                    raise Refused(f"{name}:{number}: {error}; so nothing was submitted") from None
    except (KeyboardInterrupt, Unavailable, TimeoutError) as error:
        if handles:
            first = next(iter(handles.values())).id
            error.add_note(f"all {len(handles)} tasks may be submitted, or none of them: qdist show {first}")
        raise
    return handles


def _end(name: str, number: int, handle: Handle[Any], as_json: bool) -> Exit:
    more = {"line": number} if as_json else {}
    return write_end(handle, as_json, where=f"{name}:{number}: ", **more)
