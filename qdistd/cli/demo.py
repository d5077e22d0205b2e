"""`qdist demo`: the ten squares of the original script, on whatever master there is.

configured, and it answers ──> that master
otherwise ───────────────────> private_cluster: a master and two workers in a temporary folder, gone at the end
"""

import os
import random
from typing import TYPE_CHECKING

import click

from qdistd.cli.app import Wishes
from qdistd.errors import QdistError

if TYPE_CHECKING:
    from qdistd.client.client import Client

TASKS = 10

LARGEST = 10_000
"""The numbers are drawn from 0 to this one, as in the original."""

RUN_SECONDS = 60.0
"""Seconds for ten squares. When they are over, no worker is there that takes them."""

MASTER_VARIABLE = "QDIST_MASTER"

NEXT_CONFIGURED = """
That ran on your own master. Next:
  qdist submit square 7 --wait     one task more
  qdist status                     who works, and what is queued"""

NEXT_PRIVATE = """
That was a private master with two workers; they are gone again. Next:
  packaging/quickstart             in the source of qdist: a master and two workers that stay
  qdist --help                     what else there is"""


@click.command("demo")
@click.option("--private", is_flag=True, help="Start a private master even where one is configured.")
@click.pass_obj
def demo_command(wishes: Wishes, private: bool) -> None:
    """Run ten tasks and print their results.

    They run on the configured master. Where none is configured, or none answers, a private master and two workers are
    started in a temporary folder, and ended and removed afterwards.
    """
    client = None if private else _configured(wishes)
    if client is None:
        _run_privately()
        click.echo(NEXT_PRIVATE)
        return
    with client:
        _run(client)
    click.echo(NEXT_CONFIGURED)


def _configured(wishes: Wishes) -> "Client | None":
    """A client of the configured master, if there is one and it answers."""
    from qdistd.cli.context import SOON, connected
    from qdistd.config import main_file
    from qdistd.protocol import Status

    if not (wishes.config or MASTER_VARIABLE in os.environ or os.path.lexists(main_file("client", None))):
        return None
    try:
        client = connected(looking=True)
        client.ask(Status(), SOON)
    except (QdistError, TimeoutError) as error:
        if wishes.config:
            raise
        click.echo(f"qdist: {error}: starting a private master instead", err=True)
        return None
    return client


def _run_privately() -> None:
    from qdistd.cli.private import private_cluster

    with private_cluster() as cluster, cluster.client() as client:
        _run(client)


def _run(client: "Client") -> None:
    """What task_master.py printed."""
    from qdistd.client.handle import as_completed

    handles = []
    for _ in range(TASKS):
        number = random.randint(0, LARGEST)  # noqa: S311 - any number will do
        click.echo(f"Put task {number}...")
        handles.append(client.submit("square", number))
    client.flush()
    click.echo("Try get results...")
    for handle in as_completed(handles, RUN_SECONDS):
        click.echo(f"Result: {handle.result()}")
    click.echo("master exit.")
