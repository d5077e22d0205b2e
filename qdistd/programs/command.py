"""What the command lines of both daemons share."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from qdistd.config.loading import CREDENTIALS_VARIABLE
from qdistd.daemon import Exit, Options
from qdistd.errors import ConfigError
from qdistd.systemd import stderr_is_journal

SETTINGS = {"help_option_names": ["-h", "--help"]}

AS_ERROR = "<3>"
"""Before a line on stderr: its priority in the journal, see sd-daemon(3)."""

RUN, LOGS = Path("/run"), Path("/var/log")

Function = TypeVar("Function", bound=Callable[..., Any])


def _absolute(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """A daemon leaves the folder it was started in."""
    return path and path.absolute()


def _path(*names: str, text: str) -> Callable[[Function], Function]:
    return click.option(*names, type=click.Path(path_type=Path), callback=_absolute, metavar="FILE", help=text)


def shared_options(command: Function) -> Function:
    """The options that every daemon has, as keyword arguments."""
    for option in reversed(
        (
            _path("-c", "--config", "file", text="Configuration file (default: in /etc/qdist)."),
            click.option(
                "--check", is_flag=True, help="Only say whether the configuration is valid: exit code 0 or 1."
            ),
            click.option("--daemon", "detach", is_flag=True, help="Go into the background; for hosts without systemd."),
            _path("--pidfile", text="Lock this file and keep the process id in it (with --daemon: in /run)."),
            _path("--log", text="With --daemon: the log file (default: in /var/log)."),
            click.option("--debug", is_flag=True, help="Log everything, and tracebacks even to a terminal."),
            click.version_option(package_name="qdistd"),
        )
    ):
        command = option(command)
    return command


def options_of(program: str, level: str, given: dict[str, Any]) -> Options:
    """How to run, from the shared options. `level` is that of the configuration."""
    detach, pidfile, log = given["detach"], given["pidfile"], given["log"]
    if log and not detach:
        raise click.UsageError("--log goes with --daemon: in the foreground the log is on stderr")
    if detach:
        pidfile, log = pidfile or RUN / f"{program}.pid", log or LOGS / f"{program}.log"
    return Options(program, detach, pidfile, log, logging.DEBUG if given["debug"] else level_number(level))


def level_number(level: str) -> int:
    """The number `logging` has for a level of the configuration."""
    return logging.getLevelNamesMapping()[level.upper()]


def run_command(command: click.Command, program: str, arguments: Sequence[str]) -> int:
    """Run a command line; what is wrong with it or with the configuration is said on stderr. The exit code."""
    try:
        return int(command.main(list(arguments), prog_name=program, standalone_mode=False))
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except ConfigError as error:
        mark = AS_ERROR if stderr_is_journal(os.environ) else ""
        click.echo("\n".join(mark + line for line in str(error).splitlines()), err=True)
        return Exit.FAILED if "--check" in arguments else Exit.CONFIG
    except (KeyboardInterrupt, click.Abort):
        return Exit.INTERRUPTED


def only_check(file: Path, read_keys: Callable[[], object]) -> Exit:
    """What --check does with a configuration that could be read: read its keys, and say that all is well.

    Debian 12's systemd hides the credentials of a service from its ExecReload= commands. The keys are not judged
    then: the service itself reads them when it reloads.
    """
    hidden = _credentials_hidden(os.environ)
    if not hidden:
        read_keys()
    sys.stdout.write(f"{file} is valid{' (its keys are hidden here)' if hidden else ''}\n")
    return Exit.OK


def _credentials_hidden(environ: Mapping[str, str]) -> bool:
    folder = environ.get(CREDENTIALS_VARIABLE)
    return bool(folder) and not os.access(str(folder), os.R_OK | os.X_OK)
