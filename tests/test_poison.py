"""Poison: tasks that do what no task should, on a real master and a real worker. What has to come of each of them.

All of them are swallowed by one worker, two at a time, among small tasks of neighbours: first without a cgroup, then
with one that the worker divides as under systemd. The outcome of each names its cause, the worker stays the process
that it was, and nothing is left over. Those that need a stage of their own are in `test_poison_alone.py`.
"""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from clearing import clearing
from conftest import CLUSTERS
from poison_ward import Ward
from shell import Shell

from qdistd.child.frames import CUT_OFF
from qdistd.model import State, id_text
from qdistd.views import AttemptView

TIMEOUT = 5.0
"""Seconds that a poison without an end has."""

AT_ONCE = 2
CHILDREN = 5
"""Poisons that the master lets run at once (the queue has this limit), and children of the worker: where one has died
its place is empty until the next one stands, and neighbours are to find a child all the same."""

GROSS = 20.0
STALL = 5.0
"""The neighbours' p99 may be so many times that of the quiet phase, or so many seconds, before the test fails.

The aim is 2, and both figures are printed. But a child that starts takes all of a processor, there may be two of these,
and other tests may run at the same time: a machine that is slow must not fail a test. What would fail is what harms
neighbours for real: a worker that waits for a dead child, for a pipe or for its log until somebody gives up. All of
these are seconds, and hit more than one task in a hundred.
"""

QUIET = 500
"""Tasks of neighbours before the poison."""


ANY = -1
"""Which exit status it is, is up to the version of Python."""


class Poison(NamedTuple):
    """`args` "FILE" stands for the path of a file of this very task. `said`: what `qdist show` has of its output."""

    name: str
    state: State
    kind: str
    words: str = ""
    args: tuple[Any, ...] = ()
    number: int = 0
    said: str = ""


def killer(name: str, number: int, words: str, said: str = "", args: tuple[Any, ...] = ()) -> Poison:
    """One that ends its process by signal."""
    return Poison(name, State.QUARANTINED, "signal", words, args, number, said)


def leaver(name: str, number: int, words: str, said: str = "", args: tuple[Any, ...] = ()) -> Poison:
    """One that ends its process with an exit status."""
    return Poison(name, State.QUARANTINED, "exit", words, args, number, said)


def endless(name: str, said: str = "") -> Poison:
    """One that never ends."""
    return Poison(name, State.FAILED, "timeout", f"{name} ran longer than its limit of {TIMEOUT:g} s", said=said)


def raiser(name: str, words: str, *args: Any) -> Poison:
    """One that raises; `words` are in the type, the message or the traceback."""
    return Poison(name, State.FAILED, "exception", words, args)


POISONS = (
    killer("segfault", signal.SIGSEGV, "SIGSEGV", "about to read address 0\nFatal Python error: Segmentation fault"),
    killer("abort", signal.SIGABRT, "SIGABRT", "Fatal Python error: Aborted"),
    killer("kill_oneself", signal.SIGKILL, "SIGKILL"),
    killer("kill_ones_group", signal.SIGKILL, "SIGKILL"),
    killer("burn_out", signal.SIGXCPU, "over its limit of processor time"),
    killer("become_another_program", signal.SIGKILL, "closed the pipes of its child, which was killed for it"),
    killer("write_everywhere", signal.SIGKILL, "wrote into pipes that are not its own"),
    killer("write_into_what_it_reads", signal.SIGKILL, "SIGKILL"),
    killer("forge", signal.SIGKILL, "wrote into pipes that are not its own", args=(float("inf"), 0, b"")),
    leaver("leave", 3, "exit status 3", "about to leave", (3,)),
    leaver("leave_from_a_thread", 4, "exit status 4"),
    leaver("close_everything", CUT_OFF, "the pipe of its results was closed"),
    leaver("close_everything_and_open", CUT_OFF, "the pipe of its results was closed or replaced", "", ("FILE",)),
    leaver("take_the_builtins_away", ANY, "ended by itself with exit status"),
    endless("hang", "about to hang\n"),
    endless("spin"),
    endless("spin_in_c"),
    endless("ignore_every_signal"),
    endless("block_every_signal"),
    Poison("take_at_once", State.FAILED, "memory", "wanted more memory than its limit of 600 MiB", (64 << 30,)),
    Poison("print_one_line", State.SUCCEEDED, "", args=(1 << 25,), said="xxxxxxxxx\n"),
    Poison("give_much", State.FAILED, "too-large", "is over 1048576 bytes", (1 << 27,)),
    Poison("give_many", State.FAILED, "too-large", "is over 1048576 bytes", (1_000_000,)),
    Poison("give_a_function", State.FAILED, "unserializable", "function is not plain data"),
    Poison("give_something_without_bottom", State.FAILED, "unserializable", "nested too deeply"),
    Poison("give_something_rude", State.FAILED, "unserializable", "poison_values.Unnamed is not plain data"),
    Poison("give_oneself", State.SUCCEEDED, ""),
    Poison("give_a_huge_number", State.SUCCEEDED, ""),
    raiser("raise_rude", "its text cannot be made: SystemExit"),
    raiser("raise_unnamed", "poison_values.UnnamedError"),
    raiser("raise_lie", "a lie"),
    raiser("raise_noted", "see my notes"),
    raiser("raise_long", "poison_values.LongError"),
    raiser("raise_anonymous", "from nowhere"),
    raiser("raise_nested", "a group (1 sub-exception)"),
    raiser("raise_chain", "link 9999"),
    raiser("raise_circle", "and round"),
    raiser("interrupt", "KeyboardInterrupt"),
    raiser("exit_politely", "good bye"),
    raiser("recurse", "maximum recursion depth exceeded"),
    raiser("cancel_rudely", "who?"),
    Poison("retry_rudely", State.FAILED, "retry", "poison_values.RudeRetry", (float("nan"),)),
    Poison("reject_rudely", State.FAILED, "rejected", "its text cannot be made: SystemExit"),
    Poison("report_rudely", State.SUCCEEDED, ""),
    Poison("truncate_everything", State.SUCCEEDED, ""),
    Poison("leave_a_zombie", State.SUCCEEDED, ""),
    Poison("return_twice", State.SUCCEEDED, ""),
)
"""What has to come of each."""


