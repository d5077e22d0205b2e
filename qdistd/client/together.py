"""Tasks that belong together: groups and chains, made of calls, submitted in one transaction.

    group   a  b  c ──results, one list──> then          chain   a ──result──> b ──result──> c

There is nothing else to it: a task may come `after` others and `take` their results, and the master does the rest.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from qdistd.client.handle import Handle, as_completed, cancel_all, wait


class Counts(NamedTuple):
    """How many tasks a group has, how many of them have ended, and how many of these without a result."""

    total: int
    done: int
    failed: int


class Group:
    """The handles of tasks that were submitted together. `then`: the handle of the task that gets all their results."""

    def __init__(self, handles: Sequence[Handle[Any]], then: Handle[Any] | None = None) -> None:
        self.handles = tuple(handles)
        self.then = then

    def __iter__(self) -> Iterator[Handle[Any]]:
        return iter(self.handles)

    def __len__(self) -> int:
        return len(self.handles)

    def result(self, timeout: float | None = None) -> list[Any]:
        """What the tasks returned, in the order of the calls; those of `then` are at `group.then.result()`.

        Raises as `Handle.result` does: as soon as one has failed, whatever the others do.
        """
        for handle in as_completed(self.handles, timeout):
            error = handle.exception()
            if error is not None:
                raise error
        return [handle.result() for handle in self.handles]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all have ended, well or not, or until `timeout` seconds are over: whether they have."""
        return not wait(self.handles, timeout).not_done

    def done(self) -> bool:
        """Whether the end of every task is known here. Asks nobody."""
        return all(handle.done() for handle in self.handles)

    def progress(self) -> Counts:
        """How many have ended, as far as that is known here. Asks nobody."""
        ended = [handle for handle in self.handles if handle.done()]
        failed = sum(handle.exception() is not None for handle in ended)
        return Counts(len(self.handles), len(ended), failed)

    def cancel(self) -> int:
        """Cancel whatever has not ended, `then` as well: how many tasks that comes in time for."""
        every = self.handles if self.then is None else (*self.handles, self.then)
        return cancel_all([handle for handle in every if not handle.done()])

    def __repr__(self) -> str:
        total, done, failed = self.progress()
        return f"<qdistd.Group {done} of {total} done{f', {failed} without a result' if failed else ''}>"
