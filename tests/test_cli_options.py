"""All that a task can be asked for can be asked for on the command line, and a busy master is waited for."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cluster import Cluster
from daemons import DEADLINE
from shell import Shell

from qdistd.cli import words
from qdistd.cli.exits import Exit
from qdistd.cli.lines import read_line
from qdistd.errors import Refused

NOBODYS = "0192f0c1-2b3c-7d4e-8f90-a1b2c3d4e5f6"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("options")
    folder.chmod(0o700)
    tables = {
        "master": {"queue": {"narrow": {"limit": 2}}},
        "worker": {"worker": {"tasks": ["qdistd.tasks", "operator", "time"], "queues": ["default", "narrow"]}},
    }
    cluster = Cluster(folder, workers=1, **tables)
    yield cluster.start()
    cluster.close()


@pytest.fixture(scope="module")
def shell(cluster: Cluster) -> Shell:
    return Shell(cluster)


def submitted(shell: Shell, *arguments: str) -> str:
    ran = shell("submit", *arguments)
    assert (ran.code, ran.err) == (0, ""), ran
    return ran.out.strip()


# -- one task


def test_what_a_task_is_asked_for_stands_in_its_sheet(shell: Shell) -> None:
    options = ("--queue", "shelf", "--retries", "3", "--timeout", "1m", "--soft-timeout", "50s", "--backoff-cap", "5m")
    more = ("--require", "gpu", "--require", "site=berlin", "--concurrency-key", "tenant-7", "--expires", "2h")
    told = shell("show", "--json", submitted(shell, "square", "7", *options, *more)).thing
    assert (told["soft_timeout"], told["backoff_cap"]) == (50.0, 300.0)
    assert (told["requires"], told["concurrency_key"]) == (["gpu", "site=berlin"], "tenant-7")
    left = datetime.fromisoformat(told["expires"]) - datetime.now(UTC)
    assert timedelta(hours=1, minutes=59) < left <= timedelta(hours=2)


def test_what_has_expired_is_cancelled_and_says_so(shell: Shell) -> None:
    task_id = submitted(shell, "square", "7", "--queue", "shelf", "--expires", "200ms")
    ran = shell("result", task_id)
    assert ran.code == Exit.FAILED and "expired" in ran.err
    assert shell("show", "--json", task_id).thing["failure"]["kind"] == "expired"


def test_it_expires_after_a_time_or_at_a_moment() -> None:
    assert words.expiry("90") == words.expiry("1m 30s") == 90.0
    assert words.expiry("2031-01-02T03:04:05Z") == datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_results_are_passed_on_to_the_task_that_comes_after(shell: Shell) -> None:
    ids = "\n".join(submitted(shell, "operator.add", str(number), "1") for number in (1, 2, 3))
    ran = shell("submit", "operator.add", "--after", "-", "--take", "list", "--wait", "[40]", stdin=ids)
    assert ran.out == "[2, 3, 4, 40]\n"
    ten = submitted(shell, "operator.add", "4", "6")
    assert shell("submit", "operator.sub", "1", "--after", ten, "--take", "args", "--wait").out == "9\n"


def test_what_becomes_of_it_when_one_fails_is_chosen(shell: Shell) -> None:
    failed = submitted(shell, "operator.truediv", "1", "0")
    ran = shell("submit", "square", "7", "--after", failed, "--wait")
    assert (ran.code, ran.out) == (Exit.FAILED, "") and "cancel" in ran.err
    assert shell("submit", "square", "7", "--after", failed, "--if-failed", "run", "--wait").out == "7 * 7 = 49\n"
    waits = submitted(shell, "square", "7", "--after", failed, "--if-failed", "wait")
    told = shell("show", waits).out
    assert "blocked" in told and failed in told and "if one fails: wait" in told
    assert shell("cancel", waits).out == f"{waits}  cancelled\n"


def test_a_task_that_is_like_one_that_waits_is_that_one(shell: Shell) -> None:
    like = ("submit", "square", "--queue", "shelf", "--unique", "queued", "--unique-key", "report")
    first, again = shell(*like, "7"), shell(*like, "--coalesce", "8")
    assert (first.code, first) == (Exit.OK, again)
    assert shell("show", "--json", first.out.strip()).thing["args"] == [8]


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        (("--expires", "teatime"), Exit.USAGE, "neither a length of time nor a time: expected something like 30m"),
        (("--unique", "often"), Exit.USAGE, "'often' is not one of 'queued', 'running'"),
        (("--after", "yesterday"), Exit.USAGE, "'yesterday' is no id of a task"),
        (("--atomic",), Exit.USAGE, "--atomic is for --file"),
        (("--coalesce",), Exit.FAILED, "choose unique as well"),
        (("--take", "args"), Exit.FAILED, "take: there is nothing to take without after"),
        (("--soft-timeout", "2m", "--timeout", "1m"), Exit.FAILED, "soft_timeout"),
        (("--after", NOBODYS), Exit.FAILED, NOBODYS),
    ],
)
def test_what_makes_no_sense_is_refused(shell: Shell, typed: tuple[str, ...], code: Exit, words: str) -> None:
    ran = shell("submit", "square", "7", *typed)
    assert (ran.code, ran.out) == (code, "") and words in ran.err


def test_standard_input_is_one_thing_at_a_time(shell: Shell) -> None:
    ran = shell("submit", "--file", "-", "--after", "-", stdin=NOBODYS)
    assert ran.code == Exit.USAGE and "(--file -) and the ids (--after -) at once" in ran.err


# -- files


def test_a_line_has_every_option(shell: Shell) -> None:
    times = {"expires": "1h", "soft_timeout": "5s", "timeout": "10s", "backoff": "1s", "backoff_cap": "1m"}
    kinship = {"unique": "queued", "unique_key": "a line", "coalesce": True}
    line = {"task": "square", "queue": "shelf", "requires": ["gpu"], "concurrency_key": "k", "retries": 2}
    ran = shell("submit", "--file", "-", stdin=json.dumps(line | times | kinship))
    assert (ran.code, ran.err) == (0, "")
    told = shell("show", "--json", ran.out.strip()).thing
    for name in ("queue", "requires", "concurrency_key", "retries"):
        assert told[name] == line[name]
    assert (told["soft_timeout"], told["timeout"], told["backoff_cap"]) == (5.0, 10.0, 60.0)


def test_lines_may_come_after_tasks_by_their_ids(shell: Shell) -> None:
    first = submitted(shell, "operator.add", "1", "1")
    line = json.dumps({"task": "operator.mul", "args": [21], "after": [first], "take": "args"})
    assert shell("submit", "--file", "-", "--wait", stdin=line).out == "42\n"


def test_all_lines_are_stored_or_none(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    lines = ['["square", 1]', '["square", 2]', json.dumps(["square", "x" * 70_000])]
    file.write_text("\n".join(lines))
    ran = shell("submit", "--file", file, "--atomic", "--queue", "whole")
    assert (ran.code, ran.out) == (Exit.FAILED, "") and "65,536" in ran.err
    assert shell("list", "--queue", "whole").out == ""
    file.write_text("\n".join(lines[:2]))
    ran = shell("submit", "--file", file, "--atomic", "--queue", "whole", "--json")
    assert [told["line"] for told in ran.things] == [1, 2]
    assert len(shell("list", "--queue", "whole", "--json").lines) == 2


def test_of_a_pipe_with_a_wrong_line_nothing_is_stored_either(shell: Shell) -> None:
    ran = shell("submit", "--file", "-", "--atomic", "--queue", "half", stdin='["square", 1]\nsquare 2\n')
    assert (ran.code, ran.out) == (Exit.FAILED, "")
    wrong, summary = ran.err.splitlines()
    assert wrong.startswith("qdist: <stdin>:2: ") and summary.endswith("so nothing was submitted")
    assert shell("list", "--queue", "half").out == ""


def test_more_than_a_thousand_tasks_are_not_one_thing(shell: Shell) -> None:
    ran = shell("submit", "--file", "-", "--atomic", stdin='["square", 1]\n' * 1001)
    assert (ran.code, ran.out) == (Exit.FAILED, "") and "<stdin>:1001: " in ran.err and "1000 tasks at most" in ran.err


def test_in_one_file_a_line_may_come_after_lines_above(shell: Shell) -> None:
    lines = [
        {"task": "operator.add", "args": [1, 1]},
        {"task": "operator.add", "args": [2, 2]},
        {"task": "operator.add", "args": [[0]], "after": [2, 1], "take": "list"},
    ]
    text = "\n".join(map(json.dumps, lines))
    assert shell("submit", "--file", "-", "--atomic", "--wait", stdin=text).lines == ["2", "4", "[4, 2, 0]"]
    for wrong in ([3], [0]):
        text = json.dumps({"task": "square", "args": [7], "after": wrong})
        ran = shell("submit", "--file", "-", "--atomic", stdin=text)
        assert ran.code == Exit.FAILED and f"{wrong[0]} is no line with a task above this one" in ran.err
    with pytest.raises(Refused, match="numbers of lines are for --atomic"):
        read_line(text.encode())


# -- a busy master


def test_a_master_that_is_overloaded_is_waited_for_and_that_is_said_once(shell: Shell, cluster: Cluster) -> None:
    admin = Shell(cluster, "admin")
    admin("pause", "narrow")
    process = shell.start("submit", "--file", "-", "--queue", "narrow", "--wait")
    lines = "".join(f'["square", {number}]\n' for number in range(6))
    ended: list[tuple[str, str]] = []
    thread = threading.Thread(target=lambda: ended.append(process.communicate(lines, DEADLINE)))
    thread.start()
    while len(shell("list", "--queue", "narrow", "--json").lines) < 2:
        assert process.poll() is None
    admin("resume", "narrow")
    thread.join()
    ((out, err),) = ended
    assert (process.returncode, out.splitlines()) == (Exit.OK, [f"{n} * {n} = {n * n}" for n in range(6)])
    assert err.count("\n") == 1 and "going on as soon as it takes more" in err


def test_one_task_for_an_overloaded_master_comes_later(shell: Shell, cluster: Cluster) -> None:
    admin = Shell(cluster, "admin")
    admin("pause", "narrow")
    ids = [submitted(shell, "square", "7", "--queue", "narrow") for _ in range(2)]
    ran = shell("submit", "square", "7", "--queue", "narrow")
    assert (ran.code, ran.out) == (Exit.LATER, "") and "narrow" in ran.err
    whole = shell.start("submit", "--file", "-", "--atomic", "--queue", "narrow")
    assert whole.stdin and whole.stderr
    whole.stdin.write('["square", 1]\n')
    whole.stdin.close()
    assert "trying again until it takes them (Ctrl-C ends that)" in whole.stderr.readline()
    shell("cancel", *ids)
    assert whole.wait(DEADLINE) == Exit.OK
    whole.stdout.close() if whole.stdout else None
    whole.stderr.close()
    admin("resume", "narrow")
