"""Settings shown with their origin, and one setting changed in a person's file and nothing else."""

import contextlib
import difflib
import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdistd.config import FileKind, Place, load_client, load_master, load_worker
from qdistd.config.editing import set_value
from qdistd.config.settings import schema
from qdistd.config.showing import check, sample, show, toml_value
from qdistd.errors import ConfigError

NOWHERE = Place({}, Path("/nonexistent"))
STRANGER = 65534
ROOT = os.geteuid() == 0

PERSONS = """\
# Ours, since 2024.

[limits]     # be careful
lease  =   "20s"     # the network of the lab is slow

  payload = "32 KiB"
#heartbeat = "5s"
\tresult = 1048576 # one MiB


# keys are made by Anna
[keys]
admin = [ "/etc/qdist/keys/admin.key",   # hers
  "/etc/qdist/keys/spare.key" ]          # in the safe
# the end
"""


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    return file


def changes(old: str, new: str) -> list[str]:
    """The lines that differ, each with its + or -."""
    lines = difflib.ndiff(old.splitlines(keepends=True), new.splitlines(keepends=True))
    return [line for line in lines if line[0] in "+-"]


def refusal(kind: FileKind, file: Path, name: str, text: str) -> str:
    """What is said when nothing is written."""
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(ConfigError) as refused:
        set_value(kind, file, name, text, place=NOWHERE)
    assert (file.read_bytes() if file.exists() else None) == before
    assert not list(file.parent.glob(".*.new"))
    return str(refused.value)


# -- show


