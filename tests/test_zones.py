"""Time zones by their names, and that of the host."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qdistd.zones import NO_DATA, zone

SUMMER = datetime(2026, 7, 1, 12, tzinfo=UTC)
BERLIN = Path("/usr/share/zoneinfo/Europe/Berlin")


def hours(name: str, tz: str, localtime: Path) -> float:
    """How far a zone is ahead of UTC in summer."""
    offset = SUMMER.astimezone(zone(name, environ={"TZ": tz} if tz else {}, localtime=localtime)).utcoffset()
    assert offset is not None
    return offset / timedelta(hours=1)


@pytest.fixture
def localtime(tmp_path: Path) -> Path:
    """As on a host in Berlin."""
    file = tmp_path / "localtime"
    file.write_bytes(BERLIN.read_bytes())
    return file


@pytest.mark.parametrize(
    ("name", "tz", "ahead"),
    [
        ("Asia/Tokyo", "America/New_York", 9),
        ("UTC", "Asia/Tokyo", 0),
        ("", "Asia/Tokyo", 9),
        ("", ":Asia/Tokyo", 9),
        ("", f":{BERLIN}", 2),
        ("", "UTC", 0),
        ("", "", 2),
    ],
)
def test_a_name_counts_more_than_the_process_and_that_more_than_the_host(
    name: str, tz: str, ahead: float, localtime: Path
) -> None:
    assert hours(name, tz, localtime) == ahead


def test_a_host_without_a_zone_has_utc(tmp_path: Path) -> None:
    assert hours("", "", tmp_path / "none") == 0


@pytest.mark.parametrize("name", ["Europe/Atlantis", "../etc/passwd", "Europe", "\0", "é" * 300, "/etc/passwd"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no time zone"):
        zone(name)


def test_a_file_that_is_no_zone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "localtime").write_text("Berlin")
    with pytest.raises(ValueError, match="localtime holds no time zone"):
        zone("", environ={}, localtime=tmp_path / "localtime")
    with pytest.raises(ValueError, match="none holds no time zone"):
        zone("", environ={"TZ": f":{tmp_path}/none"})


def test_a_host_without_data_of_time_zones_says_what_to_install() -> None:
    """As an own process sees it: the search path is read once."""
    script = "from qdistd.zones import zone\nzone('UTC')\ntry: zone('Europe/Berlin')\nexcept ValueError as e: print(e)"
    environ = {"PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONTZPATH": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=30)
    assert (done.stdout.strip(), done.stderr) == (NO_DATA, "")
