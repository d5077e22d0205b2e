"""`qdist` shows what the master has, to people in words and to programs in JSON, and says what is wrong in a line."""

import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, make_key, write_toml
from daemons import DEADLINE, python
from shell import Ran, Shell

from qdistd import errors
from qdistd.cli.app import COMMANDS
from qdistd.cli.door import explain
from qdistd.cli.exits import Exit, code_of

NOBODYS = "0192f0c1-2b3c-7d4e-8f90-a1b2c3d4e5f6"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cli")
    folder.chmod(0o700)
    cluster = Cluster(folder, workers=1, worker={"worker": {"tasks": ["qdistd.tasks", "operator", "time"]}})
    yield cluster.start()
    cluster.close()


@pytest.fixture(scope="module")
def shell(cluster: Cluster) -> Shell:
    return Shell(cluster)


@pytest.fixture(scope="module")
def squared(shell: Shell) -> str:
    """The id of a task that has succeeded."""
    return submitted(shell, "square", "7", ended=True)


@pytest.fixture(scope="module")
def failed(shell: Shell) -> str:
    """The id of a task that has failed."""
    return submitted(shell, "operator.truediv", "1", "0", ended=True)


def submitted(shell: Shell, *arguments: str, ended: bool = False) -> str:
    task_id = shell("submit", *arguments).out.strip()
    if ended:
        shell("wait", task_id)
    return task_id


def is_one_line(ran: Ran, code: Exit, *words: str) -> bool:
    assert (ran.code, ran.out) == (code, ""), ran
    assert ran.err.startswith("qdist: ") and ran.err.count("\n") == 1, ran.err
    return all(word in ran.err for word in words)


# -- results


def test_a_result_is_printed_as_it_is(shell: Shell, squared: str) -> None:
    assert shell("result", squared) == Ran(0, "7 * 7 = 49\n", "")


def test_a_result_that_is_no_string_is_printed_as_json(shell: Shell) -> None:
    added = submitted(shell, "operator.add", "[1]", '["é"]')
    assert shell("result", added).out == '[1, "é"]\n'


def test_results_come_in_the_order_of_the_ids(shell: Shell) -> None:
    ids = [submitted(shell, "operator.neg", str(number)) for number in (3, 1, 2)]
    assert shell("result", *ids).lines == ["-3", "-1", "-2"]
    assert shell("result", "-", stdin="\n".join(ids)).lines == ["-3", "-1", "-2"]


def test_an_id_may_be_typed_without_dashes(shell: Shell, squared: str) -> None:
    assert shell("result", squared.replace("-", "").upper()).out == "7 * 7 = 49\n"


def test_the_json_of_a_result_has_state_and_attempt(shell: Shell, squared: str) -> None:
    expected = {"id": squared, "state": "succeeded", "attempt": 1, "result": "7 * 7 = 49"}
    assert shell("result", "--json", squared).thing == expected


def test_of_a_failed_task_standard_error_says_why(shell: Shell, failed: str) -> None:
    assert is_one_line(shell("result", failed), Exit.FAILED, "ZeroDivisionError: division by zero", failed)


def test_the_json_of_a_failure_says_what_failed(shell: Shell, failed: str) -> None:
    ran = shell("result", "--json", failed)
    failure = ran.thing["failure"]
    assert (ran.code, ran.thing["state"], failure["kind"]) == (Exit.FAILED, "failed", "exception")
    assert (failure["type"], failure["message"]) == ("ZeroDivisionError", "division by zero")


def test_a_result_that_does_not_come_in_time_has_a_code_of_its_own(shell: Shell) -> None:
    waiting = submitted(shell, "square", "7", "--queue", "nobody")
    assert is_one_line(shell("result", waiting, "--timeout", "200ms"), Exit.TIMEOUT, waiting)
    assert is_one_line(shell("wait", waiting, "--timeout", "0.2"), Exit.TIMEOUT)


def test_wait_prints_states_and_fails_if_one_has_failed(shell: Shell, squared: str, failed: str) -> None:
    assert shell("wait", squared) == Ran(0, f"{squared}  succeeded\n", "")
    both = shell("wait", squared, failed)
    assert (both.code, sorted(both.lines)) == (1, sorted([f"{squared}  succeeded", f"{failed}  failed"]))


