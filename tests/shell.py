"""The command `qdist` in tests: in this process where that is enough, as a process of its own where it is not.

shell = Shell(cluster)
shell("submit", "square", "7", "--wait").out == "7 * 7 = 49\n"
"""

import contextlib
import json
import os
import pty
import shlex
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from cluster import Cluster, write_toml
from daemons import DEADLINE, clean_environ, python

COMMAND = python("-m", "qdistd")


class Ran(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it printed."""
        return self.out.splitlines()

    @property
    def things(self) -> list[Any]:
        """What it printed, as JSON lines."""
        return [json.loads(line) for line in self.lines]

    @property
    def thing(self) -> Any:
        """The one JSON line it printed."""
        (thing,) = self.things
        return thing


class Shell:
    """Runs `qdist` against a cluster, as somebody with a `client.toml`."""

    def __init__(self, cluster: Cluster, role: str = "submit") -> None:
        self.config = cluster.folder / f"client-{role}.toml"
        write_toml(self.config, {"client": {"masters": [cluster.address], "key": str(cluster.keys[role])}})
        self.environ = {**clean_environ(), "QDIST_CONFIG": str(self.config)}

    def __call__(self, *arguments: str | Path, stdin: str = "", **environ: str) -> Ran:
        """Run it to its end."""
        return run(*arguments, stdin=stdin, **self.environ | environ)

    def start(self, *arguments: str | Path, **streams: Any) -> subprocess.Popen[str]:
        """Start it, with pipes for what `streams` does not name."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)], text=True, **{**pipes, "env": self.environ, **streams}
        )

    def on_a_terminal(self, *arguments: str, **environ: str) -> str:
        """What a person sees, standard error as well."""
        ours, theirs = pty.openpty()
        process = self.start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=self.environ | environ)
        os.close(theirs)
        seen = bytearray()
        with contextlib.suppress(OSError):  # EIO: nobody holds the terminal any more
            while data := os.read(ours, 65536):
                seen += data
        os.close(ours)
        process.wait(DEADLINE)
        return seen.decode().replace("\r\n", "\n")


def run(*arguments: str | Path, stdin: str = "", **environ: str) -> Ran:
    """Run `qdist` to its end, without a configuration unless `environ` names one."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        text=True,
        capture_output=True,
        env={**clean_environ(), **environ},
        timeout=DEADLINE,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def shell_script(shell: Shell, text: str, folder: Path) -> Ran:
    """What a person types, by bash, in a folder; `qdist` is the one of this source."""
    function = f'qdist() {{ {shlex.join(COMMAND)} "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", function + text],
        cwd=folder,
        env=shell.environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
