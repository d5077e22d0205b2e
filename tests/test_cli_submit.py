"""What `qdist submit` prints is on the master's disk, and of a file of tasks no line is lost silently."""

import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from cluster import Cluster
from daemons import DEADLINE
from shell import Ran, Shell

from qdistd.cli import words
from qdistd.cli.exits import Exit
from qdistd.cli.lines import Line, blocks, read_line
from qdistd.errors import Refused


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("submit")
    folder.chmod(0o700)
    tables = {"master": {"limits": {"payload": "1 KiB"}}, "worker": {"worker": {"tasks": ["qdistd.tasks", "operator"]}}}
    cluster = Cluster(folder, workers=1, **tables)
    yield cluster.start()
    cluster.close()


@pytest.fixture(scope="module")
def shell(cluster: Cluster) -> Shell:
    return Shell(cluster)


def shown(shell: Shell, task_id: str) -> dict[str, object]:
    told: dict[str, object] = shell("show", "--json", task_id.strip()).thing
    return told


# -- one task


def test_the_id_of_a_task_that_is_stored_is_printed(shell: Shell) -> None:
    ran = shell("submit", "square", "7")
    assert (ran.code, ran.err) == (0, "")
    assert shown(shell, ran.out)["args"] == [7]
    assert set(shell("submit", "square", "7", "--json").thing) == {"id"}


def test_an_acknowledged_task_outlives_the_master(shell: Shell, cluster: Cluster) -> None:
    task_id = shell("submit", "square", "7", "--queue", "later").out
    cluster.master.kill()
    cluster.master.start()
    assert shown(shell, task_id)["state"] == "ready"


def test_with_wait_the_result_is_printed(shell: Shell) -> None:
    assert shell("submit", "square", "7", "--wait") == Ran(0, "7 * 7 = 49\n", "")
    assert shell("submit", "operator.add", "2", "40", "--wait", "--json").thing["result"] == 42
    failed = shell("submit", "operator.truediv", "1", "0", "--wait")
    assert (failed.code, failed.out) == (1, "") and failed.err.startswith("qdist: ZeroDivisionError")


def test_arguments_are_json_or_text(shell: Shell) -> None:
    typed = ("7", "-7", "1.5", "true", "null", '"7"', '[1, "a"]', '{"a": 1}', "seven", "", "07", "NaN", "{", "-")
    task_id = shell("submit", "x", *typed, "--queue", "nobody", "--kw", "n=[1]", "--kw", "to=ann=b").out
    told = shown(shell, task_id)
    assert told["args"] == [7, -7, 1.5, True, None, "7", [1, "a"], {"a": 1}, "seven", "", "07", "NaN", "{", "-"]
    assert told["kwargs"] == {"n": [1], "to": "ann=b"}


def test_a_dash_is_an_option_unless_it_starts_a_number_or_follows_two(shell: Shell) -> None:
    for typed in ("-x", "--prioritty", "-7x"):
        ran = shell("submit", "square", typed)
        assert (ran.code, ran.out) == (Exit.USAGE, "") and f"No such option: {typed}" in ran.err
    assert shown(shell, shell("submit", "square", "--queue", "nobody", "--", "-x", "--y").out)["args"] == ["-x", "--y"]


def test_options_reach_the_task(shell: Shell) -> None:
    options = ("--queue", "nobody", "--priority", "-5", "--delay", "1h", "--retries", "2", "--timeout", "1m 30s")
    told = shown(shell, shell("submit", "square", "7", *options, "--backoff", "2s").out)
    assert (told["queue"], told["priority"], told["retries"], told["timeout"]) == ("nobody", -5, 2, 90.0)
    assert told["state"] == "scheduled"
    told = shown(shell, shell("submit", "square", "7", "--queue", "nobody", "--at", "2031-01-02T03:04:30Z").out)
    assert told["state"] == "scheduled"
    assert abs(datetime.fromisoformat(str(told["run_at"])).timestamp() - 1925089470) < 10


