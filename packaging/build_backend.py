"""How wheel and sdist are made: by setuptools; the sdist is packed anew, for setuptools puts the time of day into it.

setuptools' archive + etc/, packaging/, tests/ ──sorted, times of $SOURCE_DATE_EPOCH──> the same bytes every time
"""

import gzip
import io
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

FOLDERS = ("etc", "packaging", "tests")
"""What setuptools leaves out of an sdist, and whoever builds from one wants to have."""

Content = tuple[bool, bytes]
"""Of one file: whether it can be executed, and its bytes."""


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """See PEP 517."""
    name = build_meta.build_sdist(sdist_directory, config_settings)
    archive = Path(sdist_directory, name)
    top = name.removesuffix(".tar.gz")
    files = dict(_unpacked(archive)) | {f"{top}/{path}": content for path, content in _folders()}
    _pack(archive, files, int(os.environ.get("SOURCE_DATE_EPOCH") or time.time()))
    return name


def _unpacked(archive: Path) -> Iterator[tuple[str, Content]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if file := tar.extractfile(member):
                yield member.name, (bool(member.mode & 0o100), file.read())


def _folders() -> Iterator[tuple[str, Content]]:
    for path in (path for folder in FOLDERS for path in Path(folder).rglob("*")):
        hidden = any(part.startswith((".", "__pycache__")) for part in path.parts)
        if path.is_file() and not hidden:
            yield str(path), (os.access(path, os.X_OK), path.read_bytes())


def _pack(archive: Path, files: dict[str, Content], when: int) -> None:
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=when) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for name, (executable, data) in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(data), when, 0o755 if executable else 0o644
            tar.addfile(member, io.BytesIO(data))
