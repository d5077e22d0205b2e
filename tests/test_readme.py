"""What the README says is so: its programs and commands run, its settings are valid, its files are there."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
from cluster import Cluster
from daemons import DEADLINE
from shell import COMMAND, Shell

from qdistd.config import load_client, load_master, load_worker

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text()

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(README) if found == language]


MODULES = {text.split()[1]: text for text in blocks("python") if text.startswith("# ")}
"""Programs that are modules for others: their first line is a comment with the name of the file."""

PROGRAMS = [text for text in blocks("python") if text not in MODULES.values()]


class AnyPort(Controller):
    """A mail server on a port that the system finds."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


class Stage:
    """A cluster as the README imagines it: what it calls port 5000, /etc/qdist, /srv and port 25 is here."""

    def __init__(self, folder: Path, cluster: Cluster, smtp_port: int) -> None:
        self._folder = folder
        self.shell = Shell(cluster)
        self._names = {
            "5000": cluster.address.rpartition(":")[2],
            "/etc/qdist/keys/submit.key": str(cluster.keys["submit"]),
            "/etc/qdist/keys/admin.key": str(cluster.keys["admin"]),
            "/srv/share/logs": str(folder),
            "port=25": f"port={smtp_port}",
        }

    def run(self, command: list[str], text: str) -> str:
        """Run a text with an interpreter; what it printed."""
        for name, ours in self._names.items():
            text = text.replace(name, ours)
        environ = {**self.shell.environ, "PYTHONPATH": os.pathsep.join((str(TOP), str(self._folder)))}
        done = subprocess.run(
            [*command, "-c", text], cwd=self._folder, env=environ, capture_output=True, text=True, timeout=DEADLINE
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{text}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("readme")
    folder.chmod(0o700)
    for name, text in MODULES.items():
        (folder / name).write_text(text)
    (folder / "a.log").write_text("one\ntwo\n")
    tasks = {"tasks": ["qdistd.tasks", "mytasks", "bank", "math"], "path": [str(folder)]}
    mail_server = AnyPort(Sink(), hostname="127.0.0.1", port=0)
    mail_server.start()
    cluster = Cluster(folder, workers=2, worker={"worker": tasks, "share": [{"name": "logs", "path": str(folder)}]})
    yield Stage(folder, cluster.start(), mail_server.port)
    cluster.close()
    mail_server.stop()


@pytest.mark.parametrize("text", PROGRAMS, ids=range(len(PROGRAMS)))
def test_its_programs_run(stage: Stage, text: str) -> None:
    assert stage.run([sys.executable], text)


@pytest.mark.parametrize("text", blocks("sh"), ids=range(len(blocks("sh"))))
def test_its_commands_run(stage: Stage, text: str) -> None:
    function = f'qdist() {{ {shlex.join(COMMAND)} "$@"; }}\n'
    assert stage.run(["bash", "-euo", "pipefail"], function + text)


@pytest.mark.parametrize("text", blocks("toml"), ids=range(len(blocks("toml"))))
def test_its_settings_are_valid(text: str, tmp_path: Path) -> None:
    assert tomllib.loads(text)
    file = tmp_path / "file.toml"
    file.write_text(text)
    if text.startswith("# /etc/qdist/master.toml\n"):
        load_master(file)
    elif text.startswith("# /etc/qdist/client.toml\n"):
        load_client(file)
    else:
        load_worker(file, "mail")


def test_the_files_it_names_are_there() -> None:
    named = re.findall(r"(?<![\w/.])(?:qdistd|tests|packaging|etc)/[\w./-]+\w", README)
    assert len(named) > 10
    for path in named:
        assert (TOP / path).exists(), path


def test_the_units_it_names_are_shipped() -> None:
    shipped = {path.stem for path in (TOP / "packaging/systemd").glob("*.service")}
    named = set(re.findall(r"qdist-\w+@?", " ".join(line for line in README.splitlines() if "systemctl" in line)))
    assert named and named <= shipped


def test_the_commands_it_names_exist(stage: Stage) -> None:
    for name in set(re.findall(r"`qdist (\w+)", README)) | set(re.findall(r"^qdist (\w+)", README, re.MULTILINE)):
        assert stage.shell(name, "--help").code == 0, name
