"""`qdist units`: what systemd needs, for an installation that came with pip.

    shipped/systemd ──/usr/bin becomes the folder of our programs──> DIR/usr/local/lib/systemd/system …
    shipped/etc     ──where nothing is yet─────────────────────────> DIR/etc/qdist

`qdistd/shipped` links to packaging/systemd and etc of the source: there is one copy of each file.
"""

import stat
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from qdistd.errors import Refused

SHIPPED = Path(__file__).parent.parent / "shipped"

PACKAGED = "/usr/bin/"
"""Where the units look for our programs, as they come with the package of the distribution."""

LIB = Path("usr/local/lib")
"""Below it systemd looks for what an administrator installs."""

OTHERS = {
    ".sysusers": LIB / "sysusers.d/qdist.conf",
    ".tmpfiles": LIB / "tmpfiles.d/qdist.conf",
    ".catalog": LIB / "systemd/catalog/qdist.catalog",
    ".conf": Path("usr/local/share/doc/qdist/examples/strict.conf"),
}
"""Where files go that are no units, by their suffix."""

UNITS = (".service", ".socket", ".target", ".slice")

FILE_MODE = 0o644

UNSEEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - nothing is written there
"""Folders that the services do not see (ProtectHome=, PrivateTmp=)."""


@click.command("units")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--force", is_flag=True, help="Replace units that are there and differ; never a file in etc/qdist.")
def units_command(folder: Path, force: bool) -> None:
    """Write systemd units that start this installation, and what goes with them, below DIR.

    For installations by pip; the Debian package brings its own. DIR is / or the root folder of an image. Units,
    users and folders go to usr/local/lib, and samples of the settings to etc/qdist where no such file is yet. What
    to type next is printed.

    \b
      /opt/qdist/bin/qdist units /
    """
    programs = Path(sysconfig.get_path("scripts"))
    if not (programs / "qdist-master").exists():
        raise Refused(f"there is no qdist-master in {programs}: qdist was not installed by pip")
    _write(folder, _system(programs), force)
    for doubt in _doubts(programs):
        click.echo(f"qdist: {doubt}", err=True)
    click.echo("\n".join(["", "Next, as root:", *(f"  {line}" for line in _next(folder, programs))]))


def _system(programs: Path) -> dict[Path, str]:
    """What systemd reads: path below the root folder → text."""
    found: dict[Path, str] = {}
    for file in sorted((SHIPPED / "systemd").iterdir()):
        place = LIB / "systemd/system" / file.name if file.suffix in UNITS else OTHERS.get(file.suffix)
        if place:
            found[place] = file.read_text().replace(PACKAGED, f"{programs}/")
    return found


def _write(folder: Path, system: Mapping[Path, str], force: bool) -> None:
    strange = [folder / path for path, text in system.items() if _differs(folder / path, text)]
    if strange and not force:
        raise Refused("\n".join(f"{path}: is there and differs (--force replaces it)" for path in strange))
    for path, text in system.items():
        _write_file(folder / path, text)
    for sample in sorted((SHIPPED / "etc").glob("*.toml")):
        path = folder / "etc/qdist" / sample.name
        if path.exists():
            click.echo(f"{path} (is there, and stays)")
        else:
            _write_file(path, sample.read_text())


def _differs(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() != text


def _write_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(FILE_MODE)
    click.echo(str(path))


def _doubts(programs: Path) -> Iterator[str]:
    """Why the services will not start, if so: they run as users of their own, in a sandbox."""
    for path in dict.fromkeys((programs, Path(sys.executable).resolve(), SHIPPED)):
        if any(path.is_relative_to(folder) for folder in UNSEEN):
            yield f"{path}: services do not see this folder; install qdist into /opt/qdist, for example"
        elif closed := [str(part) for part in (path, *path.parents) if not part.stat().st_mode & stat.S_IXOTH]:
            yield f"{closed[-1]}: the services may not go there (chmod o+rX)"


def _next(folder: Path, programs: Path) -> Iterator[str]:
    if folder.resolve() != Path("/"):
        yield f"cp -rT {folder} /"
    yield f"systemd-sysusers /{OTHERS['.sysusers']}"
    yield f"systemd-tmpfiles --create /{OTHERS['.tmpfiles']}"
    yield f"{programs}/qdist key /etc/qdist/keys/admin.key /etc/qdist/keys/work.key /etc/qdist/keys/submit.key"
    yield "journalctl --update-catalog"
    yield "systemctl daemon-reload"
    yield "systemctl enable --now qdist-master qdist-worker@1"
