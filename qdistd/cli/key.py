"""`qdist key`: makes the secrets that masters, workers and clients show each other."""

import os
import secrets
from pathlib import Path

import click

SECRET_BYTES = 32
"""Random bytes in a key, written as twice as many hex digits: as many as SHA-256 gives."""

KEY_MODE = 0o600


@click.command("key")
@click.argument("files", metavar="FILE...", type=click.Path(path_type=Path), nargs=-1, required=True)
def key_command(files: tuple[Path, ...]) -> None:
    """Make keys.

    Writes a fresh one into each FILE, readable for its owner alone. What is there already is never touched.

    \b
      qdist key /etc/qdist/keys/submit.key

    Name the file in master.toml under the role it shall have ([keys] submit, work or admin), and copy it to the
    hosts that use it: client.toml and worker.toml name it as `key`. Several files under one role are all valid, so
    that keys can be changed one after the other.
    """
    for file in files:
        make_key(file)
        click.echo(f"{file}: a fresh key, readable for its owner alone")


def make_key(path: Path) -> None:
    """Write a fresh key. FileExistsError where there is something already."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, KEY_MODE)
    with open(descriptor, "w") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(f"{secrets.token_hex(SECRET_BYTES)}\n")