def test_what_is_shown_can_be_read_back(tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", PERSONS)
    shown = write(tmp_path / "shown.toml", show("master", file, place=NOWHERE))
    assert load_master(shown) == load_master(file)
    assert tomllib.loads(shown.read_text())["limits"]["payload"] == "32 KiB"


def test_what_is_shown_of_a_worker_has_its_instances(tmp_path: Path) -> None:
    text = '[instance.b]\nprocesses = 2\n[instance."x.y".limits]\ntimeout = 3\n[instance.b.log]\nlevel = "debug"\n'
    file = write(tmp_path / "worker.toml", text)
    shown = write(tmp_path / "shown.toml", show("worker", file, place=NOWHERE))
    for instance in ("b", "x.y", "other"):
        assert load_worker(shown, instance) == load_worker(file, instance)
    one = write(tmp_path / "one.toml", show("worker", file, instance="b", place=NOWHERE))
    assert "instance" not in one.read_text()
    assert load_worker(one, "b") == load_worker(file, "b")


def test_with_origin_every_setting_tells_where_it_comes_from(tmp_path: Path) -> None:
    file = write(tmp_path / "client.toml", "[client]\n\ntimeout = 3\nweak = false\n")
    drop_in = write(tmp_path / "client.d/a.toml", "[client]\ntimeout = 4\n")
    write(tmp_path / "submit.key", "")
    environ = {"QDIST_MASTER": "a:1", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    shown = show("client", file, origin=True, place=Place(environ))
    assert shown.startswith(f"# read: {file}\n# read: {drop_in}\n\n[client]\n")
    assert '\n# $QDIST_MASTER\nmasters = [\n    "a:1",\n]\n' in shown
    assert f'\n# systemd credential\nkey = "{tmp_path}/submit.key"\n' in shown
    assert f"\n# {file}:4\nweak = false\n" in shown
    assert f"\n# {drop_in}:2\ntimeout = 4\n" in shown
    assert "\n# default\n" in show("client", write(tmp_path / "none.toml", ""), origin=True, place=NOWHERE)
    assert show("master", origin=True, place=NOWHERE).startswith("# read: no file")
    tomllib.loads(shown)


def test_a_file_with_mistakes_is_not_shown_but_checked(tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", "[limits]\nlease = true\nx = 1\n")
    with pytest.raises(ConfigError) as refused:
        show("master", file, place=NOWHERE)
    assert check("master", file, place=NOWHERE) == str(refused.value).splitlines()
    assert len(check("master", file, place=NOWHERE)) == 2


# -- set: one line changes

SAME_PLACE = [
    ("limits.lease", "45s", '- lease  =   "20s"     # the', '+ lease  =   "45s"     # the'),
    ("limits.lease", "45", '- lease  =   "20s"', "+ lease  =   45     # the"),
    ("limits.payload", '"1 MiB"', '-   payload = "32 KiB"\n', '+   payload = "1 MiB"\n'),
    ("limits.result", "2 MiB", "- \tresult = 1048576 # one", '+ \tresult = "2 MiB" # one'),
]


@pytest.mark.parametrize(("name", "text", "old", "new"), SAME_PLACE)
def test_a_setting_is_changed_where_it_stands_and_nothing_else(
    name: str, text: str, old: str, new: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "master.toml", PERSONS)
    assert set_value("master", file, name, text, place=NOWHERE) == file
    removed, added = changes(PERSONS, file.read_text())
    assert removed.startswith(old)
    assert added.startswith(new)


NEW_LINES = [
    ("limits.heartbeat", "2s", '#heartbeat = "5s"\n', 'heartbeat = "2s"\n'),
    ("limits.connections", "7", "\tresult = 1048576 # one MiB\n", "connections = 7\n"),
    ("keys.weak", "true", '  "/etc/qdist/keys/spare.key" ]          # in the safe\n', "weak = true\n"),
    ("log.level", "debug", "# the end\n", '\n[log]\nlevel = "debug"\n'),
    ("master.listen", "a:1,b:2", "# the end\n", '\n[master]\nlisten = ["a:1", "b:2"]\n'),
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("name", "text", "above", "new"), NEW_LINES)
def test_a_new_setting_goes_below_its_comment_or_its_table(
    name: str, text: str, above: str, new: str, end: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "master.toml", PERSONS.replace("\n", end))
    set_value("master", file, name, text, place=NOWHERE)
    expected = PERSONS.replace(above, above + new, 1).replace("\n", end)
    assert file.read_bytes().decode() == expected


@pytest.mark.parametrize("kind", ["master", "worker", "client"])
def test_every_setting_of_the_sample_can_be_set_with_one_new_line(kind: FileKind, tmp_path: Path) -> None:
    file = write(tmp_path / "file.toml", sample(kind))
    for section, rows in schema(kind).sections.items():
        for key, row in rows.items():
            set_value(kind, file, f"{section}.{key}", toml_value(row.default), place=NOWHERE)
    settings, *examples = re.split(r"(?m)^(?=#\[)", sample(kind), maxsplit=1)
    assert file.read_text() == "".join([re.sub(r"(?m)^#(\S.*)$", r"#\1\n\1", settings), *examples])


OTHER_LAYOUTS = [
    ("master", "limits.lease = 20 # a\n[keys]\n", "limits.lease", "25", "limits.lease = 25 # a\n[keys]\n"),
    ("master", "limits = {lease = 20} # a\n", "limits.lease", "25", "limits = {lease = 25} # a\n"),
    ("master", "limits.lease = 20\n", "limits.result", "2048", "limits.lease = 20\nlimits.result = 2048\n"),
    ("master", "", "log.level", "debug", '\n[log]\nlevel = "debug"\n'),
    ("master", "[log]", "log.level", "debug", '[log]\nlevel = "debug"\n'),
    ("master", "# x", "log.level", "debug", '# x\n\n[log]\nlevel = "debug"\n'),
    ("worker", "[worker]\n", "instance.a.queues", "x y", '[worker]\n\n[instance.a]\nqueues = ["x", "y"]\n'),
    ("worker", "[instance.a]\n[log]\n", "instance.a.drain", "5", "[instance.a]\ndrain = 5\n[log]\n"),
    ("worker", "", "instance.a.b.limits.timeout", "5", '\n[instance."a.b".limits]\ntimeout = 5\n'),
    ("worker", "[instance.a.limits]\n", "instance.a.drain", "5", "[instance.a.limits]\n\n[instance.a]\ndrain = 5\n"),
    ("worker", '[worker]\nstate = """/a"""\n', "worker.drain", "1", '[worker]\nstate = """/a"""\ndrain = 1\n'),
    ("worker", '[worker]\nqueues = ["a"]\n', "worker.queues", "42", '[worker]\nqueues = ["42"]\n'),
    ("worker", "", "compat.task", "true", '\n[compat]\ntask = "true"\n'),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "old", "name", "text", "new"), OTHER_LAYOUTS)
def test_other_layouts_are_kept(kind: FileKind, old: str, name: str, text: str, new: str, tmp_path: Path) -> None:
    file = write(tmp_path / "file.toml", old)
    set_value(kind, file, name, text, place=NOWHERE)
    assert file.read_text() == new


def test_a_missing_file_begins_as_the_sample(tmp_path: Path) -> None:
    file = tmp_path / "new" / "worker.toml"
    set_value("worker", file, "worker.processes", "3", place=NOWHERE)
    assert changes(sample("worker"), file.read_text()) == ["+ processes = 3\n"]
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_user_without_any_file_gets_one_of_their_own(tmp_path: Path) -> None:
    place = Place({"HOME": str(tmp_path / "home"), "QDIST_MASTER": "nonsense"}, tmp_path / "etc")
    own = set_value("client", None, "client.timeout", "3", place=place)
    assert own == tmp_path / "home/.config/qdist/client.toml"
    assert load_client(own, place=NOWHERE).timeout == 3
    assert set_value("master", None, "log.level", "debug", place=place) == tmp_path / "etc/master.toml"
    host = write(tmp_path / "etc/client.toml", "")
    own.unlink()
    assert set_value("client", None, "client.timeout", "3", place=place) == host


# -- set: what is refused

REFUSED = [
    ("limits.leese", "1", 'limits.leese: unknown key; expected payload', 'did you mean "lease"?'),
    ("lease", "1", "lease: there is no such setting; expected section.key", "did you mean limits.lease?"),
    ("limit.lease", "1", "limit.lease: there is no such setting", "did you mean limits.lease?"),
    ("limts.laese", "1", "limts.laese: there is no such setting", 'did you mean "limits.lease"?'),
    ("limits", "1", "limits: there is no such setting", "expected section.key such as master.listen"),
    ("", "1", ": there is no such setting", "expected section.key"),
    ("instance.a.drain", "1", "instance.a.drain: there is no such setting", "expected section.key"),
    ("master.lease", "1", "master.lease: unknown key", "did you mean [limits] lease?"),
    ("limits.lease", "soon", 'limits.lease: "soon" is no duration', 'expected a duration from "1s"'),
    ("limits.payload", "64 KB", 'limits.payload: "64 KB" is no size', 'did you mean "64 KiB"?'),
    ("limits.connections", "many", 'limits.connections: "many" is no whole number', "expected a whole number"),
    ("keys.weak", "yes", 'keys.weak: "yes" is neither true nor false', "expected true or false"),
    ("log.level", "inof", 'log.level: "inof" is none of the choices', 'did you mean "info"?'),
    ("limits.heartbeat", "10s", "[limits] heartbeat: heartbeat (10 s) is too long for lease (20 s)", "expected"),
    ("keys.admin", "s3", "keys.admin: this is no absolute path of a key file", "expected"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "wrong", "hint"), REFUSED)
def test_what_would_be_wrong_is_refused_and_nothing_is_written(
    name: str, text: str, wrong: str, hint: str, tmp_path: Path
) -> None:
    said = refusal("master", write(tmp_path / "master.toml", PERSONS), name, text)
    assert wrong in said
    assert hint in said


@pytest.mark.parametrize("name", ["instance.a.x", "instance.../x.drain", "instance.a.limits.drain", "instance.drain"])
def test_what_is_wrong_for_an_instance_is_refused(name: str, tmp_path: Path) -> None:
    assert name in refusal("worker", write(tmp_path / "worker.toml", ""), name, "1")


def test_the_whole_resulting_file_must_be_right(tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", "[limits]\nlease = true\n[x]\n")
    said = refusal("master", file, "log.level", "debug").splitlines()
    assert [line.partition(": ")[0] for line in said] == [f"{file}:2", f"{file}:3"]
    write(tmp_path / "master.toml", "[limits]\nlease = true\n")
    set_value("master", file, "limits.lease", "20", place=NOWHERE)
    assert load_master(file).limits.lease == 20
    write(file, "[limits\n")
    assert f"{file}:1:8: not valid TOML" in refusal("master", file, "log.level", "debug")


@pytest.mark.parametrize("text", ["limits = 3\n", "[[limits]]\n"])
def test_what_stands_in_the_way_of_a_section_is_left_to_a_person(text: str, tmp_path: Path) -> None:
    said = refusal("master", write(tmp_path / "master.toml", text), "limits.lease", "20")
    assert said.endswith("limits.lease cannot be changed without touching more; edit the file by hand")


@given(text=st.text() | st.text(alphabet="[]{}\"'\\,.#=\n 0123aeinfKMBs/:"), start=st.sampled_from([PERSONS, "", "[a"]))
def test_no_text_at_all_does_more_than_set_one_value_or_be_refused(
    text: str, start: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("set") / "master.toml"
    for name in ("limits.lease", "limits.payload", "keys.work", "keys.weak", "compat.task", "master.store"):
        write(file, start)
        with contextlib.suppress(ConfigError):
            set_value("master", file, name, text, place=NOWHERE)
            section, key = name.split(".")
            after, before = tomllib.loads(file.read_text()), tomllib.loads(start)
            assert {**after.pop(section), key: 0} == {**before.pop(section, {}), key: 0}
            assert after == before


def test_a_value_that_a_drop_in_overrides_is_refused_and_names_the_drop_in(tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", "")
    drop_in = write(tmp_path / "master.d/a.toml", "[limits]\nlease = 20\n")
    said = refusal("master", file, "limits.lease", "25")
    assert said == f"{file}: nothing would change, for {drop_in}:2 stands above it; change it there"


def test_text_that_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "worker.toml", "")
    assert "cannot be printed" in refusal("worker", file, "worker.state", "/\udcff")
    assert "cannot be printed" in refusal("worker", file, "compat.task", "a\nb = 1")


# -- set: the disk

KILLED_AT_THE_RENAME = """
import os, signal, sys
from qdistd.config.editing import set_value

def kill(event, arguments):
    if event == "os.rename":
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
set_value("master", sys.argv[1], "limits.lease", "45s")
"""


def test_a_kill_before_the_rename_leaves_the_old_file_and_the_whole_new_one_beside_it(tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", PERSONS)
    done = subprocess.run([sys.executable, "-c", KILLED_AT_THE_RENAME, str(file)], timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert file.read_text() == PERSONS
    (left,) = tmp_path.glob(".master.toml.*.new")
    assert load_master(left).limits.lease == 45
    set_value("master", file, "limits.lease", "45s", place=NOWHERE)
    assert load_master(file).limits.lease == 45


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


def test_a_folder_that_cannot_be_written_to_is_told() -> None:
    with tempfile.TemporaryDirectory() as name:
        file = write(Path(name, "master.toml"), PERSONS)
        Path(name).chmod(0o555)
        with stranger():
            assert f"{file}: cannot be written: Permission denied" in refusal("master", file, "limits.lease", "45")
        Path(name).chmod(0o755)


def test_a_file_that_cannot_be_read_is_told() -> None:
    with tempfile.TemporaryDirectory() as name:
        file = write(Path(name, "master.toml"), PERSONS)
        Path(name).chmod(0o755)
        file.chmod(0)
        with stranger(), pytest.raises(ConfigError) as refused:
            set_value("master", file, "limits.lease", "9", place=NOWHERE)
        assert str(refused.value) == f"{file}: cannot be read: Permission denied"


def test_the_file_keeps_its_mode_and_its_owner(tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", PERSONS)
    owner = (STRANGER, 1) if ROOT else (os.geteuid(), os.getegid())
    os.chown(file, *owner)
    file.chmod(0o640)
    number = file.stat().st_ino
    set_value("master", file, "limits.lease", "45s", place=NOWHERE)
    status = file.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (*owner, 0o640)
    assert status.st_ino != number


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    target = write(tmp_path / "real" / "x.toml", PERSONS)
    link = tmp_path / "master.toml"
    link.symlink_to(target)
    set_value("master", link, "limits.lease", "45s", place=NOWHERE)
    assert link.is_symlink()
    assert load_master(target).limits.lease == 45
    assert [entry.name for entry in target.parent.iterdir()] == ["x.toml"]
