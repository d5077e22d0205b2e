"""Labels and the tables [[share]] of worker.toml: loaded, checked, shown."""

import tomllib
from pathlib import Path

import pytest

from qdistd.config import Place, Share, WorkerConfig, load_worker
from qdistd.config.editing import set_value
from qdistd.config.showing import check, show
from qdistd.errors import ConfigError
from qdistd.model import MOST_LABELS

NOWHERE = Place({}, Path("/nonexistent"))
DATA = '[[share]]\nname = "data"\npath = "/mnt/data"\n'


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def load(folder: Path, text: str) -> WorkerConfig:
    return load_worker(write(folder / "worker.toml", text), place=NOWHERE)


def test_each_share_has_its_own_settings_and_the_defaults_for_the_rest(tmp_path: Path) -> None:
    config = load(tmp_path, f'{DATA}probe = ".probe"\n[[share]]\npath = "/srv/s"\nname = "scratch.2"\ntimeout = "1s"\n')
    assert config.share == {
        "data": Share("data", Path("/mnt/data"), ".probe"),
        "scratch.2": Share("scratch.2", Path("/srv/s"), timeout=1.0),
    }
    assert isinstance(hash(config), int)
    assert (config.share["data"].file, config.share["scratch.2"].file) == (Path("/mnt/data/.probe"), Path("/srv/s"))


def test_all_instances_have_the_same_shares_and_each_may_have_its_own_labels(tmp_path: Path) -> None:
    file = write(
        tmp_path / "worker.toml", f'[worker]\nlabels = ["site=berlin"]\n[instance.g]\nlabels = ["gpu"]\n{DATA}'
    )
    for instance, labels in (("1", ("site=berlin",)), ("g", ("gpu",))):
        config = load_worker(file, instance, place=NOWHERE)
        assert (config.labels, list(config.share)) == (labels, ["data"])


def test_a_later_file_changes_single_keys_of_a_share_and_adds_others(tmp_path: Path) -> None:
    file = write(tmp_path / "worker.toml", f'{DATA}probe = ".probe"\n')
    write(tmp_path / "worker.d/a.toml", '[[share]]\nname = "data"\npath = "/srv/d"\n[[share]]\nname = "x"\npath = "/x"')
    config = load_worker(file, place=NOWHERE)
    assert config.share == {"data": Share("data", Path("/srv/d"), ".probe"), "x": Share("x", Path("/x"))}


SHARE_MISTAKES = [
    ('[[share]]\npath = "/a"\n', "1: [[share]]: name is missing; expected a name of letters, digits and _ . -"),
    (f'{DATA}\n[[share]]\nname = "b"\n', "5: [[share]]: path is missing; expected an absolute path"),
    (f'{DATA}\n[[share]]\nname = "b"\npath = "b"\n', '7: [[share]] path: "b" is no absolute path'),
    (f"{DATA}porbe = 1\n", '4: [[share]] porbe: unknown key; expected name, path, probe, mount, timeout or interval'),
    (f"{DATA}porbe = 1\n", 'did you mean "probe"?'),
    (f"{DATA}probe = 1\n", "4: [[share]] probe: 1 is no string"),
    (f'{DATA}probe = "/a"\n', '4: [[share]] probe: "/a" is no path below the share; expected "." or a relative path'),
    (f'{DATA}probe = "a/../../b"\n', "is no path below the share"),
    (f'{DATA}timeout = "1ms"\n', '4: [[share]] timeout: "1ms" is out of range'),
    (f'{DATA}[[share]]\npath = "/b"\nname = "data"\n', '4: [[share]]: "data" stands in this file already'),
    ('[[share]]\nname = "a b"\n', '1: [[share]]: name: "a b" is no name of a share; expected a name of letters'),
    ("[[share]]\nname = 3\n", "1: [[share]]: name: 3 is no string"),
    ('[share]\nname = "data"\n', "1: share: this is no list of tables; expected [[share]] with its keys below"),
    ("share = 3\n", "1: share: this is no list of tables; expected [[share]] with its keys below"),
    ('share = [{ name = "a", path = 1 }]\n', "1: [[share]] path: 1 is no string"),
    ("\nshare = [3]\n", "2: share: this is no list of tables; expected [[share]]"),
    ('[[instance.a.share]]\nname = "x"\n', "1: [instance.a] share: unknown key"),
    ("[[shares]]\n", 'did you mean "share"?'),
    ('[worker]\nlabels = ["share=data"]\n', '2: [worker] labels: "share=data" is the label that [[share]] gives'),
    ('[worker]\nlabels = ["a b"]\n', '2: [worker] labels: "a b" is no label; expected a list of any number of labels'),
    ('[worker]\nlabels = ["site="]\n', '"site=" is no label'),
    ('[worker]\nlabels = "gpu"\n', 'did you mean ["gpu"]?'),
    (f"{DATA}[worker]\nlabels = {[f'l{n}' for n in range(MOST_LABELS)]}\n", "100 labels and 1 shares are too many"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), SHARE_MISTAKES)
def test_a_mistake_in_a_share_is_told_with_file_line_key_and_expectation(text: str, said: str, tmp_path: Path) -> None:
    file = write(tmp_path / "worker.toml", text)
    with pytest.raises(ConfigError) as refused:
        load_worker(file, place=NOWHERE)
    message = str(refused.value)
    assert message.startswith(f"{file}:")
    assert said in message.replace(f"{file}:", "")
    assert "\n" not in message
    assert check("worker", file, place=NOWHERE) == [message]


def test_what_is_shown_of_the_shares_can_be_read_back(tmp_path: Path) -> None:
    file = write(tmp_path / "worker.toml", f'{DATA}[[share]]\nname = "x"\npath = "/x"\nmount = true\n')
    shown = write(tmp_path / "shown.toml", show("worker", file, place=NOWHERE))
    assert load_worker(shown, place=NOWHERE) == load_worker(file, place=NOWHERE)
    with_origin = show("worker", file, origin=True, place=NOWHERE)
    assert (
        f'[[share]]\n# {file}:2\nname = "data"\n# {file}:3\npath = "/mnt/data"\n# default\nprobe = "."' in with_origin
    )
    assert f'[[share]]\n# {file}:5\nname = "x"\n# {file}:6\npath = "/x"' in with_origin


def test_a_share_is_changed_by_hand_and_other_settings_of_its_file_with_a_command(tmp_path: Path) -> None:
    file = write(tmp_path / "worker.toml", DATA)
    with pytest.raises(ConfigError, match=r"\[\[share\]\] are not changed from here; edit the file by hand"):
        set_value("worker", file, "share.data.path", "/b", place=NOWHERE)
    set_value("worker", file, "worker.labels", "gpu,site=berlin", place=NOWHERE)
    assert tomllib.loads(file.read_text()) == {**tomllib.loads(DATA), "worker": {"labels": ["gpu", "site=berlin"]}}
