"""The decorator: a function stays a function, and can be submitted with the options it was given."""

import asyncio
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import python
from office import PATIENCE, TASKS, Office
from test_executor import configure

import qdistd
from qdistd import task
from qdistd.client.task import TaskFunction
from qdistd.protocol import Queues


@task(queue="default", retries=2, timeout=30)
def double(n: int) -> int:
    """Twice as much."""
    return n * 2


@task(name="square")
def area(n: int) -> str:
    return f"here: {n * n}"


@task
def greet(name: str, *, loud: bool = False) -> str:
    return f"hello {name}{'!' * loud}"


TASKS[f"{__name__}.double"] = double
TASKS[f"{__name__}.greet"] = greet


def test_a_task_is_still_the_function_it_was() -> None:
    assert double(4) == 8
    assert area(3) == "here: 9"
    assert greet("you", loud=True) == "hello you!"
    assert (double.__name__, double.__doc__, double.__module__) == ("double", "Twice as much.", __name__)
    assert str(inspect.signature(double)) == "(n: int) -> int"
    assert repr(double) == f"<qdistd.task {__name__}.double>"
    assert asyncio.iscoroutinefunction(double) is False


def test_a_task_is_submitted_through_the_client_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Office(tmp_path) as office, office.client() as q:
        configure(office, tmp_path, monkeypatch)
        handle = double.submit(21)
        assert handle.result(PATIENCE) == 42
        shown = q.show(handle)
        assert (shown.name, shown.retries, shown.timeout) == (f"{__name__}.double", 2, 30.0)
        assert area.submit(3).result(PATIENCE) == "3 * 3 = 9"
        assert greet.submit("you", loud=True).result(PATIENCE) == "hello you!"
        assert list(double.map(range(5))) == [0, 2, 4, 6, 8]
        later = double.options(delay=86400).submit(1)
        assert (later.state(), q.show(later).retries) == (qdistd.State.SCHEDULED, 2)


def test_a_client_submits_a_task_with_the_options_of_both(tmp_path: Path) -> None:
    with Office(tmp_path) as office, office.client() as q:
        plain, urgent = q.submit(double, 1), q.options(priority=-9, timeout=5).submit(double, 2)
        assert (plain.result(PATIENCE), urgent.result(PATIENCE)) == (2, 4)
        shown = q.show(urgent)
        assert (shown.priority, shown.timeout, shown.retries) == (-9, 5.0, 2)
        assert q.show(plain).timeout == 30.0
        assert q.ask(Queues()).queues[0].name == "default"


def test_a_wrong_option_is_refused_where_it_stands() -> None:
    with pytest.raises(qdistd.Refused, match="there is no option 'retry'; did you mean 'retries'"):
        task(retry=5)(len)  # type: ignore[call-overload] # that is the point


def test_a_nested_task_runs_here_and_is_refused_elsewhere() -> None:
    @task
    def nested() -> int:
        return 1

    assert isinstance(nested, TaskFunction)
    assert nested() == 1
    with pytest.raises(qdistd.Refused, match="defined inside a function"):
        nested.options(queue="mail")


def test_everything_has_its_name_in_the_package_and_is_loaded_when_named() -> None:
    code = (
        "import sys, qdistd;"
        "loaded = {'asyncio', 'msgspec', 'qdistd.client'} & set(sys.modules); assert not loaded, loaded;"
        "qdistd.task; loaded = {'asyncio', 'sqlite3'} & set(sys.modules); assert not loaded, loaded;"
        "print(*(getattr(qdistd, name) for name in qdistd.__all__))"
    )
    done = subprocess.run(python("-c", code), capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(dir(qdistd)) == set(qdistd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        qdistd.Cleint  # type: ignore[attr-defined] # noqa: B018 - that is the point
    assert sys.modules["qdistd"].__version__ == qdistd.__version__
