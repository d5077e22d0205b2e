"""The child: what it may run, what it says of the end of a task, and its pipes. See `test_pool` for whole ones."""

import contextlib
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import task_samples
from poolside import TASKS

from qdistd.call import decode_failure, decode_value, encode_call, encode_value
from qdistd.child.catalog import Catalog
from qdistd.child.conveyor import Assignment, Conveyor
from qdistd.child.failures import LONGEST_TRACEBACK, failure_of
from qdistd.child.frames import READY, RESULT, TAKES, TICKET, Care, Setup, details_of, task_frame
from qdistd.child.runner import Runner
from qdistd.child.stage import Stage
from qdistd.errors import NotAllowed, NotFound
from qdistd.model import Failure, Grant, Outcome
from qdistd.pool.spawn import Spawned, spawn

# -- what may run


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("add", task_samples.add),
        ("task_samples.add", task_samples.add),
        ("task_samples:add", task_samples.add),
        ("factorial", "math"),
        ("math.factorial", "math"),
        ("operator.add", "operator"),
        ("shout", task_samples.shout),
        ("task_samples.shout", task_samples.shout),
        ("loud/cry", task_samples.cry),
        ("Named", task_samples.Named),
    ],
)
def test_public_functions_of_the_modules_may_run(name: str, function: object) -> None:
    found = Catalog(["task_samples", "math", "operator"]).find(name)
    if isinstance(function, str):
        function = getattr(sys.modules[function], name.rpartition(".")[2])
    assert found is function


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("no_such", NotFound, "no module here has such a function. Tasks may come from task_samples, math"),
        ("task_samples.no_such", NotFound, "task_samples has no such function"),
        ("task_samples.", NotFound, "has no such function"),
        ("", NotFound, "no module here"),
        (".", NotFound, "no module here"),
        ("system", NotAllowed, "task_samples.system was only imported there"),
        ("task_samples.system", NotAllowed, "was only imported there: name it by the module that defines it"),
        ("task_samples.os", NotAllowed, "is module, not a function"),
        ("task_samples.CONSTANT", NotAllowed, "is int, not a function"),
        ("task_samples._private", NotAllowed, "is private"),
        ("_private", NotAllowed, "is private"),
        ("task_samples.__builtins__", NotAllowed, "is private"),
        ("task_samples.Named.__call__", NotAllowed, "task_samples.Named is not allowed here"),
        ("os.system", NotAllowed, "os is not allowed here"),
        ("task_samples.os.system", NotAllowed, "task_samples.os is not allowed here"),
        ("builtins.eval", NotAllowed, r"change \[worker\] tasks"),
    ],
)
def test_nothing_else_may_run(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Catalog(["task_samples", "math"]).find(name)


def test_the_first_module_that_has_a_function_gives_it() -> None:
    assert Catalog(["posixpath", "ntpath"]).find("join") is not Catalog(["ntpath", "posixpath"]).find("join")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 +", "SyntaxError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("class E(Exception):\n def __str__(self): raise E\nraise E", "E: (its text cannot be made: broken_"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_reason(
    source: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    catalog = Catalog([name, "task_samples"])
    assert why in catalog.broken[name]
    assert catalog.find("add") is task_samples.add
    for task in (f"{name}.add", "no_such"):
        with pytest.raises(NotFound) as error:
            catalog.find(task)
        assert why in str(error.value)


# -- how a task ends


def run_payload(name: str, payload: bytes, limit: int = 0) -> tuple[int, bytes]:
    task = Assignment(1, name, bytearray(payload), Care.NONE, 0, 0.0, bytearray())
    stage = Stage()
    stage.begin(task)
    return Runner(Catalog(["task_samples"]), stage, limit).run(task)


def run(name: str, *args: object, limit: int = 0, **kwargs: object) -> Any:
    """The value of a success, or the failure."""
    outcome, value = run_payload(name, encode_call(args, kwargs), limit)
    return decode_value(value) if outcome is Outcome.SUCCEEDED else decode_failure(value)


def test_a_task_that_returns_has_succeeded() -> None:
    assert run("add", 3, b=4) == 7


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("recurse", "RecursionError", "maximum recursion depth exceeded"),
        ("exit_politely", "SystemExit", "good bye"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("add", "TypeError", "add() missing 1 required positional argument: 'a'"),
        ("raise_chain", "RuntimeError", "could not add"),
        ("raise_rude", "task_samples.RudeError", "(its text cannot be made: SystemExit)"),
    ],
)
def test_whatever_a_task_raises_is_its_failure(name: str, kind: str, message: str) -> None:
    failure = run(name)
    assert (failure.kind, failure.type, failure.message) == ("exception", kind, message)


def test_a_traceback_shows_the_user_his_own_code_and_the_cause() -> None:
    text = run("raise_chain").traceback
    assert text.index("TypeError: can only concatenate") < text.index("RuntimeError: could not add")
    assert 'add("a", 1)' in text
    assert "runner.py" not in text


def test_a_long_failure_is_cut_and_keeps_its_end() -> None:
    failure = run("raise_much")
    assert len(failure.message) == 2000
    assert len(failure.traceback) == LONGEST_TRACEBACK
    assert failure.traceback.endswith("long long \n")


def test_text_that_is_no_utf_8_is_made_visible() -> None:
    failure = failure_of(OSError("no file \udcff"))
    assert failure.message == "no file \\udcff"


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("give_lambda", (), "the result of give_lambda cannot be sent: function is not plain data"),
        ("Named", ("x",), "the result of Named cannot be sent: task_samples.Named is not plain data"),
    ],
)
def test_a_result_that_is_not_plain_data_is_refused(name: str, args: tuple[object, ...], words: str) -> None:
    failure = run(name, *args)
    assert failure.kind == "unserializable"
    assert failure.message.startswith(words)


