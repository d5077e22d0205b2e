"""Other CPythons on this machine, to see whether their plain clients and servers understand qdist and it them.

@every_version
def test_a_plain_client_does_this(version: str) -> None:
    python = interpreter(version)        # skips the test, by name, where it is not installed
"""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ABSENT

VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
"""What stock clients run on, by the promise of the wire."""

PROBE = "import sys, multiprocessing.managers; print('%d.%d' % sys.version_info[:2])"

every_version = pytest.mark.parametrize("version", VERSIONS)


@functools.cache
def find(version: str) -> Path | None:
    """An interpreter of this version that works, or None."""
    return next((path for path in _candidates(version) if _works(path, version)), None)


def interpreter(version: str) -> str:
    """The path of an interpreter of this version; skips the test where there is none."""
    path = find(version)
    if path is None:
        pytest.skip(f"{ABSENT}python{version}")
    return str(path)


def _candidates(version: str) -> Iterator[Path]:
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    yield from sorted(Path("~/.local/share/uv/python").expanduser().glob(f"cpython-{version}.*/bin/python3"))
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield Path(on_path)


def _works(path: Path, version: str) -> bool:
    """Whether it runs: a shim on the path may stand for nothing."""
    probe = subprocess.run([path, "-c", PROBE], capture_output=True, text=True, check=False)
    return probe.stdout.strip() == version
