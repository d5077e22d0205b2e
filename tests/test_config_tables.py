"""Tables that a person names, such as [queue.mail] and [schedule.nightly]: loaded, checked, shown, set."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdistd.calendar import parse
from qdistd.config import MasterConfig, Place, QueueConfig, Rate, ScheduleConfig, load_master
from qdistd.config.editing import set_value
from qdistd.config.loading import named_tables
from qdistd.config.rates import rate
from qdistd.config.showing import check, sample, show, toml_key, toml_value
from qdistd.errors import ConfigError

NOWHERE = Place({}, Path("/nonexistent"))


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def load(folder: Path, text: str) -> MasterConfig:
    return load_master(write(folder / "master.toml", text), place=NOWHERE)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load(folder, text)
    return str(refused.value)


# -- loading


def test_each_table_has_its_own_settings_and_the_defaults_for_the_rest(tmp_path: Path) -> None:
    config = load(tmp_path, '[queue.mail]\nrate = "10/m"\n[queue."a.b c"]\nweight = 3\n[queue.empty]\n')
    assert config.queue == {
        "mail": QueueConfig(rate=Rate(10, 60.0)),
        "a.b c": QueueConfig(weight=3),
        "empty": QueueConfig(),
    }
    assert isinstance(hash(config), int)
    with pytest.raises(TypeError):
        config.queue["new"] = QueueConfig()  # type: ignore[index]  # that is the point


def test_a_later_file_changes_single_settings_and_adds_tables(tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", "[queue.mail]\nweight = 2\nlimit = 5\n")
    write(tmp_path / "master.d/a.toml", "[queue.mail]\nweight = 3\n[queue.other]\n")
    config = load_master(file, place=NOWHERE)
    assert config.queue == {"mail": QueueConfig(weight=3, limit=5), "other": QueueConfig()}
    assert named_tables("master", file, place=NOWHERE) == [("queue", "mail"), ("queue", "other")]


def test_the_new_limits_are_read(tmp_path: Path) -> None:
    limits = load(tmp_path, '[limits]\nqueued = 7\nfree = ""\n').limits
    assert (limits.queued, limits.free) == (7, 0)
    assert (MasterConfig().limits.queued, MasterConfig().limits.free) == (0, 256 << 20)


# -- rates

RATES = [
    ("100/s", Rate(100, 1.0)),
    ("10/m", Rate(10, 60.0)),
    ("5/h", Rate(5, 3600.0)),
    ("1000/d", Rate(1000, 86400.0)),
    ("10/30s", Rate(10, 30.0)),
    (" 1 / 1.5 min ", Rate(1, 90.0)),
    ("", None),
]


@pytest.mark.parametrize(("text", "meant"), RATES)
def test_a_rate_is_a_count_and_a_time(text: str, meant: Rate | None) -> None:
    assert rate(text) == meant


@pytest.mark.parametrize(
    "text", ["10", "10/", "/s", "10/30", "s/10", "-1/s", "1.5/s", "10/parsec", "10/1..5s", "1/s/s"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        rate(text)


@pytest.mark.parametrize("text", ["0/s", "1000001/s", "1/0s", "1/367d"])
def test_a_rate_has_its_bounds(text: str) -> None:
    with pytest.raises(ValueError, match="is out of range"):
        rate(text)


# -- schedules

SCHEDULE = """
[schedule.report]
calendar = "Mon..Fri 08:30"
task = "reports.daily"
arguments = ["a", 1, [2.5, true], { x = 1 }]
priority = -5
timeout = "5m"
time_zone = "Europe/Berlin"
persistent = true
randomized_delay = "10m"
overlap = false
[schedule.report.keywords]
to = "all"
"""


def test_a_schedule_is_read_whole(tmp_path: Path) -> None:
    (report,) = load(tmp_path, SCHEDULE).schedule.values()
    assert report == ScheduleConfig(
        calendar=parse("Mon..Fri 08:30"),
        task="reports.daily",
        arguments=("a", 1, [2.5, True], {"x": 1}),
        keywords={"to": "all"},
        priority=-5,
        timeout=300.0,
        time_zone="Europe/Berlin",
        persistent=True,
        randomized_delay=600.0,
        overlap=False,
    )


def test_a_schedule_that_is_shown_can_be_read_back(tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", SCHEDULE)
    for origin in (False, True):
        shown = write(tmp_path / "shown.toml", show("master", file, origin, place=NOWHERE))
        assert load_master(shown, place=NOWHERE) == load_master(file, place=NOWHERE)


# -- what is said about mistakes

DAILY = "[schedule.a]\ncalendar = 'daily'\ntask = 'x'\n"

MISTAKES = [
    ('[queue.mail]\nrate = "fast"\n', '2: [queue.mail] rate: "fast" is no rate; expected a rate such as "100/s"'),
    ("[queue.mail]\nrate = 10\n", "2: [queue.mail] rate: 10 is no string; expected a rate"),
    ("[queue.mail]\nweigth = 1\n", "2: [queue.mail] weigth: unknown key; expected concurrency, per_key, rate, weight"),
    ("[queue.mail]\nweigth = 1\n", 'did you mean "weight"?'),
    ("[queue.mail]\nlease = 1\n", "did you mean [limits] lease?"),
    ("[queue.mail]\nweight = 0\n", "2: [queue.mail] weight: 0 is out of range; expected a whole number from 1 to 1000"),
    ('[queue." a"]\n', '1: [queue." a"]: " a" is no name; expected a name of 1 to 200 printable characters'),
    ('[queue.""]\n', '1: [queue.""]: "" is no name; expected a name'),
    (r'[queue."a\tb"]' + "\n", "holds characters that cannot be printed; expected a name"),
    ("queue = 3\n", "1: queue: this is no table; expected [queue.NAME] with its keys below"),
    ("\n[queue]\nrate = 1\n", "3: queue.rate: this is no table; expected [queue.NAME] with its keys below"),
    ("[[queue.mail]]\n", "1: queue.mail: this is no table; expected [queue.NAME]"),
    ("[schedule.a]\ntask = 'x'\n", '1: [schedule.a]: calendar is missing; expected a calendar expression such as'),
    ("[schedule.a]\ncalendar = 'daily'\n", "1: [schedule.a]: task is missing; expected a name"),
    ("schedule.a.calendar = 'daily'\n", "1: [schedule.a]: task is missing"),
    (
        "[schedule.a]\ntask = 'x'\ncalendar = '*-13-01'\n",
        '3: [schedule.a] calendar: "*-13-01" is no calendar expression: "13" is out of the range of a month (1 to 12); '
        'expected a calendar expression such as "daily"',
    ),
    (
        "[schedule.a]\ntask = 'x'\ncalendar = 'daily Europe/Atlantis'\n",
        '"daily Europe/Atlantis" is no calendar expression: "Europe/Atlantis" is no time zone; expected',
    ),
    (f"{DAILY}time_zone = 'Mars'\n", '4: [schedule.a] time_zone: "Mars" is no time zone; expected the name of a time'),
    (f"{DAILY}arguments = 3\n", "4: [schedule.a] arguments: 3 is no list; expected a list of strings, numbers"),
    (f"{DAILY}arguments = [[2026-01-01]]\n", "a date or time is nothing that a task can be given (write it"),
    (f"{DAILY}keywords = []\n", "4: [schedule.a] keywords: a list is no table; expected a table of strings"),
    (f"{DAILY}keywords = {{ a = 12:00:00 }}\n", "a date or time is nothing that a task can be given"),
    (
        "[schedule.a]\ntask = 'x'\ncalendar = 'daily UTC'\ntime_zone = 'UTC'\n",
        "4: [schedule.a] time_zone: the calendar names a time zone itself (UTC); expected one time zone, here or there",
    ),
    (
        f"{DAILY}randomized_delay = '1h'\nexpires = '1h'\n",
        "5: [schedule.a] expires: expires (3600 s) is not beyond randomized_delay (3600 s); expected expires longer",
    ),
    (
        f"{DAILY}arguments = ['{'x' * 2000}']\n[limits]\npayload = 1024\n",
        "4: [schedule.a] arguments: the arguments have 2024 bytes; expected 1024 at most ([limits] payload)",
    ),
    ("[queu.mail]\n", 'unknown section; expected master, keys, limits'),
    ("[queu.mail]\n", 'did you mean "queue"?'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_a_mistake_in_a_table_is_told_with_file_line_key_and_expectation(text: str, said: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith(f"{tmp_path}/master.toml:")
    assert said in message.replace(f"{tmp_path}/master.toml:", "")
    assert "\n" not in message
    assert check("master", tmp_path / "master.toml", place=NOWHERE) == [message]


# -- show and set


def test_what_is_shown_of_the_tables_can_be_read_back(tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", '[queue."a.b"]\nrate = "10/m"\n[queue.mail]\n')
    shown = write(tmp_path / "shown.toml", show("master", file, place=NOWHERE))
    assert load_master(shown, place=NOWHERE) == load_master(file, place=NOWHERE)
    with_origin = show("master", file, origin=True, place=NOWHERE)
    assert (
        f'[queue."a.b"]\n# default\nconcurrency = 0\n# default\nper_key = 0\n# {file}:2\nrate = "10/m"' in with_origin
    )


def test_the_example_in_the_sample_is_a_table_with_every_key_at_its_default() -> None:
    example = sample("master").partition("#[queue.mail]")[2].partition("#[")[0]
    keys = tomllib.loads("\n".join(re.findall(r"(?m)^#(\S.*)$", example)))
    assert keys == {"concurrency": 0, "per_key": 0, "rate": "", "weight": 1, "limit": 0}


LAYOUTS = [
    ("", "queue.mail.rate", "10/m", '\n[queue.mail]\nrate = "10/m"\n'),
    ("[queue.mail]\n", "queue.mail.weight", "3", "[queue.mail]\nweight = 3\n"),
    ("[queue.mail]\nweight = 2 # b\n", "queue.mail.weight", "3", "[queue.mail]\nweight = 3 # b\n"),
    ("queue.mail.weight = 2\n", "queue.mail.weight", "3", "queue.mail.weight = 3\n"),
    (DAILY, "schedule.a.keywords", "{ x = 1 }", f"{DAILY}keywords = {{ x = 1 }}\n"),
    (f"{DAILY}keywords = {{ y = 1 }} # b\n", "schedule.a.keywords", "{}", f"{DAILY}keywords = {{}} # b\n"),
    (DAILY, "schedule.a.arguments", '[1, "b", { x = 1 }]', f'{DAILY}arguments = [1, "b", {{ x = 1 }}]\n'),
    (DAILY, "schedule.a.calendar", "Mon 12:00", DAILY.replace("'daily'", '"Mon 12:00"')),
    ("[queue.x]\n", "queue.a.b.limit", "3", '[queue.x]\n\n[queue."a.b"]\nlimit = 3\n'),
]  # fmt: skip


@pytest.mark.parametrize(("old", "name", "text", "new"), LAYOUTS)
def test_one_setting_of_a_table_is_set_and_nothing_else(
    old: str, name: str, text: str, new: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "master.toml", old)
    set_value("master", file, name, text, place=NOWHERE)
    assert file.read_text() == new


REFUSED = [
    ("queue.rate", "1/s", "queue.rate: there is no such setting; expected queue.NAME.key"),
    ("queue.mail.speed", "1", "queue.mail.speed: unknown key; expected concurrency, per_key"),
    ("queue.mail.rate", "1", 'queue.mail.rate: "1" is no rate; expected a rate such as'),
    ("schedule.a.calendar", "daily", "[schedule.a]: task is missing"),
    ("queue. a.weight", "1", '[queue." a"]: " a" is no name'),
    ("queu.mail.rate", "1/s", "queu.mail.rate: there is no such setting"),
]


@pytest.mark.parametrize(("name", "text", "wrong"), REFUSED)
def test_what_would_be_wrong_in_a_table_is_refused(name: str, text: str, wrong: str, tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", "")
    with pytest.raises(ConfigError) as refused:
        set_value("master", file, name, text, place=NOWHERE)
    assert wrong in str(refused.value)
    assert file.read_text() == ""


# -- values that are tables themselves

toml = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=toml)
def test_every_value_is_written_on_one_line_that_reads_back(value: object) -> None:
    text = toml_value(value)
    assert "\n" not in text
    assert tomllib.loads(f"key = {text}")["key"] == value


@given(name=st.text())
def test_every_name_of_a_table_is_written_so_that_it_reads_back(name: str) -> None:
    assert tomllib.loads(f"[{toml_key(('queue', name))}]") == {"queue": {name: {}}}


def test_a_long_name_is_shown_and_set_whole(tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", "")
    set_value("master", file, f"queue.{'é.' * 99}.weight", "2", place=NOWHERE)
    assert load_master(file, place=NOWHERE).queue == {"é." * 99: QueueConfig(weight=2)}
    shown = write(tmp_path / "shown.toml", show("master", file, place=NOWHERE))
    assert load_master(shown, place=NOWHERE) == load_master(file, place=NOWHERE)
