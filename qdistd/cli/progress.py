"""Progress bars on standard error, where a person looks at it."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qdistd.model import Progress


@contextlib.contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Gives the function to call with each further number of things that are done. `total` None: nobody knows yet.

    Without a terminal there is no bar, and rich is not imported.
    """
    if not sys.stderr.isatty():
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # What goes to a pipe or a file must not be drawn above the bar instead.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(label, total=total)
        yield lambda number: bar.advance(task, number)


@contextlib.contextmanager
def meter() -> Iterator[Callable[["Progress | None"], bool]]:
    """Gives the function that draws how far a task says it is (None: it says nothing); False where nobody looks."""
    if not sys.stderr.isatty():
        yield lambda _: False
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    from qdistd.cli.output import one_line

    words = (TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("numbers", "note"))
    columns = (BarColumn(), *words, TimeElapsedColumn())
    console = Console(stderr=True)
    with Bars(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as drawn:
        task = drawn.add_task("", total=None, visible=False, numbers="", note="")

        def draw(how_far: "Progress | None") -> bool:
            if how_far is None:
                drawn.update(task, visible=False)
                return True
            total = how_far.total or None
            numbers = f"{how_far.done:g}/{how_far.total:g}" if total else f"{how_far.done:g}"
            drawn.update(
                task, completed=how_far.done, total=total, numbers=numbers, note=one_line(how_far.note), visible=True
            )
            return True

        yield draw


def _ignore(_number: int) -> None:
    """Nobody looks."""
