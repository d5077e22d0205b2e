"""`qdist top`: queues and workers with what they do a second, drawn anew again and again.

Status ──Rates──> what has changed since the last one, a second
   └──────────────> draw (a terminal) · a line (a pipe)
"""

import contextlib
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from qdistd.cli.cluster import END_STATES, OPEN_STATES, state_of
from qdistd.cli.words import duration, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qdistd.protocol import StatusView

QUIT = "q"

LEAST = 0.1
"""Seconds between two looks at least: each costs the master a little."""

HEADER_EVERY = 20
"""Lines of a pipe after which the names of the columns are said again."""


@click.command("top")
@click.option("--every", type=duration, default="1s", show_default=True, help="How long between two looks.")
@click.option("--count", type=click.IntRange(0), default=0, show_default=True, help="How many looks; 0: no end.")
@json_option
def top_command(every: float, count: int, as_json: bool) -> None:
    """Watch queues and workers at work: what waits, what runs, and how much is done a second.

    On a terminal it is drawn anew until q or Ctrl-C; elsewhere each look is a line, with --json an object.
    """
    from qdistd.cli.context import asking
    from qdistd.cli.output import is_terminal

    with asking() as ask:
        looks = _looks(ask, max(every, LEAST), count)
        if as_json or not is_terminal():
            _write(looks, as_json)
        else:
            _draw(looks)


class Look:
    """What the master says, and what has changed since it said so before."""

    def __init__(self, status: "StatusView", before: "StatusView | None") -> None:
        self.status = status
        seconds = status.now - before.now if before else 0.0
        self.submitted = _rate(status.submitted, before.submitted if before else None, seconds)
        self.settled = _rate(status.settled, before.settled if before else None, seconds)
        ended = {queue.name: _ended(queue.counts) for queue in before.queues} if before else {}
        self.queues = {q.name: _rate(_ended(q.counts), ended.get(q.name), seconds) for q in status.queues}
        did = {worker.name: worker.settled for worker in before.workers} if before else {}
        self.workers = {w.name: _rate(w.settled, did.get(w.name), seconds) for w in status.workers}

    @property
    def totals(self) -> dict[str, int]:
        """How many tasks stand in each state that is not the end, in all queues."""
        return {state: sum(queue.counts.get(state, 0) for queue in self.status.queues) for state in OPEN_STATES}


def _ended(counts: dict[str, int]) -> int:
    return sum(counts.get(state, 0) for state in END_STATES)


def _rate(now: int, before: int | None, seconds: float) -> float:
    """A second; 0 where nothing is known of before, or less is there than was: somebody has purged."""
    return 0.0 if before is None or seconds <= 0 else max(0.0, (now - before) / seconds)


def _looks(ask: Callable[[Any], Any], every: float, count: int) -> Iterator[Look]:
    """The first one at once, the others `every` seconds later: `count` of them (0: no end), or until `QUIT`."""
    from qdistd.protocol import Status

    before, number = None, 0
    with _keys() as pressed:
        while True:
            status = ask(Status())
            yield Look(status, before)
            before, number = status, number + 1
            if number == count or pressed(every) == QUIT:
                return


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Gives the function that waits for a key for some seconds; "" where none was pressed, or there is no keyboard."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield _sleep
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield _key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _key(seconds: float) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return sys.stdin.read(1) if ready else ""


def _write(looks: Iterator[Look], as_json: bool) -> None:
    from qdistd.cli.output import iso, write_json

    for number, look in enumerate(looks):
        told = {"now": iso(look.status.now), **look.totals, "submitted": look.submitted, "settled": look.settled}
        if as_json:
            write_json(told | {"queues": look.queues, "workers": look.workers})
        else:
            if number % HEADER_EVERY == 0:
                click.echo(f"{'TIME':<29}" + "".join(f"{name.upper():>11}" for name in list(told)[1:]))
            cells = (f"{value:>11.0f}" for name, value in told.items() if name != "now")
            click.echo(f"{told['now']:<29}" + "".join(cells))
        sys.stdout.flush()


def _draw(looks: Iterator[Look]) -> None:
    from rich.live import Live

    with Live(screen=True, auto_refresh=False) as live:
        for look in looks:
            live.update(_picture(look), refresh=True)


def _picture(look: Look) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from qdistd.cli.output import clean, span

    status = look.status
    head = f"qdist {status.version} on {status.host}, up {span(status.now - status.started)}"
    work = f"{look.submitted:.0f} submitted, {look.settled:.0f} settled a second; q ends"
    overload = [Text(clean(status.overload), style="red")] if status.overload else []
    stuck = [Text(clean(f"{each.tasks} stuck in {each.queue}: {each.reason}"), style="yellow") for each in status.stuck]
    return Group(Text(head), Text(work), *overload, Text(), _queues(look), Text(), _workers(look), *stuck)


def _queues(look: Look) -> "RenderableType":
    states = (*OPEN_STATES, "failed", "quarantined")
    rows = [
        (
            queue.name,
            *(str(queue.counts.get(state, 0)) for state in states),
            f"{look.queues[queue.name]:.1f}",
            "paused" if queue.paused else "",
        )
        for queue in look.status.queues
    ]
    return _table(("QUEUE", *(state.upper() for state in states), "ENDED/S", ""), rows)


def _workers(look: Look) -> "RenderableType":
    rows = [
        (w.name, state_of(w), str(w.processes), str(w.leased), f"{look.workers[w.name]:.1f}")
        for w in look.status.workers
    ]
    return _table(("WORKER", "STATE", "PROCESSES", "LEASED", "SETTLED/S"), rows)


def _table(headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    from qdistd.cli.output import COLOURS, clean

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, header in enumerate(headers):
        table.add_column(header, justify="left" if number == 0 or header in ("STATE", "") else "right")
    for row in rows:
        table.add_row(*(Text(clean(cell), style=COLOURS.get(cell, "")) for cell in row))
    return table
