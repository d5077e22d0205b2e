"""`qdist purge`, `qdist backup`, `qdist restore`: looking after what the master keeps."""

import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qdistd.cli.cluster import END_STATES
from qdistd.cli.completing import queue_names
from qdistd.cli.exits import Exit
from qdistd.cli.progress import progress
from qdistd.cli.words import duration

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024


@click.command("purge")
@click.option("--older-than", type=duration, default="0s", help="Only what ended so long ago: 90s, 12h, 7d.")
@click.option(
    "--state", "states", type=click.Choice(END_STATES), multiple=True, help="Only in this state; may be repeated."
)
@click.option("--queue", default="", shell_complete=queue_names, help="Only of this queue.")
@click.option("--name", default="", help="Only tasks of this name.")
@click.option("--dry-run", is_flag=True, help="Delete nothing, and say how many it would be.")
@click.option("--yes", is_flag=True, help="Do not ask first.")
def purge_command(older_than: float, states: tuple[str, ...], queue: str, name: str, dry_run: bool, yes: bool) -> Exit:
    """Delete tasks that have ended, with their results and all that is known of them.

    What has not ended is never touched, nor what another task waits for. Tasks that are old enough go by themselves
    ([retention] in master.toml). It works in small steps, so that others do not notice. Needs a key of the role admin.

    \b
      qdist purge --older-than 7d --state failed --dry-run
      qdist purge --queue mail --yes
    """
    from qdistd.cli.context import connected
    from qdistd.model import State

    if not (dry_run or yes or sys.stdin.isatty()):
        raise click.UsageError("nobody is here to be asked: say --yes to delete, or --dry-run to see how many it is")
    with connected(looking=True) as client:
        chosen = [State[state.upper()] for state in states]
        purge = partial(client.purge, older_than, states=chosen, queue=queue, name=name)
        expected = None if yes and not dry_run else purge(dry_run=True)
        if dry_run:
            click.echo(f"{expected} tasks would be purged")
        elif yes or click.confirm(f"Delete {expected} tasks and their results?", err=True):
            click.echo(f"{_purge(purge, expected)} tasks are purged")
        else:
            click.echo("nothing is purged")
    return Exit.OK


def _purge(purge: "Callable[..., int]", expected: int | None) -> int:
    gone = 0
    with progress("purging", expected) as advance:

        def told(tasks: int) -> None:
            nonlocal gone
            gone += tasks
            advance(tasks)

        try:
            return purge(told=told)
        except BaseException as error:
            error.add_note(f"{gone} tasks are purged already")
            raise


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE where it is there already.")
def backup_command(file: Path, force: bool) -> None:
    """Write a copy of all that the master has to FILE, while it serves.

    All tasks and results as they are at one moment. FILE is readable for you alone. It is there only once it is whole,
    checked and on the disk; whatever goes wrong leaves nothing. The master makes its copy in the folder of its store
    first, which takes as much space there for a while. Needs a key of the role admin. "qdist restore" is the way back.
    """
    from qdistd.cli.context import connected
    from qdistd.cli.output import amount

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that a timer can be stopped as well
    with connected(looking=True) as client, progress("copying, MiB", None) as advance:
        told = 0

        def hear(done: int, _of: int) -> None:
            nonlocal told
            advance(done // MIB - told)
            told = done // MIB

        backup = client.backup(file, overwrite=force, told=hear)
    click.echo(f"{file}: {backup.tasks} tasks, {amount(backup.size)}, checked")


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--master",
    "settings",
    type=click.Path(path_type=Path),
    help="The configuration file of the master whose store it is  [default: /etc/qdist/master.toml]",
)
def restore_command(file: Path, settings: Path | None) -> None:
    """Put a backup in the place of the store of this host's master, which must not be running.

    The file is checked first, and gets owner and mode of a store. What was there before stays under another name. Of
    what happened after the backup the master knows nothing then: tasks of that time are gone, and those that have ended
    in it run again. What workers still have of it is not accepted: they drop it when they meet the master.

    \b
      systemctl stop qdist-master
      qdist restore /srv/backup/qdist.db
      systemctl start qdist-master
    """
    from qdistd.config import load_master
    from qdistd.store.restoring import restore

    store = Path(load_master(settings).store.removeprefix("sqlite://"))
    restored = restore(file, store)
    click.echo(f"{store}: restored, {restored.checked.tasks} tasks")
    if restored.aside is not None:
        click.echo(f"{restored.aside}: what was there before")
