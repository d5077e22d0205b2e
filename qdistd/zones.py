"""Time zones by their name, and that of this host."""

import os
from collections.abc import Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

LOCALTIME = Path("/etc/localtime")
"""Where a host keeps its time zone, as localtime(5) has it."""

NO_DATA = "this host has no data of time zones: install the package tzdata"


def zone(name: str, *, environ: Mapping[str, str] = os.environ, localtime: Path = LOCALTIME) -> tzinfo:
    """The time zone of that name; "" is the one of this process: $TZ, else that of the host, else UTC.

    ValueError says why there is none. UTC is there without any data.
    """
    if not name:
        return _own(environ.get("TZ", "").removeprefix(":"), localtime)
    return UTC if name == "UTC" else _named(name)


def _own(name: str, localtime: Path) -> tzinfo:
    if not name:
        return _file(localtime) if localtime.exists() else UTC
    if name.startswith("/"):
        return _file(Path(name))
    try:
        return UTC if name == "UTC" else _named(name)
    except ValueError as error:
        raise ValueError(f"{error}, and stands in $TZ") from None


def _named(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # no such zone; a name that can be none; a folder of zones
        raise ValueError(f'"{name}" is no time zone' if available_timezones() else NO_DATA) from None


def _file(path: Path) -> tzinfo:
    try:
        with path.open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        raise ValueError(f"{path} holds no time zone") from None
