"""What one child says, by task: line by line into the log, and the last of it kept for the attempt.

frames of Python code  ──ticket──┐                    ┌──> the log: QDIST_TASK_ID=…, at most so many lines a second
descriptors 1 and 2 ──the head───┴──> Ear ── lines ───┼──> the end of it, for the settlement
frames with partial results ─────────> │              └──> what is new, once a second: `news`
the page with its progress ──────────> └─────────────────> and when a task ends: `farewells`
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable

from qdistd.child import board
from qdistd.child.frames import LOGGED, PARTIAL, READ_SIZE, READY
from qdistd.model import MOST_OUTPUT, Grant, Progress, Said, id_text

LONGEST_LINE = 8 * 1024
"""Bytes of a line in the log: a longer one becomes several."""

BURST, LINES_A_SECOND = 1000.0, 100.0
"""Lines of one attempt that the log takes at once, and from then on: a task that prints in an endless loop must not
cost the host its journal, nor the worker its time. The attempt keeps the end of everything."""

LINE = 1024
"""Bytes that make a line: a longer one counts as several."""
MOST_PARTIALS, PARTIAL_BYTES = 200, 256 * 1024
"""Partial results of one attempt that wait for a master: what a task hands out in some seconds (see `child.context`).
Where there is none for longer, the oldest are let go."""

MOST_FAREWELLS = 100
"""Tasks that have ended and have something to tell that nobody knows yet."""

WORTH_HEARING = 0.001
"""Seconds. A shorter task cannot have started a program, so what comes by descriptor can wait for its turn."""

LAST_WORDS = 16
"""Mouthfuls that are read of what a dead child has left in its pipe: what it escaped with may write for ever."""


class Speech:
    """What one attempt has said."""

    def __init__(self, now: float) -> None:
        self.end = bytearray()
        """The last of it, with every line."""
        self.part = b""
        """The beginning of a line."""
        self.dropped = 0
        self.fresh = bytearray()
        """What nobody was told of yet; its end."""
        self.partials: deque[bytes] = deque()
        """The same of its partial results."""
        self._weight = 0
        self._credit = BURST
        self._at = now

    def keep(self, data: bytes) -> None:
        """Add to what is kept."""
        self.end += data
        self.fresh += data
        del self.fresh[:-MOST_OUTPUT]
        if len(self.end) > 2 * MOST_OUTPUT:  # not at every line: that would move all of it each time
            del self.end[:-MOST_OUTPUT]

    def bring(self, value: bytes) -> None:
        """Add a partial result."""
        self.partials.append(value)
        self._weight += len(value)
        while len(self.partials) > MOST_PARTIALS or self._weight > PARTIAL_BYTES:
            self._weight -= len(self.partials.popleft())

    def news(self) -> tuple[bytes, tuple[bytes, ...]]:
        """What nobody was told of yet; they are told now."""
        fresh, partials = bytes(self.fresh), tuple(self.partials)
        self.fresh.clear()
        self.partials.clear()
        self._weight = 0
        return fresh, partials

    def may(self, now: float, size: int) -> bool:
        """Whether the log takes one more line, of so many bytes."""
        self._credit = min(self._credit + (now - self._at) * LINES_A_SECOND, BURST)
        self._at = now
        cost = max(1.0, size / LINE)
        if self._credit < cost:
            return False
        self._credit -= cost
        return True


class Ear:
    """`descriptor`: our end of the pipe for what does not come in frames, and `speaker` knows who says that.

    `page`: where the child writes its progress; -1: an older child, which has none.
    """

    def __init__(
        self,
        descriptor: int,
        page: int,
        log: logging.Logger,
        loop: asyncio.AbstractEventLoop,
        speaker: Callable[[], tuple[int, Grant | None]],
        worker: str = "",
    ) -> None:
        self._farewells: deque[Said] = deque(maxlen=MOST_FAREWELLS)
        self._descriptor = descriptor
        self._page = page
        self._shown: tuple[int, Progress] | None = None
        """The progress that was last told of."""
        self._log = log
        self._loop = loop
        self._speaker = speaker
        self._worker = worker
        self._now = loop.time
        self._speeches: dict[int, Speech] = {}
        loop.add_reader(descriptor, self.listen)

    def bequeath(self) -> dict[int, tuple[bytes, bytes, int]]:
        """What was said so far, for the next image of this program."""
        return {ticket: (bytes(speech.end), speech.part, speech.dropped) for ticket, speech in self._speeches.items()}

    def inherit(self, said: dict[int, tuple[bytes, bytes, int]]) -> None:
        """Go on from there."""
        for ticket, (end, part, dropped) in said.items():
            speech = self._speeches[ticket] = Speech(self._now())
            speech.end, speech.part, speech.dropped = bytearray(end), part, dropped

    def listen(self) -> bool:
        """Hear one mouthful of what comes by descriptor; whether there may be more."""
        try:
            data = os.read(self._descriptor, READ_SIZE)
        except BlockingIOError:
            return False
        if data:
            self.hear(*self._speaker(), data)
        else:
            self.close()
        return bool(data)

    def hear_out(self) -> None:
        """Hear what a dead child has left."""
        for _ in range(LAST_WORDS):
            if not self.listen():
                break

    def close(self) -> None:
        """Listen no more. May be said twice."""
        self._loop.remove_reader(self._descriptor)

    def hear(self, ticket: int, grant: Grant | None, data: bytes, level: int = logging.INFO, kind: int = 0) -> None:
        """Take in what the task of this ticket says; no grant: the child itself says it, or what an old task left."""
        key = ticket if grant else READY
        speech = self._speeches.get(key) or self._speeches.setdefault(key, Speech(self._now()))
        if kind == PARTIAL:
            if grant:
                speech.bring(data)
            return
        if kind == LOGGED:
            speech.keep(data + b"\n")
            speech.dropped += not self._tell(speech, grant, level, data)
            return
        speech.keep(data)
        *lines, speech.part = (speech.part + data).split(b"\n")
        for number, line in enumerate(lines):
            if not self._tell(speech, grant, level, line):
                speech.dropped += len(lines) - number
                break
        if len(speech.part) > LONGEST_LINE:
            speech.dropped += not self._tell(speech, grant, level, speech.part)
            speech.part = b""
        if grant is None:
            speech.end.clear()  # nobody will ask for it
            speech.fresh.clear()

    def news(self, ticket: int, grant: Grant | None) -> Said | None:
        """What the task of this ticket has said, and how far it has come, since the last time."""
        if grant is None:
            return None
        speech, progress = self._speeches.get(ticket), self._progress(ticket)
        output, partials = speech.news() if speech else (b"", ())
        if not (output or partials or progress):
            return None
        return Said(grant.id, grant.attempt, output, progress, partials)

    def take(self, ticket: int, grant: Grant, took_time: bool) -> bytes:
        """The end of what a task has said, which has ended. One that took its time may have come further, too."""
        speech = self._speeches.pop(ticket, None)
        if took_time or speech:
            self._take_leave(ticket, grant, speech)
        if speech is None:
            return b""
        if speech.part:
            speech.dropped += not self._tell(speech, grant, logging.INFO, speech.part)
        if speech.dropped:
            self._log.warning(
                "%d more lines of this task are not in the log, as there were too many (`qdist show` has the last)",
                speech.dropped,
                extra=self._fields(grant),
            )
        return bytes(speech.end[-MOST_OUTPUT:])

    def farewells(self) -> list[Said]:
        """The last that tasks have said which have ended, where nobody was told of it; they are told now."""
        said = list(self._farewells)
        self._farewells.clear()
        return said

    def _take_leave(self, ticket: int, grant: Grant, speech: Speech | None) -> None:
        partials, progress = tuple(speech.partials) if speech else (), self._progress(ticket)
        if partials or progress:
            self._farewells.append(Said(grant.id, grant.attempt, b"", progress, partials))

    def _progress(self, ticket: int) -> Progress | None:
        """How far the task of this ticket has come, where nobody knows that yet."""
        shown = board.read(self._page) if self._page >= 0 else None
        if shown is None or shown[0] != ticket or shown == self._shown:
            return None
        self._shown = shown
        return shown[1]

    def _tell(self, speech: Speech, grant: Grant | None, level: int, line: bytes) -> bool:
        """Log a line; False where the log has had enough."""
        if not speech.may(self._now(), len(line)):
            return False
        for at in range(0, len(line), LONGEST_LINE):
            text = line[at : at + LONGEST_LINE].decode(errors="backslashreplace")
            self._log.log(max(level, logging.INFO), "%s", text, extra=self._fields(grant) if grant else None)
        return True

    def _fields(self, grant: Grant) -> dict[str, object]:
        names = {"TASK_ID": id_text(grant.id), "TASK": grant.name, "QUEUE": grant.queue, "ATTEMPT": grant.attempt}
        return {"qdist": {**names, "WORKER": self._worker}}
