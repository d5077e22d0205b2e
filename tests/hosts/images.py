"""Root file systems to boot hosts from: built once, kept in a cache, named by what they are made from.

    base("bookworm")            debootstrap, and what `base.sh` adds          50 s once a machine
      └─ installed("bookworm")  + the .deb of this checkout                   10 s once a change of qdist

An image is a stack of folders that nobody writes to: every host has an overlay of its own on top. Two builds at once do
the work once (flock). $QDIST_HOSTS names another cache than /var/cache/qdist-hosts.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = Path(os.environ.get("QDIST_HOSTS", "/var/cache/qdist-hosts"))

SUITES = {"bookworm": "12", "trixie": "13"}
"""The Debian releases qdist runs on, by the names of their archives."""

DEB_SOURCES = ("LICENSE", "README.md", "etc", "packaging", "pyproject.toml", "qdistd")
"""What the .deb is made from: a change in here makes a new one."""

UNUSED = 24 * 3600.0
"""Seconds after which a layer or a .deb that nobody asked for is thrown away. Bases stay."""

INSTALL = ("sh", "-c", "apt-get install --yes --quiet --no-install-recommends /run/src/*.deb && apt-get clean")


@dataclass(frozen=True)
class Image:
    """A root file system: its folders, the topmost first."""

    name: str
    folders: tuple[Path, ...]

    @property
    def lowerdirs(self) -> str:
        """As the overlay file system wants them."""
        return ":".join(map(str, self.folders))


def base(suite: str) -> Image:
    """A fresh Debian of this release, with the packages that qdist depends on but without qdist."""
    recipe = HERE / "base.sh"
    name = f"base-{suite}-{digest([recipe])}"

    def make(folder: Path) -> None:
        _run(recipe, suite, folder, *_mirror())

    return Image(name, (built(name, make),))


def installed(suite: str) -> Image:
    """A Debian of this release with the .deb of this checkout installed; no unit of it has ever run."""
    package = deb()
    return layer(f"installed-{suite}-{package.parent.name.rpartition('-')[2]}", base(suite), package.parent, INSTALL)


def layer(name: str, on: Image, source: Path, command: Iterable[str]) -> Image:
    """An image with what `command` changed in a chroot on top of `on`, where the folder `source` is /run/src."""
    recipe = HERE / "layer.sh"
    name = f"{name}-{hashlib.sha256(f'{on.name} {digest([recipe])} {command}'.encode()).hexdigest()[:12]}"

    def make(folder: Path) -> None:
        _run("unshare", "--mount", "--propagation=private", recipe, folder, on.lowerdirs, source, *command)

    return Image(name, (built(name, make) / "root", *on.folders))


def deb() -> Path:
    """The .deb of this checkout as it stands, changes that are not committed included."""
    name = f"deb-{digest(sorted(sources()))}"

    def make(folder: Path) -> None:
        folder.mkdir()
        _run(ROOT / "packaging" / "build-deb", folder)

    (package,) = built(name, make).glob("qdist_*.deb")
    return package


def sources() -> Iterator[Path]:
    """Every file that the .deb is made from."""
    for top in map(ROOT.joinpath, DEB_SOURCES):
        for path in [top] if top.is_file() else top.rglob("*"):
            if path.is_file() and path.parent.name != "__pycache__":
                yield path


def digest(paths: Iterable[Path]) -> str:
    """A short name for the content of these files and where they lie."""
    found = hashlib.sha256()
    for path in paths:
        found.update(f"{path.relative_to(ROOT)} {path.stat().st_mode:o} {path.stat().st_size}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def built(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of this name in the cache, made if it is not there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder, unfinished = CACHE / name, CACHE / f"{name}.part"
    with _locked(name):
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(folder)
        os.utime(folder)
    _throw_away_unused()
    return folder


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _throw_away_unused() -> None:
    for folder in [*CACHE.glob("installed-*"), *CACHE.glob("deb-*")]:
        with contextlib.suppress(FileNotFoundError):
            if folder.stat().st_mtime < time.time() - UNUSED:
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()


def _mirror() -> list[str]:
    """The archive that apt uses here, if it is one of Debian's; else debootstrap knows where to look."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(LABEL)"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = [line.split()[0] for line in listed.splitlines() if line.endswith(" Debian Debian")]
    return found[:1]


def _run(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-3000:]}"
