"""Wheel and sdist: built from a clean source, twice the same, and what pip installs of them writes units that fit."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

TOP = Path(__file__).parent.parent

PATIENCE = 240.0
"""Seconds for a step that asks a package index: far more than it takes, less than a test may."""

WHEN = 1_700_000_000

UNITS = "usr/local/lib/systemd/system"

MADE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")


def done(*command: str | Path, **environ: str) -> str:
    """What a command printed that must succeed. It sees no qdist but the one of its own environment."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        list(map(str, command)), env={**ours, **environ}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def built(folder: Path) -> dict[str, Path]:
    """Wheel and sdist of a fresh copy of the source, by what they end with."""
    shutil.copytree(TOP, folder / "source", symlinks=True, ignore=MADE)
    done(sys.executable, "-m", "build", "--outdir", folder, folder / "source", SOURCE_DATE_EPOCH=str(WHEN))
    return {file.suffix: file for file in folder.iterdir() if file.is_file()}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return built(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def venv(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment into which pip has installed the wheel."""
    folder = tmp_path_factory.mktemp("opt") / "qdist"
    done(sys.executable, "-m", "venv", folder)
    done(folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", archives[".whl"])
    return folder


def units(venv: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(venv / "bin/qdist"), "units", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


def test_two_builds_have_the_same_bytes(archives: dict[str, Path], tmp_path: Path) -> None:
    again = built(tmp_path)
    for suffix in (".whl", ".gz"):
        assert archives[suffix].read_bytes() == again[suffix].read_bytes(), suffix


def test_the_sdist_has_all_of_the_source(archives: dict[str, Path]) -> None:
    with tarfile.open(archives[".gz"]) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for name in ("etc/master.toml", "packaging/quickstart", "tests/test_wheel.py", "qdistd/shipped/etc/master.toml"):
        assert name in names
    assert not [name for name in names if "__pycache__" in name or ".venv" in name]


def test_the_wheel_ships_the_units_and_the_samples_as_they_are(archives: dict[str, Path]) -> None:
    with ZipFile(archives[".whl"]) as wheel:
        for kind, folder in (("systemd", TOP / "packaging/systemd"), ("etc", TOP / "etc")):
            for file in (path for path in folder.rglob("*") if path.is_file()):
                shipped = wheel.read(f"qdistd/shipped/{kind}/{file.relative_to(folder)}")
                assert shipped == file.read_bytes(), file


def test_the_units_start_the_programs_of_their_environment(venv: Path, tmp_path: Path) -> None:
    ran = units(venv, tmp_path)
    assert ran.returncode == 0, ran.stderr
    for unit in (tmp_path / UNITS).glob("*.service"):
        text = unit.read_text()
        programs = set(re.findall(r"^Exec\w+=[+!@:-]*(\S*qdist\S*)", text, re.MULTILINE))
        assert programs and "/usr/bin/qdist" not in text
        for program in programs:
            assert Path(program).parent == venv / "bin" and os.access(program, os.X_OK)
    assert {f"{tmp_path}/{line}" for line in ("usr/local/lib/sysusers.d/qdist.conf", "etc/qdist/worker.toml")} <= set(
        ran.stdout.splitlines()
    )
    assert f"cp -rT {tmp_path} /" in ran.stdout and "systemctl enable --now" in ran.stdout
    assert f"{venv}/bin: services do not see this folder" in ran.stderr


def test_the_units_pass_the_judgement_of_systemd(venv: Path, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed, and only root can do that")
    assert units(venv, tmp_path).returncode == 0
    ours = [unit.name.replace("@.", "@1.") for unit in (tmp_path / UNITS).iterdir()]
    path = {"SYSTEMD_UNIT_PATH": f"{tmp_path / UNITS}:"}
    judged = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *ours], env={**os.environ, **path}, capture_output=True, text=True
    )
    assert [line for line in judged.stderr.splitlines() if "qdist" in line] == []


def test_nothing_is_overwritten_unasked_and_settings_never(venv: Path, tmp_path: Path) -> None:
    assert units(venv, tmp_path).returncode == 0
    unit, settings = tmp_path / UNITS / "qdist-master.service", tmp_path / "etc/qdist/master.toml"
    before = unit.read_text()
    assert units(venv, tmp_path).returncode == 0, "the same once more is no change"
    unit.write_text("# mine\n")
    settings.write_text("# mine\n")
    refused = units(venv, tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"qdist: {unit}: is there and differs (--force replaces it)\n"
    assert units(venv, tmp_path, "--force").returncode == 0
    assert (unit.read_text(), settings.read_text()) == (before, "# mine\n")
