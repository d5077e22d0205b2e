"""The Tab key in a real bash on a terminal: commands, options, settings, instances and files are completed."""

import os
import pty
import re
import select
import subprocess
import termios
import time
import tomllib
from pathlib import Path

import pytest
from daemons import DEADLINE, clean_environ

TOP = Path(__file__).parent.parent
SCRIPT = TOP / "packaging/completion/qdist.bash"

MASTER = "[queue.mail]\n[schedule.a]\ncalendar = 'daily'\ntask = 'square'\n"
WORKER = '[instance.mail]\nqueues = ["mail"]\n'

TYPED = [
    ("qdist sub", "qdist submit "),
    ("qdist submit --prio", "qdist submit --priority "),
    ("qdist -c x --pat", "qdist -c x --patience "),
    ("qdist list --state qua", "qdist list --state quarantined "),
    ("qdist config se", "qdist config set "),
    ("qdist config set mas", "qdist config set master "),
    ("qdist config set worker limits.tim", "qdist config set worker limits.timeout "),
    ("qdist config set -f w.toml worker instance.mail.pro", "worker instance.mail.pro"),
    ("qdist config set -f w.toml worker instance.mail.limits.me", "worker instance.mail.limits.memory "),
    ("qdist config set -f m.toml master queue.mail.ra", "master queue.mail.rate "),
    ("qdist config set -f m.toml master schedule.a.persistent t", "schedule.a.persistent true "),
    ("qdist config set master keys.weak t", "qdist config set master keys.weak true "),
    ("qdist config set master log.level war", "qdist config set master log.level warning "),
    ("qdist config show -f w.toml --instance ma", "qdist config show -f w.toml --instance mail "),
    ("qdist submit --file w.t", "qdist submit --file w.toml "),
    ("qdist-worker -c w.toml ma", "qdist-worker -c w.toml mail "),
    ("qdist-master --che", "qdist-master --check "),
]


class Terminal:
    """Bash on a terminal, in a folder, with the completion loaded."""

    def __init__(self, folder: Path) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 200))
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            cwd=folder,
            env={**clean_environ(), "TERM": "dumb", "PATH": os.environ["PATH"], "PS1": "$ "},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def shows(self, text: str) -> None:
        """Wait until the text is to be seen, after everything that was waited for before."""
        end = time.monotonic() + DEADLINE
        while text not in self.seen:
            ready, _, _ = select.select([self._ours], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} is not among {self.seen!r}"
            self.seen += os.read(self._ours, 65536).decode()
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        self._bash.kill()
        self._bash.wait()
        os.close(self._ours)


@pytest.mark.parametrize(("typed", "completed"), TYPED)
def test_the_tab_key_completes(typed: str, completed: str, tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(WORKER)
    (tmp_path / "m.toml").write_text(MASTER)
    terminal = Terminal(tmp_path)
    try:
        terminal.type(f"source {SCRIPT}; echo loaded $?\n")
        terminal.shows("loaded 0\r\n$ ")
        terminal.type(f"{typed}\t")
        terminal.shows(completed)
    finally:
        terminal.close()


def test_every_program_is_completed() -> None:
    scripts = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["scripts"]
    last = SCRIPT.read_text().splitlines()[-1]
    assert set(re.findall(r"\bqdist[\w-]*", last.replace("_qdist", ""))) == set(scripts)
