"""A client for the command that runs, made as the person wished."""

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import click

from qdistd.cli.app import Wishes
from qdistd.client.client import Client
from qdistd.config import load_client
from qdistd.errors import Unavailable

LOOKING = 5.0
"""Seconds a question to a master waits for one to answer: a person looks on, and a restart takes less."""

SOON = 2.0
"""Seconds after which a person who waits for a master is told so."""


class Connection(Client):
    """A client that does not wait for the master any more once something has gone wrong: the person is told of that."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._background.close()

    def store(self) -> None:
        """As `flush`, and tells the person when that takes long."""
        patience = _wishes().patience
        if patience is not None and patience <= SOON:
            return self.flush()
        try:
            self.flush(SOON)
        except (Unavailable, TimeoutError) as error:
            click.echo(f"qdist: {error}; still trying (Ctrl-C ends that)", err=True)
            self.flush()


def connected(*, looking: bool) -> Connection:
    """A client. `looking`: for a question that loses nothing if it fails, so that it fails soon."""
    wishes = _wishes()
    patience = wishes.patience
    if patience is None and looking:
        patience = min(LOOKING, load_client(wishes.config).timeout)
    return Connection(key=wishes.key, config=wishes.config, timeout=patience)


def _wishes() -> Wishes:
    wishes = click.get_current_context().find_object(Wishes)
    assert wishes is not None, "every command runs below the group"
    return wishes


@contextlib.contextmanager
def asking() -> Iterator[Callable[[Any], Any]]:
    """Gives a function that asks the master a question of `qdistd.protocol` and returns the answer."""
    with connected(looking=True) as client:
        yield client.ask
