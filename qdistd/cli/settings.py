"""`qdist config`: what the configuration files say, whether they are right, and how to change a setting."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qdistd.cli.app import Wishes
from qdistd.cli.completing import setting_names, setting_values, worker_instances
from qdistd.cli.exits import Exit

if TYPE_CHECKING:
    from qdistd.config import FileKind

KINDS = ("master", "worker", "client")

kind_argument = click.argument("kind", metavar="[master|worker|client]", type=click.Choice(KINDS), default="client")

file_option = click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Another file than the one in /etc/qdist (client: the one that is read).",
)


@click.group("config")
def config_command() -> None:
    """Show, check and change the configuration files."""


@config_command.command("show")
@kind_argument
@file_option
@click.option("--instance", default="", shell_complete=worker_instances, help="Of this worker instance alone.")
@click.option("--origin", is_flag=True, help="With the file and the line that each setting comes from.")
@click.pass_obj
def show_command(wishes: Wishes, kind: "FileKind", file: Path | None, instance: str, origin: bool) -> None:
    """Print the settings that are in force, as TOML."""
    from qdistd.config.showing import show

    click.echo(show(kind, _file(wishes, kind, file), origin, instance=instance), nl=False)


@config_command.command("check")
@kind_argument
@file_option
@click.pass_obj
def check_command(wishes: Wishes, kind: "FileKind", file: Path | None) -> Exit:
    """Say all that is wrong with the files, a line each.

    The exit code is 78 if anything is. The key files are looked into as well.
    """
    from qdistd.config import main_file
    from qdistd.config.showing import check

    path = _file(wishes, kind, file)
    problems = check(kind, path)
    for problem in problems:
        click.echo(problem, err=True)
    if not problems:
        click.echo(f"{main_file(kind, path)} is valid")
    return Exit.CONFIG if problems else Exit.OK


@config_command.command("set")
@click.argument("kind", metavar="master|worker|client", type=click.Choice(KINDS))
@click.argument("setting", shell_complete=setting_names)
@click.argument("value", shell_complete=setting_values)
@file_option
@click.pass_obj
def set_command(wishes: Wishes, kind: "FileKind", setting: str, value: str, file: Path | None) -> None:
    """Change one SETTING, such as limits.lease, and nothing else in the file; comments stay.

    \b
      qdist config set master limits.payload "128 KiB"
      qdist config set worker worker.queues default,mail
      qdist config set worker instance.gpu.processes 1

    What would be wrong is refused, and the file stays as it is.
    """
    from qdistd.config.editing import set_value

    written = set_value(kind, _file(wishes, kind, file), setting, value)
    click.echo(f"{written}: {setting} is set{_how_to_apply(kind)}")


def _file(wishes: Wishes, kind: "FileKind", file: Path | None) -> Path | None:
    return file or (wishes.config if kind == "client" else None)


def _how_to_apply(kind: "FileKind") -> str:
    units = {"master": "qdist-master", "worker": "'qdist-worker@*'"}
    return f"; systemctl reload {units[kind]} applies it" if kind in units else ""