def test_a_result_over_the_limit_is_refused_with_advice() -> None:
    failure = run("give_bytes", 2000, limit=1000)
    assert failure.kind == "too-large"
    assert "return its path" in failure.message
    assert run("give_bytes", 900, limit=1000) == b"x" * 900


def test_a_payload_that_is_no_call_is_refused() -> None:
    outcome, value = run_payload("add", b"rubbish")
    assert outcome is Outcome.FAILED
    assert decode_failure(value).kind == "undecodable"


@pytest.mark.parametrize(("name", "kind"), [("no_such", "not-found"), ("os.system", "not-allowed")])
def test_a_task_that_may_not_run_says_so_by_its_kind(name: str, kind: str) -> None:
    failure = run(name)
    assert isinstance(failure, Failure)
    assert failure.kind == kind


# -- the pipes


def grant(payload: bytes = b"payload", name: str = "name", **more: Any) -> Grant:
    return Grant(b"i" * 16, 3, name, payload, "mail", **more)


class Ends:
    """A conveyor in this process, and the ends of the pool."""

    def __init__(self) -> None:
        tasks, self.tasks = os.pipe()
        self.tickets_back, self.tickets = os.pipe()
        self.results, results = os.pipe()
        os.set_blocking(self.tickets_back, False)
        self.conveyor = Conveyor(Setup(tasks, self.tickets_back, results, -1, -1, ()))
        self._all = [tasks, self.tasks, self.tickets_back, self.tickets, self.results, results]

    def send(self, ticket: int, payload: bytes = b"payload") -> None:
        os.write(self.tasks, task_frame(ticket, grant(payload)))

    def admit(self, *tickets: int) -> None:
        os.write(self.tickets, b"".join(map(TICKET.pack, tickets)))

    def close_one(self, descriptor: int) -> None:
        os.close(descriptor)
        self._all.remove(descriptor)

    def close(self) -> None:
        for descriptor in self._all:
            os.close(descriptor)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


def test_a_task_is_taken_with_its_ticket(ends: Ends) -> None:
    ends.send(1)
    ends.admit(1)
    taken = ends.conveyor.take()
    assert taken
    assert taken[:4] == (1, "name", bytearray(b"payload"), Care.NONE)
    assert (taken.soft, details_of(taken.details)) == (0.0, (b"i" * 16, 3, 0.0, "mail", ()))


def test_a_task_comes_with_its_limits_and_its_inputs(ends: Ends) -> None:
    values = (encode_value(1), b"", encode_value("three"))
    os.write(ends.tasks, task_frame(1, grant(inputs=values, take="list"), limit=9.0, soft=7.0))
    ends.admit(1)
    taken = ends.conveyor.take()
    assert taken
    assert (taken.payload, taken.soft, TAKES[taken.take]) == (b"payload", 7.0, "list")
    assert details_of(taken.details) == (b"i" * 16, 3, 9.0, "mail", values)


@pytest.mark.parametrize("care", Care)
def test_a_task_comes_with_the_care_it_wants(ends: Ends, care: Care) -> None:
    os.write(ends.tasks, task_frame(1, grant(), care))
    ends.admit(1)
    taken = ends.conveyor.take()
    assert taken and taken.care is care