@pytest.mark.parametrize("command", ["result", "wait", "show", "cancel", "retry"])
def test_a_task_that_nobody_submitted_is_named(shell: Shell, command: str) -> None:
    assert is_one_line(shell(command, NOBODYS), Exit.FAILED, "there is no task", NOBODYS)


@pytest.mark.parametrize("command", ["result", "wait", "show", "cancel", "retry"])
def test_what_is_no_id_is_a_mistake_of_the_command_line(shell: Shell, command: str) -> None:
    typed = shell(command, "seven")
    assert (typed.code, typed.out) == (Exit.USAGE, "") and "'seven' is no id of a task" in typed.err
    piped = shell(command, "-", stdin=f"{NOBODYS}\n\nseven\n")
    assert piped.code == Exit.USAGE and "standard input, line 3: 'seven' is no id" in piped.err


# -- looking


def test_show_tells_all_of_a_task(shell: Shell, failed: str) -> None:
    told = shell("show", failed).out
    for words in ("operator.truediv", "1, 0", "failed, attempt 1", "ATTEMPT", "w1@", "ZeroDivisionError", "MiB"):
        assert words in told, told


def test_the_json_of_show_has_arguments_and_attempts(shell: Shell, squared: str, cluster: Cluster) -> None:
    told = shell("show", "--json", squared).thing
    assert (told["task"], told["args"], told["kwargs"], told["result"]) == ("square", [7], {}, "7 * 7 = 49")
    (attempt,) = told["attempts"]
    assert (attempt["number"], attempt["outcome"], attempt["failure"]) == (1, "succeeded", None)
    assert attempt["worker"].startswith("w1") and attempt["rss"] > 1024 * 1024
    assert told["created"] <= told["finished"] and told["created"].endswith("+00:00")


def test_show_goes_on_after_an_id_that_is_not_there(shell: Shell, squared: str) -> None:
    ran = shell("show", "--json", NOBODYS, squared)
    assert (ran.code, ran.thing["id"]) == (Exit.FAILED, squared) and NOBODYS in ran.err


def test_list_shows_the_newest_first_and_only_what_was_asked_for(shell: Shell) -> None:
    ids = [submitted(shell, "square", "1", "--queue", "shelf", *extra) for extra in ((), (), ("--delay", "1h"))]
    assert [task["id"] for task in shell("list", "--queue", "shelf", "--json").things] == ids[::-1]
    assert shell("list", "--queue", "shelf", "--state", "scheduled", "--json").thing["id"] == ids[2]
    assert shell("list", "--queue", "shelf", "--limit", "1", "--json").thing["id"] == ids[2]
    assert shell("list", "--queue", "shelf", "--task", "cube") == Ran(0, "", "")
    table = shell("list", "--queue", "shelf").lines
    assert table[0].split() == ["ID", "TASK", "QUEUE", "STATE", "ATTEMPT", "CREATED", "WORKER"]
    assert [line.split()[0] for line in table[1:]] == ids[::-1]


def test_list_goes_through_as_many_pages_as_it_takes(shell: Shell) -> None:
    lines = "\n".join('["square", 1]' for _ in range(1200))
    ids = shell("submit", "--file", "-", "--queue", "long", stdin=lines).lines
    assert [task["id"] for task in shell("list", "--queue", "long", "--limit", "0", "--json").things] == ids[::-1]
    assert len(shell("list", "--queue", "long", "--limit", "1100", "--json").lines) == 1100


def test_status_tells_of_the_master_its_queues_and_its_workers(shell: Shell, squared: str, cluster: Cluster) -> None:
    told = shell("status").out
    for words in (f"pid {cluster.master.pid}", cluster.address, "QUEUE", "default", "WORKER", "w1@", "1 connected"):
        assert words in told, told
    status = shell("status", "--json").thing
    assert status["pid"] == cluster.master.pid and status["submitted"] >= 1
    assert [worker["state"] for worker in status["workers"]] == ["connected"]
    assert {queue["name"] for queue in status["queues"]} >= {"default"}


