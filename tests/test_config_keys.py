"""Key files: which are accepted, which are refused and why, and that nothing ever shows a key."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qdistd.config import ClientConfig, MasterConfig, Place, WorkerConfig, load_master, master_keys, own_key, read_key
from qdistd.config.keys import LARGEST_KEY
from qdistd.config.showing import check, show
from qdistd.errors import ConfigError

SECRET = b"0123456789abcdef0123456789abcdef"
STRANGER = 65534
ROOT = os.geteuid() == 0
PLAIN = Place({}, Path("/nonexistent"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key file as it should be, in a folder as it should be."""
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    return new_key(folder / "work.key")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can get into, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def new_key(file: Path, content: bytes = SECRET + b"\n") -> Path:
    file.touch(mode=0o600)
    file.write_bytes(content)
    return file


def refusal(file: Path, *, weak: bool = False) -> str:
    with pytest.raises(ConfigError) as refused:
        read_key(file, weak=weak, place=PLAIN)
    said = str(refused.value)
    assert said.startswith(f"{file}: ")
    assert "\n" not in said
    return said


@contextlib.contextmanager
def stranger() -> Iterator[None]:
    """As another user than root, who may not pass permissions by."""
    if ROOT:
        os.seteuid(STRANGER)
    try:
        yield
    finally:
        if ROOT:
            os.seteuid(0)


# -- content


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (SECRET, SECRET),
        (SECRET + b"\n", SECRET),
        (SECRET + b"\n\n", SECRET + b"\n"),
        (SECRET + b"\r\n", SECRET + b"\r"),
        (b"\n" + SECRET, b"\n" + SECRET),
        (bytes(range(256)), bytes(range(256))),
    ],
)
def test_a_key_is_the_bytes_of_its_file_without_one_final_newline(content: bytes, secret: bytes, key: Path) -> None:
    key.write_bytes(content)
    assert read_key(key, place=PLAIN) == secret


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_key_is_refused_even_where_weak_ones_are_accepted(content: bytes, key: Path) -> None:
    key.write_bytes(content)
    assert "is empty; make one with `qdist key`" in refusal(key)
    assert "is empty" in refusal(key, weak=True)


def test_a_short_key_is_accepted_only_where_weak_ones_are(key: Path) -> None:
    key.write_bytes(b"abc\n")
    said = refusal(key)
    assert "holds 3 bytes; expected 32 or more" in said
    assert "weak = true" in said
    assert read_key(key, weak=True, place=PLAIN) == b"abc"
    key.write_bytes(SECRET[1:])
    assert "holds 31 bytes" in refusal(key)


def test_a_file_too_large_for_a_key_is_refused(key: Path) -> None:
    key.write_bytes(b"x" * (LARGEST_KEY + 1))
    assert "is larger than a key can be" in refusal(key)


# -- the file itself


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_key_that_its_owner_alone_can_use_is_accepted(mode: int, key: Path) -> None:
    key.chmod(mode)
    assert read_key(key, place=PLAIN) == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602, 0o610, 0o601, 0o660, 0o666, 0o777])
def test_a_key_that_others_can_use_is_refused(mode: int, key: Path) -> None:
    key.chmod(mode)
    assert f"can be used by others (mode {mode:04o}); expected 0600 (chmod 600)" in refusal(key)


@pytest.mark.parametrize(
    ("mode", "good"), [(0o700, True), (0o755, True), (0o1777, True), (0o770, False), (0o707, False)]
)
def test_a_key_in_a_folder_that_others_may_write_to_is_refused(mode: int, good: bool, key: Path) -> None:
    key.parent.chmod(mode)
    if good:
        assert read_key(key, place=PLAIN) == SECRET
    else:
        assert f"others may write to (mode {mode:04o}); run chmod go-w {key.parent}" in refusal(key)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


def _link(path: Path) -> None:
    path.symlink_to(new_key(path.with_name("real.key")))


OTHER_THINGS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: None, "there is no such file; make one with `qdist key`"),
    (lambda path: path.parent.joinpath("x").symlink_to("y"), "there is no such file"),
    (_link, "is a symbolic link; name the file itself"),
    (lambda path: path.symlink_to("nothing"), "is a symbolic link"),
    (Path.mkdir, "is not a regular file"),
    (os.mkfifo, "is not a regular file"),
    (_socket, "is not a regular file"),
]


