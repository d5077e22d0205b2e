"""What the man pages say is so: they name all that is there and nothing else, their examples work, and they render."""

import enum
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cluster import Cluster
from daemons import DEADLINE
from shell import Shell, shell_script

from qdistd.cli.app import qdist
from qdistd.cli.exits import Exit as ClientExit
from qdistd.config import load_client, load_master, load_worker
from qdistd.config.loading import Place
from qdistd.daemon import Exit as DaemonExit
from qdistd.programs import master, worker

TOP = Path(__file__).parent.parent
FOLDER = TOP / "packaging/man"
PAGES = {page.stem: page.read_text() for page in FOLDER.glob("*.scd")}
SOURCES = "\n".join(path.read_text() for path in sorted((TOP / "qdistd").rglob("*.py")))

PARTS = {
    "qdist.1": ["options qdist", "commands qdist"],
    "qdist-master.8": ["options qdist-master"],
    "qdist-worker.8": ["options qdist-worker"],
    "qdist-master.toml.5": ["settings master"],
    "qdist-worker.toml.5": ["settings worker"],
    "qdist-client.toml.5": ["settings client"],
}
"""What each page must have from the code."""

EXITS = {"qdist.1": ClientExit, "qdist-master.8": DaemonExit, "qdist-worker.8": DaemonExit}

NOT_OURS = {"--iterations", "--now"}
"""Options of systemctl and systemd-analyze."""

SCDOC_ITSELF = "skipping paragraph macro"
"""What mandoc says of every page that scdoc makes."""

every_page = pytest.mark.parametrize("page", PAGES)


def blocks(page: str, section: str = "") -> list[str]:
    """The literal blocks of a page, or of one section of it."""
    text = PAGES[page]
    if section:
        text = text.partition(f"\n# {section}\n")[2].partition("\n# ")[0]
    return re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def bare(page: str) -> str:
    """The text without its markup."""
    return re.sub(r"\\(.)|[*]|(?<!\w)_|_(?!\w)", r"\1", PAGES[page])


def every_command(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below
            yield from every_command(below)


def options() -> set[str]:
    programs = [command for top in (qdist, master._command, worker._command) for command in every_command(top)]
    options = {sign for command in programs for option in command.params for sign in option.opts}
    return options | {"--help"}


def rendered(page: str, folder: Path) -> Path:
    for tool in ("scdoc", "mandoc", "man"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed, and only root can do that")
    done = subprocess.run(["scdoc"], input=PAGES[page], text=True, capture_output=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, ""), page
    file = folder / page
    file.write_text(done.stdout)
    return file


def test_every_program_and_every_file_has_a_page() -> None:
    scripts = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["scripts"]
    programs = {name + (".1" if name == "qdist" else ".8") for name in scripts}
    files = {f"qdist-{file.name}.5" for file in (TOP / "etc").iterdir()}
    assert programs | files | {"qdist-systemd.7"} == set(PAGES)


def test_what_the_code_knows_is_fresh() -> None:
    script = [sys.executable, str(FOLDER / "refresh.py"), "--check"]
    done = subprocess.run(script, env={**os.environ, "PYTHONPATH": str(TOP)}, timeout=DEADLINE)
    assert done.returncode == 0, ".venv/bin/python packaging/man/refresh.py writes it anew"


@pytest.mark.parametrize("page", PARTS)
def test_each_page_has_its_part_of_the_code(page: str) -> None:
    parts = re.findall(r"^; from the code: (.*)$", PAGES[page], re.MULTILINE)
    assert parts == PARTS[page] and PAGES[page].count("\n; end of the code\n") == len(parts)


@pytest.mark.parametrize("page", EXITS)
def test_exactly_the_exit_codes_there_are_stand_in_the_page(page: str) -> None:
    codes: type[enum.IntEnum] = EXITS[page]
    assert [int(code) for code in re.findall(r"^\*(\d+)\*$", PAGES[page], re.MULTILINE)] == sorted(codes)


@every_page
def test_no_page_names_an_option_that_is_not_there(page: str) -> None:
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", bare(page))) <= options() | NOT_OURS


@every_page
def test_no_page_names_a_command_that_is_not_there(page: str) -> None:
    prose = re.findall(r"\*qdist ([a-z]+)", PAGES[page])
    code = re.findall(r"(?:^|\(|\| )qdist ([a-z]+)", "\n".join(blocks(page)), re.MULTILINE)
    assert {*prose, *code} <= set(qdist.list_commands(click.Context(qdist)))


@every_page
def test_no_page_names_a_page_that_is_not_there(page: str) -> None:
    named = {".".join(found) for found in re.findall(r"\*(qdist[\w.-]*)\*\((\d)\)", PAGES[page])}
    assert named and named <= set(PAGES)


@every_page
def test_no_page_names_a_unit_that_is_not_there(page: str) -> None:
    named = re.findall(r"\b(qdist[a-z-]*@?)\w*\.(service|socket|target|slice)\b", bare(page))
    assert {".".join(found) for found in named} <= {path.name for path in (TOP / "packaging/systemd").iterdir()}


@every_page
def test_no_page_names_a_variable_or_a_journal_field_that_is_not_there(page: str) -> None:
    for name in set(re.findall(r"\bQDIST_[A-Z_]+", bare(page))):
        field = name.removeprefix("QDIST_")
        assert f'"{name}"' in SOURCES or re.search(rf'"{field}"|\b{field}=', SOURCES), name


def test_the_examples_of_qdist_work(cluster: Cluster, tmp_path: Path) -> None:
    for text in blocks("qdist.1", "EXAMPLES"):
        done = shell_script(Shell(cluster, "admin"), text, tmp_path)
        assert (done.code, done.err) == (0, ""), text


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith(".5")])
def test_the_examples_of_files_are_valid(page: str, tmp_path: Path) -> None:
    loaders = {"master": load_master, "worker": load_worker, "client": load_client}
    kind = page.removeprefix("qdist-").removesuffix(".toml.5")
    (text,) = blocks(page, "EXAMPLES")
    (tmp_path / "example.toml").write_text(text)
    assert loaders[kind](tmp_path / "example.toml", place=Place({})) != loaders[kind](place=Place({}, tmp_path))


@pytest.mark.parametrize("text", [text for text in blocks("qdist-systemd.7") if "[Service]" in text])
def test_the_drop_ins_of_the_page_are_valid(text: str, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed, and only root can do that")
    for unit in (TOP / "packaging/systemd").glob("*.*"):
        (tmp_path / unit.name).write_text(re.sub("/usr/bin/qdist[a-z-]*", "/bin/true", unit.read_text()))
    for unit in ("qdist-master", "qdist-worker@"):
        (tmp_path / f"{unit}.service.d").mkdir()
        (tmp_path / f"{unit}.service.d/page.conf").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *("qdist-master.service", "qdist-worker@gpu.service")],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
    )
    assert "page.conf" not in done.stdout, done.stdout


@every_page
def test_a_page_renders_without_a_warning(page: str, tmp_path: Path) -> None:
    file = rendered(page, tmp_path)
    lint = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", str(file)], capture_output=True, text=True, timeout=DEADLINE
    )
    assert [line for line in lint.stdout.splitlines() if SCDOC_ITSELF not in line] == []
    environ = {**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
    shown = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(file)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
