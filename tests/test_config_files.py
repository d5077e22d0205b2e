"""Which files are read, in which order, and what the settings must be together."""

import os
from pathlib import Path

import pytest

from qdistd.address import Address
from qdistd.config import ClientConfig, MasterConfig, Place, WorkerConfig, load_client, load_master, load_worker
from qdistd.config.reading import LARGEST_FILE
from qdistd.errors import ConfigError

NOWHERE = Place({}, Path("/nonexistent"))


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


# -- files that cannot be read


def test_a_missing_file_that_was_named_is_refused_and_told_how_to_make(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    for load, kind in ((load_master, "master"), (load_worker, "worker"), (load_client, "client")):
        with pytest.raises(ConfigError) as refused:
            load(file)
        assert str(refused.value) == (
            f"{file}: there is no such file; `qdist config show {kind} > {file}` writes one with the defaults"
        )


@pytest.mark.parametrize("file", ["/", "/dev/zero", "/dev/null"])
def test_what_is_no_regular_file_is_refused(file: str) -> None:
    with pytest.raises(ConfigError, match=f"^{file}: is not a regular file; expected a TOML file$"):
        load_master(file)


def test_a_file_far_too_large_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", "#" * (LARGEST_FILE + 1))
    with pytest.raises(ConfigError, match=r"holds \d+ bytes; expected \d+ at most"):
        load_master(file)


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "master.toml").symlink_to("missing")
    with pytest.raises(ConfigError, match=r"master\.toml: cannot be read: No such file"):
        load_master(tmp_path / "master.toml")
    with pytest.raises(ConfigError, match=r"master\.toml: cannot be read: No such file"):
        load_master(place=Place({}, tmp_path))


# -- drop-ins


def test_drop_ins_are_read_in_the_order_of_their_names_and_later_ones_win(tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", '[limits]\nlease = "20s"\nresult = "2 MiB"\n')
    write(tmp_path / "master.d/50-b.toml", '[limits]\nlease = "50s"\n')
    write(tmp_path / "master.d/10-a.toml", '[limits]\nlease = "10s"\nheartbeat = "1s"\n')
    for ignored in (".90-hidden.toml", "90-old.toml~", "README"):
        write(tmp_path / "master.d" / ignored, "broken")
    limits = load_master(file).limits
    assert (limits.lease, limits.heartbeat, limits.result) == (50.0, 1.0, 2 << 20)


def test_drop_ins_count_even_without_a_main_file(tmp_path: Path) -> None:
    write(tmp_path / "worker.d/a.toml", "[worker]\nprocesses = 3\n")
    assert load_worker(place=Place({}, tmp_path)).processes == 3


def test_a_mistake_in_a_drop_in_names_the_drop_in(tmp_path: Path) -> None:
    file = write(tmp_path / "worker.toml", "[worker]\nqueue = 1\n")
    drop_in = write(tmp_path / "worker.d/a.toml", "\n[worker]\ndrain = true\n")
    with pytest.raises(ConfigError) as refused:
        load_worker(file)
    first, second = str(refused.value).splitlines()
    assert first.startswith(f"{file}:2: [worker] queue: ")
    assert second.startswith(f"{drop_in}:3: [worker] drain: ")


def test_a_folder_of_drop_ins_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    file = write(tmp_path / "worker.toml", "")
    (tmp_path / "worker.d").symlink_to("worker.d")
    with pytest.raises(ConfigError, match=r"worker\.d: cannot be read: Too many levels"):
        load_worker(file)


# -- instances

INSTANCES = """
[worker]
processes = 2
queues = ["default"]
[limits]
timeout = "1m"
memory = "1 GiB"
[instance.mail]
queues = ["mail"]
[instance.mail.limits]
timeout = "5s"
[instance."a.b".log]
level = "debug"
"""


def test_an_instance_overrides_single_settings_of_all_sections(tmp_path: Path) -> None:
    file = write(tmp_path / "worker.toml", INSTANCES)
    mail, dotted, other = (load_worker(file, name) for name in ("mail", "a.b", "other"))
    assert (mail.instance, mail.queues, mail.processes) == ("mail", ("mail",), 2)
    assert (mail.limits.timeout, mail.limits.memory) == (5.0, 1 << 30)
    assert (dotted.log.level, dotted.queues) == ("debug", ("default",))
    assert (other.limits.timeout, other.log.level) == (60.0, "info")


def test_an_instance_is_more_than_a_later_drop_in_for_all(tmp_path: Path) -> None:
    file = write(tmp_path / "worker.toml", INSTANCES)
    write(tmp_path / "worker.d/a.toml", '[worker]\nqueues = ["x"]\n')
    assert load_worker(file, "mail").queues == ("mail",)
    assert load_worker(file).queues == ("x",)


def test_every_instance_has_a_folder_of_its_own() -> None:
    assert load_worker(instance="mail", place=NOWHERE).folder == Path("/var/lib/qdist/worker/mail")
    assert WorkerConfig().folder == Path("/var/lib/qdist/worker/1")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".x", "a b", "a\n", "x" * 101])