@pytest.mark.parametrize(("make", "said"), OTHER_THINGS)
def test_what_is_no_key_file_is_refused_and_named(make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    make(tmp_path / "x.key")
    assert said in refusal(tmp_path / "x.key")


def test_a_device_is_no_key_file() -> None:
    assert "is not a regular file" in refusal(Path("/dev/zero"))


def test_a_file_below_a_file_is_missing(key: Path) -> None:
    assert "there is no such file" in refusal(key / "x")


def test_a_key_that_this_user_may_not_read_is_refused(public: Path) -> None:
    key = new_key(public / "x.key")
    key.chmod(0o600 if ROOT else 0)
    with stranger():
        assert "may not be read by this user" in refusal(key)


OWNERS = [(0, True), (STRANGER, False)] if ROOT else [(os.geteuid(), True)]


@pytest.mark.parametrize(("owner", "good"), OWNERS)
def test_a_key_belongs_to_root_or_to_who_reads_it(owner: int, good: bool, key: Path) -> None:
    os.chown(key, owner, -1)
    if good:
        assert read_key(key, place=PLAIN) == SECRET
    else:
        assert f"belongs to user {owner}; expected root or user {os.geteuid()}" in refusal(key)


def test_a_user_reads_a_key_of_their_own(public: Path) -> None:
    key = new_key(public / "x.key")
    with stranger():
        reader = os.geteuid()
    os.chown(key, reader, -1)
    with stranger():
        assert read_key(key, place=PLAIN) == SECRET


def test_a_systemd_credential_may_have_group_bits(key: Path) -> None:
    key.chmod(0o440)
    key.parent.chmod(0o750)
    assert read_key(key, place=Place({"CREDENTIALS_DIRECTORY": str(key.parent)})) == SECRET
    assert "can be used by others" in refusal(key)
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(ConfigError, match="holds 5 bytes"):
        read_key(key, place=Place({"CREDENTIALS_DIRECTORY": str(key.parent)}))


# -- roles


def configured(folder: Path, text: str) -> MasterConfig:
    file = folder / "master.toml"
    file.write_text(text.replace("DIR", str(folder / "keys")))
    return load_master(file, place=PLAIN)


def test_several_files_of_a_role_are_several_keys(key: Path, tmp_path: Path) -> None:
    new_key(key.with_name("new.key"), SECRET[::-1])
    config = configured(tmp_path, '[keys]\nwork = ["DIR/work.key", "DIR/new.key"]\nadmin = []\nsubmit = []\n')
    old, new = master_keys(config, place=PLAIN)
    assert (old.secret, old.path, old.roles) == (SECRET, key, {"work"})
    assert (new.secret, new.roles) == (SECRET[::-1], {"work"})


def test_one_key_under_several_roles_is_one_key_with_these_roles(key: Path, tmp_path: Path) -> None:
    new_key(key.with_name("copy.key"), SECRET)
    config = configured(
        tmp_path, '[keys]\nwork = ["DIR/work.key"]\nadmin = ["DIR/work.key"]\nsubmit = ["DIR/copy.key"]\n'
    )
    (only,) = master_keys(config, place=PLAIN)
    assert (only.path, only.roles) == (key, {"admin", "work", "submit"})


def test_all_key_files_that_are_refused_are_told_at_once(key: Path, tmp_path: Path) -> None:
    key.chmod(0o644)
    config = configured(tmp_path, '[keys]\nadmin = []\nwork = ["DIR/work.key"]\nsubmit = ["DIR/none.key"]\n')
    with pytest.raises(ConfigError) as refused:
        master_keys(config, place=PLAIN)
    open_to_all, missing = str(refused.value).splitlines()
    assert open_to_all.startswith(f"{key}: can be used by others")
    assert missing.startswith(f"{key.with_name('none.key')}: there is no such file")
    assert open_to_all.endswith(" (for [keys] work)")
    assert missing.endswith(" (for [keys] submit)")


def test_workers_and_clients_read_their_own_key(key: Path) -> None:
    assert own_key(WorkerConfig(key=key), place=PLAIN) == SECRET
    assert own_key(ClientConfig(key=key), place=PLAIN) == SECRET
    key.write_bytes(b"abc")
    assert own_key(ClientConfig(key=key, weak=True), place=PLAIN) == b"abc"
    with pytest.raises(ConfigError, match="holds 3 bytes"):
        own_key(WorkerConfig(key=key), place=PLAIN)


def test_a_check_looks_into_the_key_files(key: Path, tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(f'[worker]\nkey = "{key}"\n[instance.a]\nkey = "{key}x"\n[instance.b]\nkey = "{key}x"\n')
    (problem,) = check("worker", file, place=PLAIN)
    assert problem.startswith(f"{key}x: there is no such file")
    assert check("worker", file, keys=False, place=PLAIN) == []


def test_nothing_ever_shows_a_key(key: Path, tmp_path: Path) -> None:
    config = configured(tmp_path, '[keys]\nwork = ["DIR/work.key"]\nadmin = []\nsubmit = []\n')
    keys = master_keys(config, place=PLAIN)
    shown = [repr(keys), str(keys), f"{keys[0]}", repr(config), show("master", tmp_path / "master.toml", True)]
    key.write_bytes(SECRET[:20])
    shown += [refusal(key), *check("master", tmp_path / "master.toml", place=PLAIN)]
    assert all(SECRET[:20].decode() not in text for text in shown)