def test_queues_and_workers_are_listed_alone(shell: Shell, squared: str, cluster: Cluster) -> None:
    queues = {queue["name"]: queue for queue in shell("queues", "--json").things}
    assert queues["default"]["succeeded"] >= 1
    assert "default" in shell("queues").out
    (worker,) = shell("workers", "--json").things
    assert (worker["pid"], worker["queues"]) == (cluster.workers[0].pid, ["default"])
    assert "connected" in shell("workers").out


# -- changing


def test_cancel_and_retry_print_where_the_task_stands_then(shell: Shell) -> None:
    task_id = submitted(shell, "square", "7", "--queue", "nobody")
    assert shell("cancel", task_id) == Ran(0, f"{task_id}  cancelled\n", "")
    assert shell("retry", "--json", task_id).thing == {"id": task_id, "state": "ready"}
    assert shell("retry", task_id) == Ran(0, f"{task_id}  ready\n", "")


def test_what_has_succeeded_is_neither_cancelled_nor_retried(shell: Shell, squared: str) -> None:
    for command in ("cancel", "retry"):
        ran = shell(command, squared)
        assert (ran.code, ran.out) == (Exit.FAILED, f"{squared}  succeeded\n")
        assert ran.err == f"qdist: task {squared} has already ended: succeeded\n"


def test_a_running_task_is_cancelled(shell: Shell) -> None:
    task_id = submitted(shell, "time.sleep", "60")
    assert shell("cancel", task_id).code == Exit.OK
    ended = shell("wait", "--json", task_id)
    assert (ended.code, ended.thing["state"]) == (Exit.FAILED, "cancelled")


# -- terminals


def test_on_a_terminal_times_are_relative_and_states_coloured(shell: Shell, squared: str) -> None:
    seen = shell.on_a_terminal("list", "--state", "succeeded")
    assert " ago" in seen or "now" in seen
    assert "\x1b[32msucceeded\x1b[0m" in seen


def test_no_color_is_heeded(shell: Shell, squared: str) -> None:
    assert "\x1b" not in shell.on_a_terminal("list", NO_COLOR="1")


def test_elsewhere_times_are_iso_and_nothing_is_coloured(shell: Shell, squared: str) -> None:
    listed = shell("list", "--state", "succeeded").out
    assert "+00:00" in listed and " ago" not in listed and "\x1b" not in listed


def test_a_result_cannot_steer_the_terminal(shell: Shell) -> None:
    task_id = submitted(shell, "operator.add", '"\\u001b]0;title\\u0007"', '"x"', ended=True)
    assert "\\x1b]0;title\\x07x" in shell.on_a_terminal("result", task_id)
    assert shell("result", task_id).out == "\x1b]0;title\x07x\n"


# -- what is wrong


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TaskFailed("x"), 1),
        (errors.NotFound("x"), 1),
        (errors.TooLarge("x"), 1),
        (FileNotFoundError("x"), 1),
        (errors.InternalError("x"), 70),
        (KeyError("x"), 70),
        (errors.Unavailable("x"), 75),
        (errors.Overloaded("x"), 75),
        (errors.WrongKey("x"), 77),
        (errors.NotAllowed("x"), 77),
        (errors.ConfigError("x"), 78),
        (TimeoutError("x"), 124),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
    ],
)
def test_exit_codes_are_stable(error: BaseException, code: int) -> None:
    assert code_of(error) == code


def test_a_master_that_does_not_answer_is_named(shell: Shell) -> None:
    with_nobody = {"QDIST_MASTER": "127.0.0.1:1"}
    for command in (("status",), ("submit", "square", "7"), ("result", NOBODYS)):
        ran = shell("--patience", "200ms", *command, **with_nobody)
        assert (ran.code, ran.out) == (Exit.LATER, "") and "127.0.0.1:1" in ran.err and "refused" in ran.err