def test_a_name_that_is_no_folder_is_no_instance(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of an instance; expected letters"):
        load_worker(instance=name, place=NOWHERE)


# -- the client looks around


def test_the_client_takes_the_first_file_that_is_there(tmp_path: Path) -> None:
    etc, home, asked = tmp_path / "etc", tmp_path / "home", tmp_path / "asked.toml"
    environ = {"HOME": str(home)}
    place = Place(environ, etc)
    assert load_client(place=place) == ClientConfig()
    write(etc / "client.toml", "[client]\ntimeout = 1\n")
    assert load_client(place=place).timeout == 1
    write(home / ".config/qdist/client.toml", "[client]\ntimeout = 2\n")
    assert load_client(place=place).timeout == 2
    environ["QDIST_CONFIG"] = str(write(asked, "[client]\ntimeout = 3\n"))
    assert load_client(place=place).timeout == 3
    assert load_client(write(tmp_path / "given.toml", "[client]\ntimeout = 4\n"), place=place).timeout == 4


def test_a_missing_file_that_the_environment_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: there is no such file; `qdist config show client >"):
        load_client(place=Place({"QDIST_CONFIG": str(tmp_path / "none.toml")}, tmp_path))


def test_the_environment_overrides_the_masters(tmp_path: Path) -> None:
    file = write(tmp_path / "client.toml", '[client]\nmasters = ["a:1"]\ntimeout = 7\n')
    config = load_client(file, place=Place({"QDIST_MASTER": "b:2, unix:/s"}))
    assert (config.masters, config.timeout) == ((Address("b", 2), Address(path="/s")), 7.0)


def test_a_mistake_in_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigError) as refused:
        load_client(place=Place({"QDIST_MASTER": "localhost"}, NOWHERE.etc))
    assert str(refused.value).startswith('$QDIST_MASTER: "localhost" is no address; expected a list of one or more')


# -- what fits together

LONG = "is too long for lease"
FAR = "weak keys are for this machine alone"
TOGETHER = [
    ('[limits]\nheartbeat = "20s"\n', "2: [limits] heartbeat: ", LONG),
    ('[limits]\nheartbeat = "15s"\n', "2: [limits] heartbeat: ", LONG),
    ('[limits]\n\nlease = "8s"\n', "3: [limits] lease: ", LONG),
    ("[keys]\nadmin = []\nwork = []\nsubmit = []\n", "2: [keys] admin: ", "no role has a key"),
    ('[master]\nlisten = ["0.0.0.0:5000"]\n[keys]\nweak = true\n', "4: [keys] weak: ", FAR),
    ('[master]\nlisten = ["[::1]:1", "10.0.0.1:1"]\n[keys]\nweak = true\n', "4: [keys] weak: ", "10.0.0.1:1 can be"),
]


@pytest.mark.parametrize(("text", "where", "wrong"), TOGETHER)
def test_settings_that_contradict_each_other_are_refused(text: str, where: str, wrong: str, tmp_path: Path) -> None:
    file = write(tmp_path / "master.toml", text)
    with pytest.raises(ConfigError) as refused:
        load_master(file)
    assert str(refused.value).startswith(f"{file}:{where}")
    assert wrong in str(refused.value)
    assert "; expected " in str(refused.value)


def test_weak_keys_are_for_loopback_and_unix_sockets(tmp_path: Path) -> None:
    near = '["127.0.0.2:1", "[::1]:1", "localhost:1", "unix:/s"]'
    assert load_master(write(tmp_path / "m.toml", f"[master]\nlisten = {near}\n[keys]\nweak = true\n")).keys.weak
    assert load_worker(write(tmp_path / "w.toml", f"[worker]\nmasters = {near}\nweak = true\n")).weak
    assert load_client(write(tmp_path / "c.toml", f"[client]\nmasters = {near}\nweak = true\n"), place=NOWHERE).weak
    with pytest.raises(ConfigError, match=f"w.toml:3: .*{FAR}, and far:1 can"):
        load_worker(write(tmp_path / "w.toml", '[worker]\nmasters = ["far:1"]\nweak = true\n'))
    with pytest.raises(ConfigError, match=rf"c.toml:2: \[client\] weak: {FAR}, and far:1 can"):
        load_client(write(tmp_path / "c.toml", "[client]\nweak = true\n"), place=Place({"QDIST_MASTER": "far:1"}))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[limits]\nsoft_timeout = "2h"\n', "2: [limits] soft_timeout: "),
        ('[limits]\nsoft_timeout = "5s"\ntimeout = "5s"\n', "2: [limits] soft_timeout: "),
    ],
)
def test_a_soft_limit_that_comes_too_late_is_refused(text: str, where: str, tmp_path: Path) -> None:
    file = write(tmp_path / "worker.toml", text)
    with pytest.raises(ConfigError) as refused:
        load_worker(file)
    assert str(refused.value).startswith(f"{file}:{where}soft_timeout (")
    assert str(refused.value).endswith("expected soft_timeout less than timeout")


def test_a_contradiction_within_one_instance_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "worker.toml", '[worker]\nmasters = ["far:1"]\n[instance.a]\nweak = true\n')
    with pytest.raises(ConfigError) as refused:
        load_worker(file, "b")
    assert str(refused.value).startswith(f"{file}:4: [instance.a] weak: {FAR}")


# -- credentials of systemd


def test_a_key_that_is_not_set_is_the_credential_of_its_role(tmp_path: Path) -> None:
    credentials, etc = tmp_path / "credentials", tmp_path / "etc"
    place = Place({"CREDENTIALS_DIRECTORY": str(credentials)}, etc)
    assert load_master(place=place) == MasterConfig()
    for role in ("admin", "work", "submit"):
        write(credentials / f"{role}.key", "k" * 32)
    own = etc / "own.key"
    write(etc / "master.toml", f'[keys]\nadmin = ["{own}"]\n')
    keys = load_master(place=place).keys
    assert (keys.admin, keys.work) == ((own,), (credentials / "work.key",))
    assert load_worker(place=place).key == credentials / "work.key"
    assert load_client(place=place).key == credentials / "submit.key"
    write(etc / "worker.toml", f'[instance.a]\nkey = "{own}"\n')
    assert load_worker(instance="a", place=place).key == own
    assert os.environ.get("CREDENTIALS_DIRECTORY") != str(credentials)
