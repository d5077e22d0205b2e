"""The way in and out: arguments in, an exit code out, and never a traceback at a person who did not ask for one.

main ── make_context, invoke ──> a command
  └── error ── exits.code_of ──> exit code,  explain ──> one line on stderr
"""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from qdistd.cli.app import qdist
from qdistd.cli.exits import Exit, code_of

PROGRAM = "qdist"

COMPLETION_VARIABLE = "_QDIST_COMPLETE"
"""Set by the shell when it wants to complete a word (click's convention)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `qdist` with these arguments (None: those of the process) and return its exit code."""
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        return _complete(instruction)
    if sys.stdout is None:  # the shell's >&-
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - stays open, as the one it stands for
    given = tuple(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(given)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except BrokenPipeError as error:
        return _pipe_broke(error)
    except (Exception, KeyboardInterrupt, click.Abort) as error:  # noqa: BLE001 - this is the door: the person gets a line
        return _fail(error, debug="--debug" in given)
    return code


def _run(arguments: Sequence[str]) -> int:
    with qdist.make_context(PROGRAM, list(arguments)) as context:
        code = qdist.invoke(context)
        return code if isinstance(code, int) else Exit.OK


def _fail(error: BaseException, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    code = code_of(KeyboardInterrupt() if isinstance(error, click.Abort) else error)
    for line in explain(error, code):
        click.echo(f"{PROGRAM}: {line}", err=True)
    return code


def explain(error: BaseException, code: Exit) -> list[str]:
    """What to tell the person: a line for each thing that is wrong, most often one."""
    notes = [note.removeprefix(f"{PROGRAM}: ") for note in getattr(error, "__notes__", [])]
    if code is Exit.INTERRUPTED:
        return ["; ".join(["interrupted", *notes])]
    if code is Exit.BUG and not getattr(error, "code", ""):
        return [f"this is a bug of qdist: {type(error).__name__}: {error} (--debug shows where)", *notes]
    if isinstance(error, OSError) and error.strerror:
        return [": ".join(filter(None, (error.filename and str(error.filename), error.strerror))), *notes]
    return [*(str(error).splitlines() or [type(error).__name__]), *notes]


def _pipe_broke(error: BrokenPipeError) -> int:
    """Nobody reads any more: say no more than must be said, and keep the interpreter from complaining at its end."""
    for note in getattr(error, "__notes__", []):
        click.echo(f"{PROGRAM}: {note}", err=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.BROKEN_PIPE


def _complete(instruction: str) -> int:
    from click.shell_completion import shell_complete

    return shell_complete(qdist, {}, PROGRAM, COMPLETION_VARIABLE, instruction)
