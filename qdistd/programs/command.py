"""What the command lines of both daemons share."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from qdistd.config.keys import fresh_keys
from qdistd.config.loading import CREDENTIALS_VARIABLE, RUNTIME_VARIABLE
from qdistd.control import Ask, ask
from qdistd.daemon import Exit, Options
from qdistd.errors import ConfigError, Refused, Unavailable
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
            click.option(
                "--reload",
                "again",
                is_flag=True,
                help="Have the running daemon apply its configuration; return when it is in force: exit code 0 or 1.",
            ),
            _path("--control", text="The socket where --reload asks (default: in $RUNTIME_DIRECTORY or in /run)."),
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
    control = given["control"] or _own_control(pidfile)
    return Options(program, detach, pidfile, log, control, logging.DEBUG if given["debug"] else level_number(level))


def _own_control(pidfile: Path | None) -> Path | None:
    """Where a daemon listens for `--reload`: in its own folder, or beside its PID file; nowhere if it has neither."""
    folder = os.environ.get(RUNTIME_VARIABLE, "").partition(":")[0]
    if folder:
        return Path(folder, "control")
    return pidfile and pidfile.with_suffix(".control")


def ask_to_reload(
    unit: str, credentials: Sequence[str], read_keys: Callable[[], object], given: dict[str, Any]
) -> Exit:
    """What --reload does, once the configuration could be read: OK only when the daemon works by it.

    `unit`: the folder of the daemon in /run. What is wrong is on stderr, with file and line. Root hands the key files
    over as they are now, since the daemon may live on copies that systemd made; whether it does, the daemon knows.
    """
    if not _credentials_hidden(os.environ) and CREDENTIALS_VARIABLE not in os.environ:
        read_keys()
    control = given["control"] or _own_control(given["pidfile"]) or RUN / unit / "control"
    question = Ask("reload", fresh_keys(credentials) if os.geteuid() == 0 else {})
    verdict = ask(control, question)
    if not verdict.ok:
        raise Refused(verdict.text)
    return Exit.OK


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
    except (Refused, Unavailable) as error:
        mark = AS_ERROR if stderr_is_journal(os.environ) else ""
        click.echo("\n".join(mark + line for line in str(error).splitlines()), err=True)
        wrong = isinstance(error, ConfigError) and {"--check", "--reload"}.isdisjoint(arguments)
        return Exit.CONFIG if wrong else Exit.FAILED
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
