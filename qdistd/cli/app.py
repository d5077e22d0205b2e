"""The names of all commands. What one does is loaded when it is asked for."""

import importlib
import os
from dataclasses import dataclass
from pathlib import Path

import click

from qdistd.cli.words import duration

COMMANDS = {
    "submit": "submit",
    "result": "results",
    "wait": "results",
    "show": "show",
    "logs": "logs",
    "list": "tasks",
    "cancel": "tasks",
    "retry": "tasks",
    "status": "cluster",
    "top": "top",
    "queues": "cluster",
    "pause": "flow",
    "resume": "flow",
    "workers": "cluster",
    "drain": "flow",
    "undrain": "flow",
    "schedules": "schedules",
    "purge": "keeping",
    "backup": "keeping",
    "restore": "keeping",
    "demo": "demo",
    "config": "settings",
    "key": "key",
    "units": "units",
}
"""Command → the module of this package that has it, as the attribute `COMMAND_command`. In the order of --help."""


@dataclass(frozen=True)
class Wishes:
    """What stood before the name of the command. None: as the client's configuration says."""

    config: Path | None
    key: Path | None
    patience: float | None


class Commands(click.Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The command of that name, its module imported now."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"qdistd.cli.{COMMANDS[name]}")
        command = getattr(module, f"{name}_command")
        assert isinstance(command, click.Command)
        return command


def _say_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"qdist {version('qdistd')}")
    context.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 all went well; 1 a task failed, or something is not there; 64 the command line is wrong; "
    "70 a bug of qdist; 75 no master answers: try later; 77 the key is not allowed this; 78 a configuration or key "
    "file is wrong; 124 not within --timeout; 130 Ctrl-C. With --json every thing is one JSON object on one line.",
)
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The client's configuration file. Without it: $QDIST_CONFIG, ~/.config/qdist/client.toml, "
    "/etc/qdist/client.toml. $QDIST_MASTER names another master.",
)
@click.option(
    "--key-file",
    "key",
    envvar="QDIST_KEY",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Another key than that of the configuration: what only an administrator may do needs one of the role admin. "
    "$QDIST_KEY names it as well.",
)
@click.option(
    "--patience",
    type=duration,
    help="How long to wait for a master that does not answer [default: 5s to look, else the timeout of client.toml]",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_say_version, help="Say the version."
)
@click.pass_context
def qdist(
    context: click.Context,
    config: Path | None,
    key: Path | None,
    patience: float | None,
    debug: bool,  # noqa: ARG001 - the door reads --debug
) -> None:
    """Hand tasks to a qdist master, and see what became of them.

    "qdist demo" shows all of it at work. "qdist COMMAND --help" explains a command.
    """
    context.obj = Wishes(config, key, patience)
    if os.environ.get("NO_COLOR"):
        context.color = False
