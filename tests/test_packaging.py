"""The Debian package: from any folder one command builds the same bytes, clean by Debian's own judge, and whole."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent

SYSTEMD = TOP / "packaging/systemd"

PATIENCE = 280.0
"""Seconds for a build that first installs what it needs."""

WHEN = "1700000000"

SUFFIXES_OF_UNITS = {".service", ".socket", ".target", ".slice"}


def done(*command: str | Path, **environ: str) -> str:
    """What a command printed that must succeed."""
    ran = subprocess.run(
        list(map(str, command)), env={**os.environ, **environ}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def built(source: Path, folder: Path) -> Path:
    """The package of the source in this folder."""
    return Path(done(source / "packaging/build-deb", folder, SOURCE_DATE_EPOCH=WHEN).splitlines()[-1])


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() and not shutil.which("dpkg-buildpackage"):
        pytest.skip("dpkg-buildpackage is not installed, and only root can do that")
    return built(TOP, tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def root(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package puts onto a host, and its control files in DEBIAN."""
    folder = tmp_path_factory.mktemp("root")
    done("dpkg-deb", "--raw-extract", deb, folder)
    return folder


def control(root: Path) -> dict[str, str]:
    """The one-line fields of the package."""
    text = (root / "DEBIAN/control").read_text()
    return dict(re.findall(r"^([A-Z][\w-]+): (.*)$", text, re.MULTILINE))


def test_the_same_source_gives_the_same_package_wherever_it_lies(deb: Path, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "tests")
    shutil.copytree(TOP, tmp_path / "elsewhere", symlinks=True, ignore=ignored, copy_function=shutil.copy)
    assert built(tmp_path / "elsewhere", tmp_path / "out").read_bytes() == deb.read_bytes()


def test_a_build_leaves_the_checkout_as_it_was(deb: Path) -> None:
    assert not (TOP / "debian").exists() and not list((TOP / "packaging/man").glob("*.[0-9]"))
    assert not list((TOP / "packaging/debian").glob("*.debhelper*"))


def test_lintian_finds_neither_errors_nor_warnings(deb: Path) -> None:
    if not shutil.which("lintian"):
        pytest.skip("lintian is not installed, and only root can do that")
    done("lintian", "--allow-root", "--fail-on", "error,warning", deb)


def test_version_and_dependencies_are_those_of_the_project(root: Path) -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    fields = control(root)
    assert fields["Version"] == project["version"]
    needs = {re.split(r"[>=]", need)[0] for need in project["dependencies"]}
    debian = {"python-daemon": "python3-daemon"} | {
        need: f"python3-{need}" for need in needs if need != "python-daemon"
    }
    missing = {need for need in needs if not re.search(rf"\b{debian[need]} \(>=", fields["Depends"])}
    assert missing == {"msgspec"} and (root / "usr/lib/qdist/python/msgspec").is_dir()


def test_msgspec_is_there_for_the_pythons_of_debian_12_and_13(root: Path) -> None:
    cores = (root / "usr/lib/qdist/python/msgspec").glob("_core.*.so")
    assert {core.name.split(".")[1].split("-")[1] for core in cores} == {"311", "313"}
    assert (root / "usr/lib/python3/dist-packages/qdist.pth").read_text() == "/usr/lib/qdist/python\n"


def test_programs_take_their_code_from_the_system_alone(root: Path) -> None:
    programs = {path.name: path.read_text().splitlines()[0] for path in (root / "usr/bin").iterdir()}
    assert programs == dict.fromkeys(("qdist", "qdist-master", "qdist-worker"), "#!/usr/bin/python3 -I")


def test_every_unit_and_what_goes_with_it_is_in_its_place(root: Path) -> None:
    units = {path.name for path in SYSTEMD.iterdir() if path.suffix in SUFFIXES_OF_UNITS}
    assert {path.name for path in (root / "lib/systemd/system").iterdir()} == units
    others = {
        "strict.conf": "usr/share/doc/qdist/examples/strict.conf",
        "qdist.catalog": "usr/lib/systemd/catalog/qdist.catalog",
        "qdist.preset": "lib/systemd/system-preset/50-qdist.preset",
        "qdist.sysusers": "usr/lib/sysusers.d/qdist.conf",
        "qdist.tmpfiles": "usr/lib/tmpfiles.d/qdist.conf",
    }
    assert {path.name for path in SYSTEMD.iterdir()} == units | set(others)
    for name, place in others.items():
        assert (root / place).read_bytes() == (SYSTEMD / name).read_bytes()


def test_what_a_person_edits_is_a_conffile(root: Path) -> None:
    conffiles = set((root / "DEBIAN/conffiles").read_text().split())
    assert conffiles == {f"/{path.relative_to(root)}" for path in (root / "etc").rglob("*") if path.is_file()}
    assert {f"/etc/qdist/{path.name}" for path in (TOP / "etc").iterdir()} < conffiles


def test_needrestart_leaves_workers_alone(root: Path) -> None:
    file = root / "etc/needrestart/conf.d/qdist.conf"
    judge = "our %nrconf; do $ARGV[0]; die $@ if $@; print grep { 'qdist-worker@1' =~ $_ } keys %{$nrconf{override_rc}}"
    assert "qdist-worker@" in done("perl", "-we", judge, file)


def test_every_program_and_file_has_a_page_and_every_program_completes(root: Path) -> None:
    pages = {path.name.removesuffix(".gz") for path in (root / "usr/share/man").rglob("*.gz")}
    assert pages == {path.stem for path in (TOP / "packaging/man").glob("*.scd")}
    completed = {path.name for path in (root / "usr/share/bash-completion/completions").iterdir()}
    assert completed == {path.name for path in (root / "usr/bin").iterdir()}


def test_each_relaxed_directive_of_the_worker_has_its_reason() -> None:
    master, worker = ((SYSTEMD / f"qdist-{kind}.service").read_text() for kind in ("master", "worker@"))
    hardening = master.partition("CapabilityBoundingSet=")[2].partition("[Install]")[0]
    relaxed = {line.partition("=")[0] for line in hardening.splitlines() if line and line not in worker.splitlines()}
    relaxed -= {line for line in relaxed if line.startswith("#")}
    assert {"ProcSubset", "MemoryDenyWriteExecute", "ProtectControlGroups"} <= relaxed
    explained = {"RestrictAddressFamilies": "AF_NETLINK", "SystemCallFilter": "@resources"}
    for directive in relaxed:
        assert re.search(rf"^#   {explained.get(directive, directive)}\b", worker, re.MULTILINE), directive
