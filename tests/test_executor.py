"""The executor does what `concurrent.futures` says, with tasks."""

import concurrent.futures
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from office import PATIENCE, Office

import qdistd
from qdistd.client.executor import Executor


@pytest.fixture
def q(tmp_path: Path) -> Iterator[qdistd.Client]:
    with Office(tmp_path) as office, office.client() as client:
        yield client


@pytest.fixture
def executor(q: qdistd.Client) -> Iterator[Executor]:
    with qdistd.Executor(q) as executor:
        yield executor


def test_a_future_gives_the_result(executor: Executor, q: qdistd.Client) -> None:
    future = executor.submit(math.factorial, 20)
    assert future.result(PATIENCE) == math.factorial(20)
    assert (future.done(), future.running(), future.cancelled(), future.cancel()) == (True, False, False, False)
    assert future.exception() is None
    assert q.result(future.handle.id) == math.factorial(20)


def test_a_future_gives_the_error(executor: Executor) -> None:
    future = executor.submit(math.sqrt, -1)
    assert isinstance(future.exception(PATIENCE), qdistd.TaskFailed)
    with pytest.raises(qdistd.TaskFailed, match="ValueError: math domain error"):
        future.result()


def test_map_and_the_functions_of_concurrent_futures_work(executor: Executor) -> None:
    assert list(executor.map(math.pow, range(50), range(50))) == [math.pow(n, n) for n in range(50)]
    futures = [executor.submit(math.factorial, n) for n in range(50)]
    assert set(concurrent.futures.as_completed(futures, PATIENCE)) == set(futures)
    assert concurrent.futures.wait(futures).not_done == set()


def test_callbacks_are_called(executor: Executor) -> None:
    called = threading.Event()
    executor.submit(math.factorial, 5).add_done_callback(lambda _: called.set())
    assert called.wait(PATIENCE)


def test_a_callback_may_submit_and_must_not_wait(executor: Executor) -> None:
    seen: list[concurrent.futures.Future[int]] = []
    refused: list[qdistd.Refused] = []
    over = threading.Event()

    def go_on(_: object) -> None:
        seen.append(executor.submit(math.factorial, 4))
        try:
            seen[0].result()
        except qdistd.Refused as error:
            refused.append(error)
        over.set()

    executor.submit(math.factorial, 5).add_done_callback(go_on)
    assert over.wait(PATIENCE)
    assert seen[0].result(PATIENCE) == 24
    assert "must not wait" in str(refused[0])


def test_a_cancelled_future_cancels_its_task(q: qdistd.Client) -> None:
    executor = qdistd.Executor(q, queue="idle")
    future = executor.submit(math.factorial, 5)
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    assert concurrent.futures.wait([future], PATIENCE).done == {future}
    assert isinstance(future.handle.exception(PATIENCE), qdistd.TaskCancelled)


def test_a_future_of_nothing_times_out(q: qdistd.Client) -> None:
    future = qdistd.Executor(q, queue="idle").submit(math.factorial, 5)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0.01)


def test_shutdown_waits_and_then_takes_no_more(q: qdistd.Client) -> None:
    executor = qdistd.Executor(q, delay=0.2)
    future = executor.submit(math.factorial, 5)
    executor.shutdown()
    assert future.done()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(math.factorial, 5)
    assert q.submit("square", 1).result(PATIENCE) == "1 * 1 = 1"


def test_shutdown_can_cancel_what_has_not_ended(q: qdistd.Client) -> None:
    executor = qdistd.Executor(q, queue="idle")
    futures = [executor.submit(math.factorial, n) for n in range(10)]
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() and future.handle.done() for future in futures)


def test_an_executor_of_its_own_client_goes_on_after_a_hasty_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Office(tmp_path) as office:
        configure(office, tmp_path, monkeypatch)
        executor = qdistd.Executor(delay=0.1)
        future = executor.submit(math.factorial, 5)
        executor.shutdown(wait=False)
        assert future.result(PATIENCE) == 120
        executor.shutdown()


def configure(office: Office, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this master the one of the configuration."""
    key = folder / "submit.key"
    key.touch(mode=0o600)
    key.write_bytes(b"s" * 32)
    config = folder / "client.toml"
    config.write_text(f'[client]\nmasters = ["{office.address}"]\nkey = "{key}"\n')
    monkeypatch.setenv("QDIST_CONFIG", str(config))