def test_a_key_makes_it_the_same_task(shell: Shell) -> None:
    first, again = (shell("submit", "square", "7", "--queue", "nobody", "--key", "once") for _ in range(2))
    assert first == again and shown(shell, first.out)["key"] == "once"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ((), "Missing argument 'TASK'"),
        (("square", "--delay", "5 parsecs"), "no duration"),
        (("square", "--at", "teatime"), "'teatime' is no time: expected 18:30"),
        (("square", "--kw", "n"), "'n' has no name and value"),
        (("square", "--priority", "1001"), "1001 is not in the range"),
        (("square", "--file", "x.jsonl"), "what is 'square' for?"),
    ],
)
def test_a_wrong_word_is_a_mistake_of_the_command_line(shell: Shell, typed: tuple[str, ...], words: str) -> None:
    ran = shell("submit", *typed)
    assert (ran.code, ran.out) == (Exit.USAGE, "") and words in ran.err


def test_what_the_master_refuses_is_a_failure(shell: Shell) -> None:
    ran = shell("submit", "square", "x" * 2000)
    assert (ran.code, ran.out) == (Exit.FAILED, "") and "1,024" in ran.err.replace("1024", "1,024")


# -- times


def test_a_time_of_day_is_the_next_one() -> None:
    now = datetime.now(UTC)
    for hours in (-1, 1):
        clock = (now + timedelta(hours=hours)).astimezone().strftime("%H:%M")
        meant = words.moment(clock)
        assert meant.strftime("%H:%M") == clock
        assert now < meant <= now + timedelta(hours=25)  # a day may have 25 hours


def test_a_time_without_a_zone_is_local() -> None:
    assert words.moment("2031-01-02T03:04") == datetime(2031, 1, 2, 3, 4).astimezone()
    with pytest.raises(click.BadParameter, match="is no time"):
        words.moment("25:00")


# -- files


