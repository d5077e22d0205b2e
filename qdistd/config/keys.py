"""Key files: one key in each, readable by its owner alone.

    path ──open without following links──> checks on the open file ──> bytes without one final newline

What is checked is what is read: nothing can be swapped in between. No message and no repr shows a byte of a key.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from qdistd.config.loading import HERE, Place
from qdistd.config.settings import ClientConfig, MasterConfig, WorkerConfig
from qdistd.errors import ConfigError

SHORTEST_KEY = 32
"""Bytes of a key: as many as SHA-256 gives, so that guessing the key is no easier than guessing the digest."""

LARGEST_KEY = 64 * 1024
"""Bytes of a key file: more is some other file."""

MAKE_ONE = "make one with `qdist key` (see `qdist key --help`)"

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REASONS = {
    errno.ENOENT: f"there is no such file; {MAKE_ONE}",
    errno.ENOTDIR: f"there is no such file; {MAKE_ONE}",
    errno.ELOOP: "is a symbolic link; name the file itself",
    errno.ENXIO: f"is not a regular file; {MAKE_ONE}",
    errno.EACCES: "may not be read by this user; run as its owner, or give the user a key file of its own",
}


@dataclass(frozen=True)
class KeyFile:
    """One key of the master: the first file it was found in, and what it may do ("admin", "work", "submit")."""

    path: Path
    roles: frozenset[str]
    secret: bytes = field(repr=False)


def master_keys(config: MasterConfig, *, place: Place = HERE) -> tuple[KeyFile, ...]:
    """All keys of the master; the same key under several roles is one key with these roles.

    ConfigError has a line for every file that is refused.
    """
    keys: dict[bytes, KeyFile] = {}
    problems: list[str] = []
    for role, path in _files(config):
        try:
            secret = read_key(path, weak=config.keys.weak, place=place)
        except ConfigError as error:
            problems.append(f"{error} (for [keys] {role})")
            continue
        known = keys.get(secret, KeyFile(path, frozenset(), secret))
        keys[secret] = replace(known, roles=known.roles | {role})
    if problems:
        raise ConfigError("\n".join(problems))
    return tuple(keys.values())


def own_key(config: WorkerConfig | ClientConfig, *, place: Place = HERE) -> bytes:
    """The key that a worker or a client shows to the master. ConfigError names the file and the reason."""
    return read_key(config.key, weak=config.weak, place=place)


def read_key(path: Path, *, weak: bool = False, place: Place = HERE) -> bytes:
    """The key in a file: its bytes without one final newline. ConfigError names the file and the reason.

    A systemd credential may have group bits: systemd grants them by access list, to the service alone.
    """
    credential = path.parent == place.credentials
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"cannot be read: {error.strerror}")
        raise ConfigError(f"{path}: {reason}") from None
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        _refuse(path, _flaw_of_file(os.fstat(descriptor), credential) or _flaw_of_folder(path, credential))
        content = file.read(LARGEST_KEY + 1)
    secret = content.removesuffix(b"\n")
    _refuse(path, _flaw_of_key(secret, weak))
    return secret


def _files(config: MasterConfig) -> Iterator[tuple[str, Path]]:
    for role in ("admin", "work", "submit"):
        for path in getattr(config.keys, role):
            yield role, path


def _refuse(path: Path, flaw: str) -> None:
    if flaw:
        raise ConfigError(f"{path}: {flaw}")


def _flaw_of_file(status: os.stat_result, credential: bool) -> str:
    if not stat.S_ISREG(status.st_mode):
        return f"is not a regular file; {MAKE_ONE}"
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}; expected root or user {os.geteuid()}, who runs this (chown)"
    if status.st_mode & _OTHERS and not credential:
        return f"can be used by others (mode {stat.S_IMODE(status.st_mode):04o}); expected 0600 (chmod 600)"
    return ""


def _flaw_of_folder(path: Path, credential: bool) -> str:
    """Who may write to the folder may put another key there. The sticky bit of /tmp prevents that."""
    mode = path.parent.stat().st_mode
    if credential or not mode & _OTHERS_WRITE or mode & stat.S_ISVTX:
        return ""
    return f"is in a folder that others may write to (mode {stat.S_IMODE(mode):04o}); chmod go-w {path.parent}"


def _flaw_of_key(secret: bytes, weak: bool) -> str:
    if not secret:
        return f"is empty; {MAKE_ONE}"
    if len(secret) > LARGEST_KEY:
        return f"is larger than a key can be ({LARGEST_KEY} bytes); name a key file"
    if len(secret) < SHORTEST_KEY and not weak:
        return f"holds {len(secret)} bytes; expected {SHORTEST_KEY} or more; {MAKE_ONE}, or set weak = true on loopback"
    return ""