def test_a_task_whose_ticket_was_taken_back_is_skipped(ends: Ends) -> None:
    for ticket in (1, 2, 3, 4):
        ends.send(ticket, str(ticket).encode())
    ends.admit(1, 2, 3)
    assert taken(ends) == (1, b"1")
    assert os.read(ends.tickets_back, 100) == TICKET.pack(2) + TICKET.pack(3)
    ends.admit(4)
    assert taken(ends) == (4, b"4")


def test_a_task_larger_than_the_pipe_is_taken_whole(ends: Ends) -> None:
    payload = os.urandom(1 << 20)
    writer = threading.Thread(target=_write_all, args=(ends.tasks, task_frame(1, grant(payload))))
    writer.start()
    ends.admit(1)
    assert taken(ends) == (1, payload)
    writer.join()


def test_a_child_without_a_task_waits_and_ends_with_its_tickets(ends: Ends) -> None:
    taken: list[object] = []
    child = threading.Thread(target=lambda: taken.append(ends.conveyor.take()))
    child.start()
    ends.close_one(ends.tickets)
    child.join()
    assert taken == [None]


def test_a_result_is_one_frame(ends: Ends) -> None:
    ends.conveyor.put(7, Outcome.FAILED, b"value", 1.0, 2.0, 3.0, 4)
    data = os.read(ends.results, 1000)
    assert RESULT.unpack(data[: RESULT.size]) == (5, Outcome.FAILED, 7, 1.0, 2.0, 3.0, 4)
    assert data[RESULT.size :] == b"value"


def taken(ends: Ends) -> tuple[int, bytearray]:
    task = ends.conveyor.take()
    assert task
    return task.ticket, task.payload


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


# -- a whole child


@contextlib.contextmanager
def born() -> Iterator[Spawned]:
    """A child that stands."""
    child = spawn(TASKS)
    try:
        _wait(child.results)
        head = os.read(child.results, 4096)[: RESULT.size]
        assert RESULT.unpack(head)[2] == READY
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child.pid, 0)
        for descriptor in (child.tasks, child.tickets, *child.kept):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def begin(child: Spawned, name: str, *args: object) -> None:
    os.write(child.tasks, task_frame(1, grant(encode_call(args, {}), name)))
    os.write(child.tickets, TICKET.pack(1))


def _wait(descriptor: int) -> None:
    assert select.select([descriptor], [], [], 30.0)[0]


def test_when_the_worker_is_gone_a_busy_child_and_all_it_has_started_go_too(tmp_path: Path) -> None:
    news = tmp_path / "news"
    os.mkfifo(news)
    with born() as child:
        begin(child, "hold_with_grandchild", str(news), "/dev/zero")
        grandchild = os.pidfd_open(int(news.read_text()))
        os.close(child.life)
        _wait(child.exited)
        _wait(grandchild)
        os.close(grandchild)
        assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == -signal.SIGKILL


def test_an_idle_child_ends_by_itself_when_there_are_no_more_tickets() -> None:
    with born() as child:
        os.close(child.tickets)
        _wait(child.exited)
        assert os.waitpid(child.pid, 0)[1] == 0


def test_a_child_goes_by_its_name_and_dies_before_the_worker_when_memory_runs_out() -> None:
    with born() as child:
        process = Path(f"/proc/{child.pid}")
        assert (process / "comm").read_text() == "qdist-child\n"
        assert int((process / "oom_score_adj").read_text()) >= 500


def test_a_child_is_found_from_wherever_qdist_was_imported(tmp_path: Path) -> None:
    code = f"""
import os, select, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from qdistd.pool.settings import PoolSettings
from qdistd.pool.spawn import spawn
child = spawn(PoolSettings(1, ("math",)))
select.select([child.results], [], [], 30.0)
print(os.read(child.results, 4096)[-13:].decode())
"""
    # The interpreter under a virtual environment has no qdistd installed; msgspec it needs to be told of.
    python = getattr(sys, "_base_executable", sys.executable)
    environment = {"PYTHONPATH": str(Path(msgspec.__file__).parents[1])}
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert done.stdout == b'{"broken":{}}\n'


def test_cold_start() -> None:
    """Prints how long a child takes from nothing to the result of its first task; nothing is asserted."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        with born() as child:
            begin(child, "add", 1, 2)
            _wait(child.results)
            times.append(time.perf_counter() - start)
    print(f"from nothing to the first result: {min(times) * 1e3:.0f} ms (best of 5)")


def test_tickets_are_written_and_read_whole() -> None:
    assert TICKET.size == struct.calcsize("=Q") == 8
