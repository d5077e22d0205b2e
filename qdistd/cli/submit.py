"""`qdist submit`: one task from the command line, or one for each line of a file.

    TASK ARG…   ──> submit ──> flush ──> its id                       (--wait: its result)
    --file      ──> bulk.submit_file                                  (--atomic: whole.submit_whole)

What is printed is on the master's disk.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qdistd.cli.chosen import choices_of, task_options
from qdistd.cli.exits import Exit
from qdistd.cli.words import STDIN, is_number, json_option, pair
from qdistd.errors import Unavailable

if TYPE_CHECKING:
    from qdistd.client.handle import Handle
    from qdistd.client.options import Choices


class TaskCommand(click.Command):
    """A command with arguments of its own and the task's. Of what starts with a dash, numbers are the task's."""

    ignore_unknown_options = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and refuse an option that does not exist unless `--` stands before it."""
        exempt = len(args) - args.index("--") - 1 if "--" in args else 0
        rest = super().parse_args(ctx, args)
        words = [word for word in (ctx.params.get("task"), *ctx.params.get("arguments", ())) if word]
        for word in words[: len(words) - exempt]:
            if word.startswith("-") and len(word) > 1 and not is_number(word):
                raise click.NoSuchOption(
                    word, f"No such option: {word} (for an argument of the task write -- before it)", ctx=ctx
                )
        return rest


@click.command("submit", cls=TaskCommand)
@click.argument("task", required=False)
@click.argument("arguments", metavar="[ARG]...", nargs=-1)
@click.option(
    "--kw", "pairs", metavar="NAME=VALUE", type=pair, multiple=True, help="A keyword argument; may be repeated."
)
@task_options
@click.option("--wait", is_flag=True, help="Wait for the result and print that.")
@click.option(
    "--file",
    "source",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="A task on each line; - is standard input.",
)
@click.option("--atomic", is_flag=True, help="With --file: all its tasks, 1000 at most, or none of them.")
@json_option
def submit_command(
    task: str | None,
    arguments: tuple[str, ...],
    pairs: tuple[tuple[str, Any], ...],
    wait: bool,
    source: Path | None,
    atomic: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Submit TASK, and print its id once it is on the master's disk.

    Each ARG is JSON where it parses (7, true, '[1, 2]', '"7"'), else a string.

    \b
      qdist submit square 7 --wait
      qdist submit count_lines /srv/share/access.log --retries 5 --delay 10m
      qdist submit --file tasks.jsonl
      qdist submit --file tasks.jsonl | qdist submit report --after - --take list

    With --file every line is {"task": "square", "args": [7], "kwargs": {}, "queue": …, "key": …} or ["square", 7];
    its keys are the names of the options with _ for -, and `requires` for --require. Options of the command line hold
    for lines that have none of their own; with --key NAME line 3 has the key NAME:3, so that submitting the same file
    again is harmless. A file is read to its end before anything is submitted: where a line is wrong, all such lines
    are named and nothing is submitted. What comes through a pipe is submitted as it arrives: wrong lines are named
    and left out. A master that is overloaded is waited for.
    """
    if source is None:
        if task is None:
            raise click.UsageError("Missing argument 'TASK' (or --file).")
        if atomic:
            raise click.UsageError("--atomic is for --file: one task is always stored whole.")
        return _submit_one(task, arguments, dict(pairs), choices_of(given), wait, as_json)
    if task is not None:
        raise click.UsageError(f"--file has its tasks in the file: what is {task!r} for?")
    if str(source) == STDIN and STDIN in given["after"]:
        raise click.UsageError("standard input cannot be the tasks (--file -) and the ids (--after -) at once.")
    return _submit_file(source, choices_of(given), atomic, wait, as_json)


def _submit_file(source: Path, choices: "Choices", atomic: bool, wait: bool, as_json: bool) -> int:
    if atomic:
        from qdistd.cli.whole import submit_whole

        return submit_whole(source, choices, wait=wait, as_json=as_json)
    from qdistd.cli.bulk import submit_file

    return submit_file(source, choices, wait=wait, as_json=as_json)


def _submit_one(
    task: str, arguments: tuple[str, ...], kwargs: dict[str, Any], choices: "Choices", wait: bool, as_json: bool
) -> int:
    from qdistd.cli.context import connected
    from qdistd.cli.output import write_json
    from qdistd.cli.results import write_end
    from qdistd.cli.words import value_of

    with connected(looking=False) as client:
        chosen: Choices = {**choices, "watch": wait}
        handle = client.options(**chosen).submit(task, *map(value_of, arguments), **kwargs)
        try:
            client.store()
            if wait:
                return write_end(handle, as_json)
        except (KeyboardInterrupt, Unavailable, TimeoutError) as error:
            error.add_note(fate_of(handle))
            raise
    write_json({"id": handle.id}) if as_json else click.echo(handle.id)
    return Exit.OK


def fate_of(handle: "Handle[Any]") -> str:
    """What has become of a task whose submitter cannot wait any longer."""
    if handle.task is None:
        return f"the task is submitted and will run: qdist result {handle.id}"
    return f"it has not acknowledged the task, and may have it or not: qdist show {handle.id}"
