"""Configuration files: what they mean, where they are looked for, and what is said about every mistake."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdistd.address import Address
from qdistd.calendar import parse
from qdistd.config import (
    ClientConfig,
    FileKind,
    MasterConfig,
    Place,
    QueueConfig,
    ScheduleConfig,
    Share,
    WorkerConfig,
    load_client,
    load_master,
    load_worker,
)
from qdistd.config.loading import survey
from qdistd.config.settings import schema
from qdistd.config.showing import sample
from qdistd.errors import ConfigError

SHIPPED = Path(__file__).resolve().parent.parent / "etc"

KINDS: tuple[FileKind, ...] = ("master", "worker", "client")
DEFAULTS = {"master": MasterConfig(), "worker": WorkerConfig(), "client": ClientConfig()}
NIGHTLY = ScheduleConfig(parse("*-*-* 03:00:00"), "square")
EXAMPLES = {
    "master": MasterConfig(queue={"mail": QueueConfig()}, schedule={"nightly": NIGHTLY}),
    "worker": WorkerConfig(share={"data": Share("data", Path("/mnt/data"))}),
    "client": ClientConfig(),
}
"""The defaults, with the tables that the sample shows as examples."""
NOWHERE = Place({}, Path("/nonexistent"))

LOADERS: dict[str, Callable[..., Any]] = {
    "master": load_master,
    "worker": load_worker,
    "client": load_client,
}


def load(kind: str, text: str, folder: Path) -> Any:
    file = folder / f"{kind}.toml"
    file.write_text(text)
    return LOADERS[kind](file, place=NOWHERE)


def refusal(kind: str, text: str, folder: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        load(kind, text, folder)
    return str(refused.value)


# -- the shipped samples


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_sample_is_made_from_the_table_of_settings(kind: FileKind) -> None:
    assert (SHIPPED / f"{kind}.toml").read_text() == sample(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_sample_sets_nothing(kind: FileKind) -> None:
    whole = survey(kind, SHIPPED / f"{kind}.toml", NOWHERE)
    assert not whole.found
    assert whole.config() == DEFAULTS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_sample_with_every_line_uncommented_gives_exactly_the_defaults(kind: FileKind, tmp_path: Path) -> None:
    text = re.sub(r"(?m)^#(?=\S)", "", (SHIPPED / f"{kind}.toml").read_text())
    assert load(kind, text, tmp_path) == EXAMPLES[kind]
    found = survey(kind, tmp_path / f"{kind}.toml", NOWHERE).found
    table = schema(kind)
    assert {(where.section, where.key) for where in found} == {
        (section, key) for section in (*table.sections, *table.named) for key in table.rows(section)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_at_the_default_place_means_the_defaults(kind: str) -> None:
    assert LOADERS[kind](place=NOWHERE) == DEFAULTS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_is_frozen(kind: str) -> None:
    for part in (DEFAULTS[kind], *vars(DEFAULTS[kind]).values()):
        if dataclasses.is_dataclass(part):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(part, dataclasses.fields(part)[0].name, None)
    assert isinstance(hash(DEFAULTS[kind]), int)


# -- what values mean

GOOD: list[tuple[str, str, str, Any]] = [
    ("limits.lease", '"45s"', "master", 45.0),
    ("limits.lease", "45", "master", 45.0),
    ("limits.lease", "12.5", "master", 12.5),
    ("limits.lease", '"12500 ms"', "master", 12.5),
    ("limits.lease", '"1m 30 seconds"', "master", 90.0),
    ("limits.lease", '"40"', "master", 40.0),
    ("retention.finished", '"1w"', "master", 7 * 86400.0),
    ("retention.finished", '"2 hours"', "master", 7200.0),
    ("drain", "0", "worker", 0.0),
    ("limits.payload", '"1.5 MiB"', "master", 3 << 19),
    ("limits.payload", '"64K"', "master", 65536),
    ("limits.payload", '"2048 b"', "master", 2048),
    ("limits.payload", '"4096"', "master", 4096),
    ("limits.payload", "4096", "master", 4096),
    ("limits.memory", '"2 GiB"', "worker", 2 << 30),
    ("limits.memory", '""', "worker", 0),
    ("limits.memory", "0", "worker", 0),
    ("processes", "4", "worker", 4),
    ("weak", "true", "client", True),
    ("queues", '["mail", "default"]', "worker", ("mail", "default")),
    ("path", '["/opt/tasks"]', "worker", (Path("/opt/tasks"),)),
    ("key", '"~/my.key"', "client", Path.home() / "my.key"),
    ("keys.admin", "[]", "master", ()),
    ("listen", '["127.0.0.1:0"]', "master", (Address("127.0.0.1"),)),
    (
        "masters",
        '["a:1", "[::1]:2", "unix:/x"]',
        "client",
        (Address("a", 1), Address("::1", 2), Address(path="/x")),
    ),
    ("protocol", '"queue"', "worker", "queue"),
]


@pytest.mark.parametrize(("name", "toml", "kind", "value"), GOOD)
def test_a_value_is_read_as_what_it_means(name: str, toml: str, kind: str, value: Any, tmp_path: Path) -> None:
    section, _, key = name.rpartition(".")
    config = load(kind, f"[{section or kind}]\n{key} = {toml}\n", tmp_path)
    assert getattr(getattr(config, section) if section else config, key) == value


# -- what is said about mistakes

LEASE = 'expected a duration from "1s" to "1h" such as "30s"'
PAYLOAD = 'expected a size from "1 KiB" to "8 MiB" such as "64 KiB"'
COUNT = "expected a whole number from 1 to 1000000"
ADDRESS = 'expected a list of one or more addresses such as "127.0.0.1:5000"'
SETTING_MISTAKES = [
    ("limits", "lease", '"3 parsecs"', '"3 parsecs" is no duration', LEASE),
    ("limits", "lease", '"soon"', '"soon" is no duration', LEASE),
    ("limits", "lease", '"30s later"', '"30s later" is no duration', LEASE),
    ("limits", "lease", '"1h30"', '"1h30" is no duration', LEASE),
    ("limits", "lease", '""', '"" is no duration', LEASE),
    ("limits", "lease", "true", "true is no duration", LEASE),
    ("limits", "lease", "-1", "-1 is out of range", LEASE),
    ("limits", "lease", '"-5s"', '"-5s" is no duration', LEASE),
    ("limits", "lease", "nan", "nan is out of range", LEASE),
    ("limits", "lease", "inf", "inf is out of range", LEASE),
    ("limits", "lease", "0x" + "f" * 400, "is out of range", LEASE),
    ("limits", "lease", '"999999999999999999w"', "is out of range", LEASE),
    ("limits", "lease", "1979-05-27", "a date or time is no duration", LEASE),
    ("limits", "lease", '["30s"]', "a list is no duration", LEASE),
    ("limits", "payload", '"64 KB"', '"64 KB" is no size', f"{PAYLOAD}~did you mean \"64 KiB\"?"),
    ("limits", "payload", '"1 GiB"', '"1 GiB" is out of range', PAYLOAD),
    ("limits", "payload", "1.5", "1.5 is no size", PAYLOAD),
    ("limits", "payload", '""', '"" is out of range', PAYLOAD),
    ("limits", "payload", '"much"', '"much" is no size', PAYLOAD),
    ("limits", "payload", r'"a\u001bb\nc"', r'"a\u001bb\nc" is no size', PAYLOAD),
    ("limits", "connections", '"8"', '"8" is no whole number', f"{COUNT}~did you mean 8?"),
    ("limits", "connections", "true", "true is no whole number", COUNT),
    ("limits", "connections", "1.0", "1.0 is no whole number", COUNT),
    ("limits", "connections", "0", "0 is out of range", COUNT),
    ("keys", "weak", '"true"', '"true" is neither true nor false', "expected true or false~did you mean true?"),
    ("keys", "weak", "1", "1 is neither true nor false", "expected true or false"),
    ("keys", "min_digest", '"sha-256"', "is none of", 'expected "md5" or "sha256"~did you mean "sha256"?'),
    ("log", "level", "3", "3 is none of the choices", 'expected "debug" or "info"'),
    ("master", "listen", '"0.0.0.0:1"', "is no list", f'{ADDRESS}~did you mean ["0.0.0.0:1"]?'),
    ("master", "listen", '["somewhere"]', '"somewhere" is no address', ADDRESS),
    ("master", "listen", '["::1:5000"]', '"::1:5000" is no address', ADDRESS),
    ("master", "listen", '["a:70000"]', '"a:70000" is no address', ADDRESS),
    ("master", "listen", '["unix:x.sock"]', '"unix:x.sock" is no address', ADDRESS),
    ("master", "listen", '"' + "[" * 5000 + '"', "is no list", ADDRESS),
    ("master", "listen", "[5000]", "5000 is no string", ADDRESS),
    ("master", "listen", "[]", "the list is empty", ADDRESS),
    ("master", "listen", '["a:1", "a:1"]', "the list names something twice", ADDRESS),
    ("master", "store", '"mysql://x"', '"mysql://x" is no store', 'expected "sqlite:///absolute/path/of/file.db"'),
    ("master", "store", '"sqlite:///var/"', "is no store", "expected"),
    ("compat", "queue", '""', '"" is no name', "expected a name of 1 to 200 printable characters"),
    ("compat", "queue", '" a"', '" a" is no name', "expected a name"),
    ("compat", "queue", r'"a\tb"', "holds characters that cannot be printed", "expected a name"),
    ("compat", "queue", '"' + "x" * 201 + '"', "is no name", "expected a name"),
    ("keys", "work", '["work.key"]', "this is no absolute path of a key file", "expected a list of any number of"),
    ("tasks", "crashes", "{}", "a table is no whole number", "expected a whole number"),
    ("limits", "leese", '"3s"', "unknown key", 'expected payload, result, lease~did you mean "lease"?'),
    ("master", "payload", "3", "unknown key", "expected listen or store~did you mean [limits] payload?"),
    ("master", '"a\\nb"', "3", "unknown key", "expected listen or store"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "key", "toml", "wrong", "hints"), SETTING_MISTAKES)
def test_a_mistake_is_told_with_file_line_key_and_expectation(
    section: str, key: str, toml: str, wrong: str, hints: str, tmp_path: Path
) -> None:
    said = refusal("master", f"# first line\n[{section}]\n\n{key} = {toml}\n", tmp_path)
    assert said.startswith(f"{tmp_path}/master.toml:4: [{section}] {key}: ")
    assert all(part in said for part in (wrong, *hints.split("~")))
    assert "\n" not in said


FILE_MISTAKES = [
    ("master", "[limit]\n", '1: [limit]: unknown section; expected master, keys, limits, retention'),
    ("master", "[limit]\n", 'did you mean "limits"?'),
    ("client", "[instance.a]\n", "1: [instance]: unknown section; expected client"),
    ("master", 'listen = ["a:1"]\n', "1: listen: this stands outside of every section; expected it below [master]"),
    ("master", "nonsense = 3\n", "1: nonsense: this stands outside of every section; expected it below [master]"),
    ("master", "\nlimits = 3\n", "2: limits: this is no section; expected [limits]"),
    ("worker", "instance = 3\n", "1: instance: this is no section; expected [instance]"),
    ("worker", "[instance]\na = 3\n", "2: instance.a: this is no section; expected [instance.a]"),
    ("worker", '[instance."../x"]\ndrain = 1\n', '1: [instance."../x"]: "../x" is no name of an instance; expected'),
    ("worker", "[instance.a]\ndrain = -1\n", '2: [instance.a] drain: -1 is out of range; expected a duration'),
    ("worker", "[instance.a]\ntimeout = 1\n", "did you mean [instance.a.limits] timeout?"),
    ("worker", "[instance.a.limits]\n\ntimeout = []\n", "3: [instance.a.limits] timeout: a list is no duration"),
    ("worker", "[instance.a.worker]\ndrain = 1\n", "1: [instance.a] worker: unknown key"),
    ("worker", 'instance.a = { drain = true }\n', "1: [instance.a] drain: true is no duration"),
    ("master", 'limits.lease = true\n', "1: [limits] lease: true is no duration"),
    ("worker", '[worker]\ntasks = [\n  "os",\n  "a b",\n]\n', '2: [worker] tasks: "a b" is no name of a module'),
    ("worker", '[worker]\nstate = """\n[worker]\nqueues"""\nqueues = 3\n', "5: [worker] queues: 3 is no list"),
    ("worker", '[worker]\nmasters = ["a:0"]\n', '2: [worker] masters: "a:0" has port 0'),
    ("worker", '[worker]\nstate = "here"\n', '2: [worker] state: "here" is no absolute path'),
    ("master", "[limits]\nlease = \n", "2:9: not valid TOML: "),
    ("master", "[limits\n", "1:8: not valid TOML: "),
    ("master", "[limits]\nlease = 1\nlease = 2\n", "3:10: not valid TOML: "),
    ("master", "[keys]\n\nadmin = [\n'/a',\n", "3:1: not valid TOML: "),
    ("master", "[keys]\na = '''x\n\n", "2:1: not valid TOML: "),
    ("master", "[limits]\nlease = " + "9" * 5000, "2:1: not valid TOML: "),
    ("master", "a = " + "[" * 5000 + "]" * 5000, "1:1: not valid TOML: "),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "said"), FILE_MISTAKES)
def test_a_mistake_in_the_shape_of_a_file_is_told_with_its_place(
    kind: str, text: str, said: str, tmp_path: Path
) -> None:
    message = refusal(kind, text, tmp_path)
    assert message.startswith(f"{tmp_path}/{kind}.toml:")
    assert said in message.replace(f"{tmp_path}/{kind}.toml:", "")


def test_bytes_that_are_no_text_are_told_with_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "master.toml"
    file.write_bytes(b"[limits]\nlease = '\xff'\n")
    with pytest.raises(ConfigError, match=r"master\.toml:2:10: not valid TOML: not UTF-8 text"):
        load_master(file)


def test_windows_line_ends_are_read_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "master.toml"
    file.write_bytes(b"[limits]\r\n\r\nlease = true\r\n")
    with pytest.raises(ConfigError, match=r"master\.toml:3: \[limits\] lease"):
        load_master(file)


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = '[master]\nlisten = 1\n[limits]\nlease = "x"\nleese = 1\n[nope]\n[log]\nlevel = "loud"\n[keys]\nwork = []'
    places = [line.split(" ")[0].rpartition("/")[2] for line in refusal("master", text, tmp_path).splitlines()]
    assert places == ["master.toml:2:", "master.toml:4:", "master.toml:5:", "master.toml:6:", "master.toml:8:"]


def test_a_key_written_where_its_file_belongs_is_never_repeated(tmp_path: Path) -> None:
    for value in ('"s3cr3t"', '["s3cr3t"]', '["/a", "s3cr3t\\n"]'):
        assert "s3cr3t" not in refusal("master", f"[keys]\nadmin = {value}\n", tmp_path)
        assert "s3cr3t" not in refusal("worker", f"[worker]\nkey = {value}\n", tmp_path)
    assert "/s3cr3t" not in refusal("master", '[keys]\nadmin = "/s3cr3t"\n', tmp_path)


@given(data=st.one_of(st.text(alphabet="[]{}=\"'#\n\\.,u0aekysinc-_ \r\0é"), st.text()).map(str.encode) | st.binary())
def test_no_bytes_at_all_give_anything_but_a_refusal_or_a_configuration(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for kind in KINDS:
        file = Path(f"/nonexistent/{kind}.toml")
        whole = survey(kind, file, NOWHERE, {file: data})
        assert all(str(problem).startswith(str(file)) for problem in whole.problems)
        assert whole.problems or whole.config()