def test_a_wrong_key_is_told_as_such(shell: Shell, cluster: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "client.toml"
    key = make_key(tmp_path / "other.key")
    write_toml(config, {"client": {"masters": [cluster.address], "key": str(key)}})
    assert is_one_line(shell("-c", config, "status"), Exit.NOT_ALLOWED, cluster.address, "key")


def test_another_key_may_be_shown(shell: Shell, cluster: Cluster, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other.key")
    for ran in (shell("--key-file", other, "status"), shell("status", QDIST_KEY=str(other))):
        assert is_one_line(ran, Exit.NOT_ALLOWED, "key")
    assert shell("--key-file", cluster.keys["admin"], "status", QDIST_KEY=str(other)).code == Exit.OK
    assert is_one_line(shell("status", QDIST_KEY=str(tmp_path / "none.key")), Exit.CONFIG, "none.key")


def test_a_key_of_another_role_is_not_allowed(cluster: Cluster) -> None:
    assert is_one_line(Shell(cluster, "work")("submit", "square", "7"), Exit.NOT_ALLOWED, "submit")


def test_every_problem_of_a_configuration_is_a_line(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "client.toml"
    config.write_text('[client]\nmaster = "x"\ntimeout = "soon"\n')
    ran = shell("-c", config, "status")
    first, second = ran.err.splitlines()
    assert ran.code == Exit.CONFIG
    assert first.startswith(f"qdist: {config}:2: [client] master") and second.startswith(f"qdist: {config}:3: ")


def test_a_traceback_comes_only_when_asked_for(shell: Shell) -> None:
    asked = ("--patience", "0.1", "status")
    assert "Traceback" not in shell(*asked, QDIST_MASTER="127.0.0.1:1").err
    assert "Traceback" in shell("--debug", *asked, QDIST_MASTER="127.0.0.1:1").err


def test_a_bug_is_told_from_a_refusal() -> None:
    (line,) = explain(KeyError("oops"), Exit.BUG)
    assert line == "this is a bug of qdist: KeyError: 'oops' (--debug shows where)"
    assert explain(errors.InternalError("bug 7f3a, see the log"), Exit.BUG) == ["bug 7f3a, see the log"]


def test_a_reader_that_goes_away_is_no_error_worth_a_word(shell: Shell) -> None:
    process = shell.start("list", "--limit", "0")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.wait(DEADLINE), process.stderr.read()) == (Exit.BROKEN_PIPE, "")
    process.stderr.close()


def test_ctrl_c_ends_a_wait_and_says_what_becomes_of_the_task(shell: Shell, cluster: Cluster) -> None:
    process = shell.start("submit", "square", "7", "--queue", "patience", "--wait")
    with cluster.client() as q:
        while not (waiting := q.list(queue="patience").tasks):
            assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    task_id = uuid.UUID(bytes=waiting[0].id)
    assert (process.returncode, out) == (Exit.INTERRUPTED, "")
    assert err == f"qdist: interrupted; the task is submitted and will run: qdist result {task_id}\n"


# -- the way in


def test_every_command_has_help(shell: Shell) -> None:
    listed = shell("--help").out
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        assert shell(name, "--help").code == Exit.OK


def test_an_unknown_command_is_a_mistake_of_the_command_line(shell: Shell) -> None:
    ran = shell("stauts")
    assert (ran.code, ran.out) == (Exit.USAGE, "") and "No such command 'stauts'" in ran.err


def test_words_are_completed(shell: Shell) -> None:
    ran = shell(_QDIST_COMPLETE="bash_complete", COMP_WORDS="qdist sta", COMP_CWORD="1")
    assert ran == Ran(0, "plain,status\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["status"]])
def test_what_takes_long_to_load_is_not_loaded_to_look(shell: Shell, arguments: list[str]) -> None:
    slow = ["rich", "tomlkit", "tomli_w", "sqlite3", "qdistd.master", "qdistd.worker", "qdistd.pool"]
    if arguments == ["--help"]:
        slow += ["asyncio", "msgspec", "qdistd.config"]
    script = (
        f"import sys; from qdistd.cli.door import main; main({arguments}); print([*{{*{slow}}} & {{*sys.modules}}])"
    )
    ran = subprocess.run(python("-c", script), env=shell.environ, stdout=subprocess.PIPE, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
