"""`qdist config` and `qdist key`: files are shown, checked and changed, and never spoiled."""

import stat
import tomllib
from pathlib import Path

import pytest
from cluster import write_toml
from shell import Ran, run

from qdistd.cli.exits import Exit


@pytest.fixture
def key(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    run("key", tmp_path / "submit.key")
    return tmp_path / "submit.key"


@pytest.fixture
def config(tmp_path: Path, key: Path) -> Path:
    file = tmp_path / "client.toml"
    write_toml(file, {"client": {"masters": ["127.0.0.1:5000"], "key": str(key)}})
    return file


def test_a_key_is_long_and_nobody_elses(key: Path) -> None:
    assert len(key.read_text().strip()) == 64
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_key_is_never_overwritten(key: Path) -> None:
    before = key.read_bytes()
    ran = run("key", key)
    assert ran == Ran(Exit.FAILED, "", f"qdist: {key}: File exists\n")
    assert key.read_bytes() == before


def test_settings_in_force_are_shown_as_toml(config: Path) -> None:
    shown = tomllib.loads(run("config", "show", "-f", config).out)
    assert shown["client"]["masters"] == ["127.0.0.1:5000"] and shown["client"]["timeout"] == "30s"
    assert f"# {config}:2" in run("-c", config, "config", "show", "--origin").out


def test_a_right_file_is_valid(config: Path) -> None:
    assert run("config", "check", "client", "-f", config) == Ran(0, f"{config} is valid\n", "")


def test_every_problem_is_named(config: Path) -> None:
    config.write_text('[client]\nmaster = "x"\ntimeout = "soon"\n')
    ran = run("config", "check", "-f", config)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (Exit.CONFIG, "", 2)
    assert f"{config}:2" in ran.err and f"{config}:3" in ran.err


def test_one_setting_changes_and_nothing_else(config: Path) -> None:
    config.write_text("# mine\n" + config.read_text())
    ran = run("config", "set", "client", "client.timeout", "10s", "-f", config)
    assert ran == Ran(0, f"{config}: client.timeout is set\n", "")
    assert config.read_text().startswith("# mine\n") and 'timeout = "10s"' in config.read_text()


def test_a_wrong_setting_leaves_the_file_as_it_is(config: Path) -> None:
    before = config.read_bytes()
    for setting, value in (("client.timeout", "soon"), ("client.tiemout", "10s")):
        ran = run("config", "set", "client", setting, value, "-f", config)
        assert (ran.code, ran.out) == (Exit.CONFIG, "") and setting in ran.err
    assert config.read_bytes() == before