def test_every_line_of_a_file_becomes_a_task(shell: Shell, tmp_path: Path) -> None:
    lines = ['["square", 2]', "", '{"task": "operator.add", "args": [1, 2], "priority": 3}', '["x"]']
    file = tmp_path / "tasks.jsonl"
    file.write_text("\n".join(lines))
    ran = shell("submit", "--file", file, "--queue", "files", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert [told["line"] for told in ran.things] == [1, 3, 4]
    tasks = [shown(shell, told["id"]) for told in ran.things]
    assert [(task["task"], task["args"], task["priority"]) for task in tasks] == [
        ("square", [2], 0),
        ("operator.add", [1, 2], 3),
        ("x", [], 0),
    ]
    assert {task["queue"] for task in tasks} == {"files"}


def test_results_of_a_file_come_in_the_order_of_its_lines(shell: Shell) -> None:
    lines = "".join(f'["operator.truediv", 6, {number}]\n' for number in (1, 0, 2))
    ran = shell("submit", "--file", "-", "--wait", stdin=lines)
    assert (ran.code, ran.lines) == (Exit.FAILED, ["6.0", "3.0"])
    assert ran.err.startswith("qdist: <stdin>:2: ZeroDivisionError")
    told = shell("submit", "--file", "-", "--wait", "--json", stdin=lines).things
    assert [(one["line"], one["state"]) for one in told] == [(1, "succeeded"), (2, "failed"), (3, "succeeded")]


def test_a_file_with_a_wrong_line_is_not_submitted_at_all(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('["square", 1]\nsquare 2\n["square", 3]\n{"task": "square", "prority": 1}\n')
    ran = shell("submit", "--file", file, "--queue", "all or nothing")
    assert (ran.code, ran.out) == (Exit.FAILED, "")
    second, fourth, summary = ran.err.splitlines()
    assert second.startswith(f"qdist: {file}:2: this is no JSON from column 1 on")
    assert fourth == f"qdist: {file}:4: there is no option 'prority'; did you mean 'priority'?"
    assert summary == f"qdist: 2 of 4 lines of {file} are wrong, so nothing was submitted"
    assert shell("list", "--queue", "all or nothing").out == ""


def test_of_a_pipe_only_the_wrong_lines_are_left_out(shell: Shell) -> None:
    lines = '["square", 1]\nsquare 2\n' + json.dumps(["square", "x" * 2000]) + '\n["square", 3]\n'
    ran = shell("submit", "--file", "-", "--queue", "pipe", "--json", stdin=lines)
    assert (ran.code, [told["line"] for told in ran.things]) == (Exit.FAILED, [1, 4])
    wrong, large = ran.err.splitlines()
    assert wrong.startswith("qdist: <stdin>:2: ") and large.startswith("qdist: <stdin>:3: ")
    ids = [told["id"] for told in ran.things]
    assert [task["id"] for task in shell("list", "--queue", "pipe", "--json").things] == ids[::-1]


def test_a_file_with_a_key_may_be_submitted_again(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('["square", 1]\n["square", 2]\n{"task": "square", "key": "own"}\n')
    first, again = (shell("submit", "--file", file, "--queue", "again", "--key", "import") for _ in range(2))
    assert first == again and len(first.lines) == 3
    assert len(shell("list", "--queue", "again", "--json").lines) == 3
    assert [shown(shell, line)["key"] for line in first.lines] == ["import:1", "import:2", "own"]


def test_a_slow_pipe_is_answered_line_by_line(shell: Shell) -> None:
    process = shell.start("submit", "--file", "-", "--queue", "slow")
    assert process.stdin and process.stdout
    for _ in range(3):
        process.stdin.write('["square", 1]\n')
        process.stdin.flush()
        assert len(process.stdout.readline()) == 37
    assert process.communicate(timeout=DEADLINE) == ("", "")
    assert process.returncode == Exit.OK


def test_ctrl_c_tells_what_is_submitted_and_what_is_not(shell: Shell) -> None:
    process = shell.start("submit", "--file", "-", "--queue", "interrupted")
    assert process.stdin and process.stdout
    process.stdin.write('["square", 1]\n["square", 2]\n["square", 3]')
    process.stdin.flush()
    printed = [process.stdout.readline(), process.stdout.readline()]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (Exit.INTERRUPTED, "")
    assert err == "qdist: interrupted; 2 tasks are submitted; of <stdin> nothing after line 2 is\n"
    listed = [task["id"] for task in shell("list", "--queue", "interrupted", "--json").things]
    assert listed == [line.strip() for line in reversed(printed)]


def test_a_master_that_goes_away_leaves_nobody_in_doubt(shell: Shell, cluster: Cluster) -> None:
    process = shell.start("--patience", "200ms", "submit", "--file", "-", "--queue", "doubt")
    assert process.stdin and process.stdout
    process.stdin.write('["square", 1]\n')
    process.stdin.flush()
    process.stdout.readline()
    cluster.master.kill()
    out, err = process.communicate('["square", 2]\n["square", 3]\n', timeout=DEADLINE)
    cluster.master.start()
    assert (process.returncode, out) == (Exit.LATER, "")
    assert "1 tasks are submitted; lines 2 to 3 may be too; of <stdin> nothing after line 3 is" in err


def test_a_progress_bar_is_for_people(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('["square", 1]\n' * 3)
    assert "submitting" in shell.on_a_terminal("submit", "--file", str(file), "--queue", "bar")
    assert shell("submit", "--file", file, "--queue", "bar").err == ""


# -- lines


class Trickle:
    """A file that gives what it is told to give."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces, b""]

    def read1(self, _size: int) -> bytes:
        return self._pieces.pop(0)


def test_lines_may_be_cut_anywhere() -> None:
    text = b'["a"]\r\n\n["b"]\n["c"]'
    for cut in range(1, len(text)):
        numbered = [line for block in blocks(Trickle(text[:cut], text[cut:])) for line in block]
        assert [(number, line.strip()) for number, line in numbered] == [(1, b'["a"]'), (3, b'["b"]'), (4, b'["c"]')]


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(Refused, match="line 2 has more than"):
        list(blocks(Trickle(b"[]\n", b"x" * (16 * 1024 * 1024 + 1))))


def test_a_line_is_a_task_with_its_options() -> None:
    assert read_line(b'["a", 1]') == Line("a", [1], {}, {})
    assert read_line(b'{"task": "a", "kwargs": {"x": 1}, "delay": "5m"}') == Line("a", [], {"x": 1}, {"delay": 300.0})
    at = read_line(b'{"task": "a", "at": "2031-01-02T03:04:05Z"}').choices["run_at"]
    assert at == datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (b"[]", "there is no name of a task"),
        (b"7", "there is no name of a task"),
        (b'{"args": [7]}', "there is no name of a task"),
        (b'["a", NaN]', "NaN is no JSON"),
        (b'["a", 1', "no JSON from column"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"task": "a", "args": 7}', "args must be an array"),
        (b'{"task": "a", "delay": "soon"}', "delay: .* no duration"),
        (b'{"task": "a", "priority": "high"}', "priority"),
        (b'{"task": "a", "when": 7}', "there is no option 'when'"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(text: bytes, wrong: str) -> None:
    with pytest.raises(Refused, match=wrong):
        read_line(text)
