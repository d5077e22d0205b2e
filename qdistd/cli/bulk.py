"""`qdist submit --file`: a task for every line, as many as there are, and nothing of it lost silently.

    file ──> checked to its end ──┐
    pipe ─────────────────────────┴─> block of lines ──> submit ──> store ──> an id for each line, on the master's disk
                                          │                │          │
                                          │                ^          │
                                          │                └overloaded┤  waits as long as the master has asked for
                                          └──wrong────────────refused─┴──> FILE:LINE: why, on standard error

Before more is waited for, all that was submitted is stored and told: a slow pipe is answered line by line, a file
in blocks of some thousand tasks.
"""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click

from qdistd.cli.context import Connection, connected
from qdistd.cli.exits import Exit
from qdistd.cli.lines import Line, blocks, read_line, submit_line
from qdistd.cli.output import json_text
from qdistd.cli.progress import progress
from qdistd.cli.results import complain, write_end
from qdistd.cli.words import STDIN
from qdistd.client.handle import Handle
from qdistd.client.options import Choices
from qdistd.errors import NotAllowed, Overloaded, QdistError, Refused, TaskFailed, Unavailable, WrongKey

MOST_NAMED = 100
"""Wrong lines of a file that are named: where there are more, it is another kind of file."""

FAREWELL = 2.0
"""Seconds that the master has after a Ctrl-C to acknowledge what it was sent, so that we can tell what it has."""

LONGEST_PAUSE = 10.0
"""Seconds after which an overloaded master is asked again, whatever it said: it speaks of its pace so far."""

FINAL = (WrongKey, NotAllowed, Unavailable)
"""Refusals that are not about one line: all further ones would be refused as well."""


def submit_file(path: Path, choices: Choices, *, wait: bool, as_json: bool) -> Exit:
    """Submit every line of a file or of a pipe (`-`: standard input). The exit code is 1 where a line is left out."""
    name = name_of(path)
    with opened(path) as file:
        total = _check(name, file) if file.seekable() else None
        with connected(looking=False) as client:
            with progress("submitting", total) as advance:
                run = Import(client, name, choices, wait=wait, as_json=as_json, advance=advance)
                run.submit(file)
            if wait:
                run.wait()
    return run.code


def name_of(path: Path) -> str:
    """What a file is called in messages."""
    return "<stdin>" if str(path) == STDIN else str(path)


