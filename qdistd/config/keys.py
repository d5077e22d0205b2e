"""Key files: one key in each, readable by its owner alone.

    path ──open without following links──> checks on the open file ──> bytes without one final newline

What is checked is what is read: nothing can be swapped in between. No message and no repr shows a byte of a key.

A service that lives on systemd credentials has copies, and systemd 257 does not renew them on a reload (252 does). So
root hands the files over when it reloads: `fresh_keys` there, `renew` here; from then on the newer copies count. Those
are in a folder that may outlive a restart, which gets new copies of systemd.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from qdistd.config.loading import HERE, Place
from qdistd.config.settings import ClientConfig, Config, MasterConfig, MasterKeys, WorkerConfig
from qdistd.errors import ConfigError

SHORTEST_KEY = 32
"""Bytes of a key: as many as SHA-256 gives, so that guessing the key is no easier than guessing the digest."""

LARGEST_KEY = 64 * 1024
"""Bytes of a key file: more is some other file."""

MAKE_ONE = "make one with `qdist key` (see `qdist key --help`)"

ROLE_KEYS = ("admin.key", "work.key", "submit.key")
"""The names of all credentials there are."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REASONS = {
    errno.ENOENT: f"there is no such file; {MAKE_ONE}",
    errno.ENOTDIR: f"there is no such file; {MAKE_ONE}",
    errno.ELOOP: "is a symbolic link; name the file itself",
    errno.EISDIR: f"is not a regular file; {MAKE_ONE}",
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
    keys, problems = _master_keys(config, place)
    if problems:
        raise ConfigError("\n".join(problems))
    return keys


def own_key(config: WorkerConfig | ClientConfig, *, place: Place = HERE) -> bytes:
    """The key that a worker or a client shows to the master. ConfigError names the file and the reason."""
    return read_key(config.key, weak=config.weak, place=place)


def read_key(path: Path, *, weak: bool = False, place: Place = HERE) -> bytes:
    """The key in a file: its bytes without one final newline. ConfigError names the file and the reason.

    A systemd credential may have group bits: systemd grants them by access list, to the service alone.
    """
    credential = path.parent == place.credentials
    path = _renewed(path, place) if credential else path
    try:
        folder = path.parent.stat()
        with open(path, "rb", opener=_open_no_link) as file:
            _refuse(path, _flaw_of_file(os.fstat(file.fileno()), credential))
            content = file.read(LARGEST_KEY + 1)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"cannot be read: {error.strerror}")
        raise ConfigError(f"{path}: {reason}") from None
    _refuse(path, "" if credential else _flaw_of_folder(path.parent, folder))
    secret = content.removesuffix(b"\n")
    _refuse(path, _flaw_of_key(secret, weak))
    return secret


def fresh_keys(names: Iterable[str], *, place: Place = HERE) -> dict[str, bytes]:
    """The key files of the host behind these credentials, as they are now. ConfigError where one cannot be used.

    A name without a file has another source, which only systemd knows: its copy stays until the next start.
    """
    paths = {name: place.etc / "keys" / name for name in names}
    return {name: read_key(path, weak=True, place=place) + b"\n" for name, path in paths.items() if path.exists()}


def renew(keys: Mapping[str, bytes], *, place: Place = HERE) -> None:
    """Keep fresh key files beside the credentials of this service; what is no credential of it is left alone."""
    folder = place.renewed
    if place.credentials is None or folder is None:
        return
    for name in ROLE_KEYS:
        if name in keys and os.path.lexists(place.credentials / name):
            folder.mkdir(mode=0o700, exist_ok=True)
            _replace(folder / name, keys[name])


def _replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600, exist_ok=False)
    new.write_bytes(content)
    new.rename(path)


def _renewed(path: Path, place: Place) -> Path:
    """The newer one of a credential and what was handed over since; the credential where nothing was."""
    other = place.renewed / path.name if place.renewed else path
    with contextlib.suppress(OSError):
        return max(path, other, key=lambda copy: copy.lstat().st_mtime_ns)
    return path


def key_problems(configs: Iterable[Config], place: Place = HERE) -> list[str]:
    """What is wrong with the key files of these configurations, a line for each file."""
    problems: list[str] = []
    for config in configs:
        if isinstance(config, MasterConfig):
            problems += _master_keys(config, place)[1]
            continue
        try:
            own_key(config, place=place)
        except ConfigError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def _master_keys(config: MasterConfig, place: Place) -> tuple[tuple[KeyFile, ...], list[str]]:
    keys: dict[bytes, KeyFile] = {}
    problems: list[str] = []
    for role, path in _files(config.keys):
        try:
            secret = read_key(path, weak=config.keys.weak, place=place)
        except ConfigError as error:
            problems.append(f"{error} (for [keys] {role})")
            continue
        known = keys.get(secret, KeyFile(path, frozenset(), secret))
        keys[secret] = replace(known, roles=known.roles | {role})
    return tuple(keys.values()), problems


def _files(keys: MasterKeys) -> Iterator[tuple[str, Path]]:
    for role, paths in (("admin", keys.admin), ("work", keys.work), ("submit", keys.submit)):
        for path in paths:
            yield role, path


def _open_no_link(path: str, _flags: int) -> int:
    return os.open(path, _FLAGS)


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


def _flaw_of_folder(folder: Path, status: os.stat_result) -> str:
    """Who may write to the folder may put another key there. The sticky bit of /tmp prevents that."""
    if not status.st_mode & _OTHERS_WRITE or status.st_mode & stat.S_ISVTX:
        return ""
    mode = stat.S_IMODE(status.st_mode)
    return f"is in a folder that others may write to (mode {mode:04o}); run chmod go-w {folder}"


def _flaw_of_key(secret: bytes, weak: bool) -> str:
    if not secret:
        return f"is empty; {MAKE_ONE}"
    if len(secret) > LARGEST_KEY:
        return f"is larger than a key can be ({LARGEST_KEY} bytes); name a key file"
    if len(secret) < SHORTEST_KEY and not weak:
        return f"holds {len(secret)} bytes; expected {SHORTEST_KEY} or more; {MAKE_ONE}, or set weak = true on loopback"
    return ""