class Meal:
    """All poisons at once. `ward`: who has swallowed them; `seen`: what has become of each, by name."""

    def __init__(self, ward: Ward, folder: Path) -> None:
        self.ward = ward
        self.files = {poison.name: folder / poison.name for poison in POISONS}
        with ward.neighbours() as self.neighbours:
            self.neighbours.phase("quiet")
            self.neighbours.wait_for(QUIET)
            self.neighbours.phase("poison")
            handles = {poison.name: self._submit(poison) for poison in POISONS}
            self.seen = {name: ward.end(handle) for name, handle in handles.items()}
            self.neighbours.phase("after")

    def _submit(self, poison: Poison) -> Any:
        args = [str(self.files[poison.name]) if arg == "FILE" else arg for arg in poison.args]
        return self.ward.submit(poison.name, *args, queue="poison")


@pytest.fixture(scope="module", params=["plain", "cgroup"])
def meal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meal]:
    folder = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(clearing()) if request.param == "cgroup" else None
        ward = Ward(
            folder,
            processes=CHILDREN,
            home=home,
            master={"queue": {"poison": {"concurrency": AT_ONCE}}},
            timeout=TIMEOUT,
            memory="600 MiB",
        )
        stack.callback(ward.close)
        yield Meal(ward, folder)


@pytest.fixture(autouse=True)
def logs(meal: Meal, request: pytest.FixtureRequest) -> None:
    """A failing test shows the logs of the ward."""
    request.node.stash[CLUSTERS] = [meal.ward.cluster]


@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.name)
def test_the_outcome_of_a_poison_names_its_cause(meal: Meal, poison: Poison) -> None:
    view = meal.seen[poison.name]
    last = view.attempts[-1]
    assert view.state is poison.state, last.failure
    assert (last.failure.kind if last.failure else "") == poison.kind
    assert poison.number in (ANY, last.failure.number if last.failure else 0)
    assert poison.words in everything_said_of(last)
    assert poison.said in last.output.decode(errors="replace")


@pytest.mark.parametrize("poison", [poison for poison in POISONS if poison.state is State.QUARANTINED], ids=str)
def test_a_poison_that_kills_its_process_is_set_aside_after_three_times(meal: Meal, poison: Poison) -> None:
    view = meal.seen[poison.name]
    assert [attempt.outcome for attempt in view.attempts] == ["crashed"] * 3
    for attempt in view.attempts:
        assert attempt.failure
        assert poison.number in (ANY, attempt.failure.number)


def test_what_was_opened_where_a_pipe_was_is_not_written_to(meal: Meal) -> None:
    assert meal.files["close_everything_and_open"].read_bytes() == b""


@pytest.mark.parametrize(("name", "words"), [("give_oneself", "…"), ("give_a_huge_number", "0x")])
def test_a_result_that_json_cannot_say_is_shown_all_the_same(meal: Meal, name: str, words: str) -> None:
    shell, task = Shell(meal.ward.cluster), id_text(meal.seen[name].id)
    assert words in shell("show", task).out
    assert words in str(shell("show", "--json", task).thing["result"])
    assert words in shell("result", task).out


def test_arguments_that_json_cannot_say_are_shown_all_the_same(meal: Meal) -> None:
    task = meal.ward.submit("echo", 10**10_000)
    meal.ward.end(task)
    assert "0x" in Shell(meal.ward.cluster)("show", task.id).out


def test_a_forged_result_that_is_no_value_is_shown_as_bytes(meal: Meal) -> None:
    task = meal.ward.submit("forge", 1.0, 0, b"nonsense")
    meal.ward.end(task)
    assert "bm9uc2Vuc2U=" in Shell(meal.ward.cluster)("show", task.id).out
    assert Shell(meal.ward.cluster)("show", "--json", task.id).thing["result"] == {"base64": "bm9uc2Vuc2U="}


def test_neighbours_hardly_notice(meal: Meal, capsys: pytest.CaptureFixture[str]) -> None:
    quiet, poison = meal.neighbours.p99("quiet"), meal.neighbours.p99("poison")
    with capsys.disabled():
        counts = f"{meal.neighbours.count('quiet')} and {meal.neighbours.count('poison')} tasks"
        print(f"\nneighbours of poison, p99: quiet {quiet * 1e3:.2f} ms, poison {poison * 1e3:.2f} ms ({counts})")
    assert poison < max(GROSS * quiet, STALL)


def test_the_log_of_the_worker_stays_short(meal: Meal) -> None:
    assert meal.ward.worker.log_file.stat().st_size < 10 << 20


def test_the_worker_stays_up_with_no_zombie_and_nothing_left_over(meal: Meal) -> None:
    meal.ward.unharmed()


def everything_said_of(attempt: AttemptView) -> str:
    failure = attempt.failure
    return "\n".join((failure.type, failure.message, failure.traceback)) if failure else ""