def opened(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """The file, or standard input, for a `with` block."""
    return contextlib.nullcontext(sys.stdin.buffer) if str(path) == STDIN else path.open("rb")


def _check(name: str, file: BinaryIO) -> int:
    """Read the file to its end and go back. Its number of tasks; Refused as `read_lines`."""
    start = file.tell()
    tasks = sum(1 for _ in read_lines(name, file))
    file.seek(start)
    return tasks


def read_lines(name: str, file: BinaryIO, *, linked: bool = False) -> Iterator[tuple[int, Line]]:
    """The lines to the end of the file, with their numbers; `linked` as for `read_line`.

    Refused at its end, with the wrong lines named, if there are any.
    """
    tasks = wrong = 0
    for number, text in (line for block in blocks(file) for line in block):
        tasks += 1
        try:
            yield number, read_line(text, linked=linked)
        except Refused as error:
            wrong += 1
            if wrong <= MOST_NAMED:
                complain(error, f"{name}:{number}: ")
    if wrong:
        raise Refused(f"{wrong} of {tasks} lines of {name} are wrong, so nothing was submitted")


class Import:
    """One run over a file. `code`: what it comes to."""

    def __init__(
        self,
        client: Connection,
        name: str,
        choices: Choices,
        *,
        wait: bool,
        as_json: bool,
        advance: Callable[[int], None],
    ) -> None:
        self.code = Exit.OK
        self._client = client
        self._name = name
        self._key = choices.get("key", "")
        chosen: Choices = {**choices, "key": "", "watch": wait}
        self._submitter = client.options(**chosen)
        self._as_json = as_json
        self._advance = advance
        self._handed: deque[Handed] = deque()
        self._hindered = False
        self._stored = 0
        self._last = 0
        self._awaited: list[tuple[int, Handle[Any]]] | None = [] if wait else None

    def submit(self, file: BinaryIO) -> None:
        """Submit all lines and tell of each. What ends it early bears a note of what is submitted and what is not."""
        try:
            for block in blocks(file):
                for number, text in block:
                    self._hand_over(number, text)
                self._settle()
        except (KeyboardInterrupt, QdistError, OSError) as error:
            self._wind_up(error)
            raise

    def wait(self) -> None:
        """Print the result of every task, in the order of the lines."""
        assert self._awaited is not None
        with progress("waiting", len(self._awaited)) as advance:
            for number, handle in self._awaited:
                more = {"line": number} if self._as_json else {}
                self.code = max(self.code, write_end(handle, self._as_json, where=self._place(number), **more))
                advance(1)

    def _hand_over(self, number: int, text: bytes) -> None:
        try:
            line = read_line(text)
            handle = submit_line(self._submitter, number, line, self._key)
        except FINAL:
            raise
        except Refused as error:
            self._leave_out(number, error)
        else:
            self._handed.append(Handed(number, line, handle))
        self._last = number

    def _settle(self) -> None:
        """Have the master acknowledge all that is handed over, and tell of it."""
        while self._handed:
            try:
                self._client.store()
            except FINAL:
                raise
            except (Refused, Overloaded):
                pass  # said of every task by its own handle
            self._tell()
            if self._handed:
                self._come_again()

    def _tell(self) -> None:
        """Say of each line in turn what became of it, as far as that is known."""
        told: list[str] = []
        try:
            while self._handed and self._handed[0].known and not self._handed[0].turned_away:
                self._tell_one(self._handed.popleft(), told)
        finally:
            self._advance(len(told))
            if told and self._awaited is None:
                click.echo("\n".join(told))

    def _tell_one(self, handed: "Handed", told: list[str]) -> None:
        number, _, handle = handed
        refusal = handed.refusal
        if isinstance(refusal, FINAL):
            raise refusal
        if refusal is not None:
            self._leave_out(number, refusal)
            return
        self._stored += 1
        told.append(json_text({"line": number, "id": handle.id}) if self._as_json else handle.id)
        if self._awaited is not None:
            self._awaited.append((number, handle))

    def _come_again(self) -> None:
        """Submit once more what an overloaded master would not take, when it has said that it may be worth it."""
        reason = next(handed.turned_away for handed in self._handed if handed.turned_away)
        if not self._hindered:
            self._hindered = True
            complain(f"{reason}; going on as soon as it takes more (Ctrl-C ends that)", f"{self._name}: ")
        time.sleep(min(reason.after, LONGEST_PAUSE))
        for place, (number, line, _) in enumerate(self._handed):
            if self._handed[place].turned_away:
                self._handed[place] = Handed(number, line, submit_line(self._submitter, number, line, self._key))

    def _leave_out(self, number: int, error: QdistError) -> None:
        self.code = Exit.FAILED
        complain(error, self._place(number))

    def _place(self, number: int) -> str:
        return f"{self._name}:{number}: "

    def _wind_up(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            with contextlib.suppress(QdistError, TimeoutError):
                self._client.flush(FAREWELL)
        with contextlib.suppress(QdistError, OSError):
            self._tell()
        error.add_note(self._summary())

    def _summary(self) -> str:
        unsure = [handed.number for handed in self._handed if not handed.known]
        away = [handed.number for handed in self._handed if handed.turned_away]
        stored = self._stored + sum(handed.known and not handed.refusal for handed in self._handed)
        may = f"; lines {unsure[0]} to {unsure[-1]} may be too" if unsure else ""
        but = f"; {len(away)} of the lines {away[0]} to {away[-1]} are not" if away else ""
        return f"{stored} tasks are submitted{may}{but}; of {self._name} nothing after line {self._last} is"


class Handed(NamedTuple):
    """A line that was handed over, and its task."""

    number: int
    line: Line
    handle: Handle[Any]

    @property
    def known(self) -> bool:
        """Whether the master has answered for it."""
        return self.handle.task is None or self.handle.done()

    @property
    def refusal(self) -> QdistError | None:
        """Why the master did not take it, if that is what happened."""
        error = self.handle.exception() if self.handle.done() else None
        return None if isinstance(error, TaskFailed) else error

    @property
    def turned_away(self) -> Overloaded | None:
        """Why the master does not take it now, if that is what happened."""
        refusal = self.refusal
        return refusal if isinstance(refusal, Overloaded) else None
