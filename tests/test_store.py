"""One suite for any store: every test takes `make_store`, which opens the same store again each time it is called."""

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import pytest

from qdistd.errors import ConfigError
from qdistd.lifecycle import Policy, after
from qdistd.model import Outcome, State, Task
from qdistd.store import LARGEST_LEASE, Arrival, Ending, Page, Store, StoreFull, WorkerRow, open_store
from qdistd.store.schema import STEPS

NOW = 1_000_000.0
WORKER = WorkerRow(b"w" * 16, "w1", "host", 42)


@pytest.fixture(params=["sqlite"])
def make_store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[], Store]]:
    opened: list[Store] = []

    def make() -> Store:
        for store in opened:
            store.close()
        opened[:] = [open_store(f"{request.param}://{tmp_path}/qdist.db")]
        return opened[0]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(make_store: Callable[[], Store]) -> Store:
    return make_store()


class Change:
    """`with Change(store):` one transaction."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __enter__(self) -> Store:
        self.store.begin()
        return self.store

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self.store.rollback()
        else:
            self.store.seal()
            self.store.commit()


def new_id() -> bytes:
    return os.urandom(16)


def arrivals(count: int, state: State = State.READY, run_at: float = NOW, **options: object) -> list[Arrival]:
    return [Arrival(Task(new_id(), "square", b"payload", **options), state, run_at) for _ in range(count)]


def submit(store: Store, count: int, **options: object) -> list[bytes]:
    new = arrivals(count, **options)
    with Change(store):
        assert store.insert(new, NOW) == count
    return [arrival.task.id for arrival in new]


def lease(store: Store, count: int, queue: str = "default") -> list:
    with Change(store):
        return store.lease(queue, count, store.worker(WORKER, NOW), NOW)


def ending(claim, outcome: Outcome = Outcome.SUCCEEDED, value: bytes = b"value") -> Ending:
    import random

    return Ending(claim, outcome, after(claim, outcome, Policy(), NOW, random.Random(1)), value, NOW, 0.5, 0.25, 99)


def counted(store: Store) -> dict[str, dict[State, int]]:
    return {queue: dict(states) for queue, states in store.counts().items()}


def test_the_same_id_twice_is_one_task(store: Store) -> None:
    new = arrivals(3)
    with Change(store):
        assert store.insert(new, NOW) == 3
    with Change(store):
        assert store.insert(new[:2] + arrivals(1), NOW) == 1
    assert counted(store) == {"default": {State.READY: 4}}


def test_tasks_leave_in_order_of_priority_then_arrival(store: Store) -> None:
    late = submit(store, 3, priority=5)
    normal = submit(store, 3)
    urgent = submit(store, 1, priority=-5)
    assert [leased.claim.id for leased in lease(store, 99)] == urgent + normal + late


def test_a_lease_takes_from_its_queue_alone_and_counts_the_attempt(store: Store) -> None:
    submit(store, 2, queue="mail")
    assert lease(store, 9, "other") == []
    first, _second = lease(store, 9, "mail")
    assert (first.claim.attempt, first.payload, first.damaged) == (1, b"payload", False)
    assert lease(store, 9, "mail") == []


def test_a_lease_ends_with_the_payload_that_fills_it(store: Store) -> None:
    payload = bytes(LARGEST_LEASE // 2)
    with Change(store):
        store.insert([Arrival(Task(new_id(), "square", payload), State.READY, NOW) for _ in range(5)], NOW)
    assert [len(lease(store, 9)) for _ in range(4)] == [2, 2, 1, 0]


def test_what_was_committed_is_there_after_opening_again(make_store: Callable[[], Store]) -> None:
    store = make_store()
    submit(store, 5)
    held = [leased.claim for leased in lease(store, 2)]
    store = make_store()
    assert sorted(claim.id for _, claim in store.claims()) == sorted(claim.id for claim in held)
    assert store.workers({number for number, _ in store.claims()}).popitem()[1] == WORKER
    assert counted(store) == {"default": {State.READY: 3, State.LEASED: 2}}


def test_what_was_rolled_back_was_never_there(store: Store) -> None:
    with pytest.raises(RuntimeError), Change(store):
        store.insert(arrivals(3), NOW)
        raise RuntimeError
    assert counted(store) == {}
    assert lease(store, 9) == []


def test_only_the_attempt_that_holds_the_lease_can_end_it(store: Store) -> None:
    submit(store, 1)
    (old,) = lease(store, 1)
    with Change(store):
        assert store.end([ending(old.claim, Outcome.RELEASED)], NOW) == 1
    (new,) = lease(store, 1)
    assert new.claim.attempt == 2
    with Change(store):
        assert store.end([ending(old.claim)], NOW) == 0
    assert counted(store) == {"default": {State.LEASED: 1}}
    with Change(store):
        assert store.end([ending(new.claim)], NOW) == 1
    (result,), unknown = store.results([new.claim.id])
    assert (result.state, result.attempt, result.value, unknown) == (State.SUCCEEDED, 2, b"value", [])


def test_results_tell_ended_running_and_unknown_apart(store: Store) -> None:
    running, strange = submit(store, 1)[0], new_id()
    assert store.results([running, strange]) == ([], [strange])


def test_every_attempt_of_a_task_can_be_read(store: Store) -> None:
    (task_id,) = submit(store, 1)
    for outcome in (Outcome.LOST, Outcome.RELEASED, Outcome.SUCCEEDED):
        (leased,) = lease(store, 1)
        value = b"value" if outcome == Outcome.SUCCEEDED else b"\x82\xa4kind\xa4lost\xa7message\xa3why"
        with Change(store):
            store.end([ending(leased.claim, outcome, value)], NOW)
    view = store.view(task_id)
    assert view is not None
    assert [(a.number, a.outcome, a.worker, a.host) for a in view.attempts] == [
        (1, "lost", "w1", "host"),
        (2, "released", "w1", "host"),
        (3, "succeeded", "w1", "host"),
    ]
    assert view.attempts[0].failure is not None and view.attempts[0].failure.message == "why"
    assert (view.attempts[2].wall, view.attempts[2].cpu, view.attempts[2].rss) == (0.5, 0.25, 99)
    assert store.view(new_id()) is None


def test_scheduled_tasks_become_ready_when_due_and_not_before(store: Store) -> None:
    submit(store, 2, state=State.SCHEDULED, run_at=NOW + 10)
    submit(store, 1, state=State.SCHEDULED, run_at=NOW + 99)
    assert store.next_due() == NOW + 10
    with Change(store):
        assert store.promote(NOW + 9) == []
        assert store.promote(NOW + 10) == ["default"]
    assert (store.ready("default"), store.next_due()) == (2, NOW + 99)


def test_cancel_ends_what_is_queued_and_marks_what_runs(store: Store) -> None:
    first, second = submit(store, 2)
    (_running,) = lease(store, 1)
    with Change(store):
        assert store.cancel([first, second, new_id()], NOW) == {first: State.LEASED, second: State.CANCELLED}
    assert store.claims()[0][1].cancel == 1
    assert counted(store) == {"default": {State.LEASED: 1, State.CANCELLED: 1}}


def test_retry_brings_an_ended_task_back_with_fresh_budgets_and_keeps_its_past(store: Store) -> None:
    (task_id,) = submit(store, 1)
    (leased,) = lease(store, 1)
    with Change(store):
        store.end([ending(leased.claim, Outcome.FAILED, b"\x82\xa4kind\xa4exit\xa7message\xa0")], NOW)
    assert counted(store) == {"default": {State.FAILED: 1}}
    with Change(store):
        assert store.retry([task_id], NOW) == {task_id: State.READY}
    (again,) = lease(store, 1)
    assert (again.claim.attempt, again.claim.failures) == (2, 0)
    view = store.view(task_id)
    assert view is not None and [a.outcome for a in view.attempts] == ["failed", "running"]


def test_a_succeeded_task_cannot_be_retried(store: Store) -> None:
    (task_id,) = submit(store, 1)
    (leased,) = lease(store, 1)
    with Change(store):
        store.end([ending(leased.claim)], NOW)
        assert store.retry([task_id], NOW) == {task_id: State.SUCCEEDED}


def test_pages_go_from_the_newest_to_the_oldest_without_gaps(store: Store) -> None:
    ids = submit(store, 7) + submit(store, 3, queue="mail")
    seen: list[bytes] = []
    before = 0
    while True:
        tasks, before = store.page(Page(before=before, limit=3))
        seen += [task.id for task in tasks]
        if not before:
            break
    assert seen == ids[::-1]
    assert [task.id for task in store.page(Page(queue="mail"))[0]] == ids[:-4:-1]
    assert store.page(Page(states=[State.FAILED])) == ([], 0)


def test_a_task_that_has_ended_still_tells_when_it_was_due(store: Store) -> None:
    (task_id,) = submit(store, 1, run_at=NOW - 5)
    (leased,) = lease(store, 1)
    with Change(store):
        store.end([ending(leased.claim, Outcome.FAILED, b"\x82\xa4kind\xa4exit\xa7message\xa0")], NOW + 9)
    view = store.view(task_id)
    assert view is not None and (view.run_at, view.finished) == (NOW - 5, NOW + 9)


def test_the_mailbox_gives_each_result_once_and_takes_it_back(store: Store) -> None:
    submit(store, 2, mailbox=True)
    submit(store, 1)
    with Change(store):
        store.end([ending(leased.claim) for leased in store.lease("default", 9, store.worker(WORKER, NOW), NOW)], NOW)
        assert store.mailbox() == 2
        first, second, third = store.take(), store.take(), store.take()
        assert first and second and first[0] != second[0] and third is None
        store.untake(first[0])
        assert store.take() == first


def test_a_stranger_or_a_newer_store_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs(x)")
    db.close()
    with pytest.raises(ConfigError, match=r"other\.db: this is a database of another program"):
        open_store(f"sqlite://{path}")
    newer = tmp_path / "newer.db"
    open_store(f"sqlite://{newer}").close()
    with sqlite3.connect(newer) as db:
        db.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    db.close()
    with pytest.raises(ConfigError, match=f"schema version {len(STEPS) + 1}, this qdist knows {len(STEPS)}"):
        open_store(f"sqlite://{newer}")


def test_a_second_master_on_the_same_store_is_refused(tmp_path: Path) -> None:
    first = open_store(f"sqlite://{tmp_path}/qdist.db")
    with pytest.raises(ConfigError, match="another master has this store open"):
        open_store(f"sqlite://{tmp_path}/qdist.db")
    first.close()


@pytest.mark.parametrize("url", ["postgres://x", "sqlite://", "/var/lib/x.db", "sqlite:///nowhere/at/all/x.db"])
def test_a_store_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        open_store(url)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "qdist.db"
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 100)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="the store cannot be opened"):
        open_store(f"sqlite://{path}")
    assert path.read_bytes() == before


def test_a_payload_changed_on_disk_is_noticed_when_leased(make_store: Callable[[], Store], tmp_path: Path) -> None:
    store = make_store()
    submit(store, 1)
    store.close()
    with sqlite3.connect(tmp_path / "qdist.db") as db:
        db.execute("UPDATE task SET payload = x'70617968'")
    db.close()
    assert lease(make_store(), 1)[0].damaged


def test_a_value_changed_on_disk_is_never_served(make_store: Callable[[], Store], tmp_path: Path) -> None:
    store = make_store()
    (task_id,) = submit(store, 1)
    (leased,) = lease(store, 1)
    with Change(store):
        store.end([ending(leased.claim)], NOW)
    store.close()
    with sqlite3.connect(tmp_path / "qdist.db") as db:
        db.execute("UPDATE task SET value = x'ff'")
    db.close()
    (result,), _ = make_store().results([task_id])
    assert result.state == State.QUARANTINED
    assert b"damaged" in result.value


def test_the_checksum_covers_the_id_so_rows_cannot_swap_payloads() -> None:
    assert crc32(b"payload", crc32(b"a" * 16)) != crc32(b"payload", crc32(b"b" * 16))


def test_a_full_disk_refuses_the_write_and_keeps_the_rest(store: Store) -> None:
    submit(store, 10)
    store._db.execute("PRAGMA max_page_count = 40")  # type: ignore[attr-defined] # SQLite's own way to be full
    with pytest.raises(StoreFull, match="no space left"), Change(store):
        store.insert([Arrival(Task(new_id(), "square", bytes(60_000)), State.READY, NOW) for _ in range(50)], NOW)
    assert counted(store) == {"default": {State.READY: 10}}
    store._db.execute("PRAGMA max_page_count = 1000000")  # type: ignore[attr-defined]
    submit(store, 1)
    assert store.ready("default") == 11


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_commit_without_space_is_undone_whole_and_the_store_goes_on(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", str(tmp_path)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        store = open_store(f"sqlite://{tmp_path}/qdist.db")
        with pytest.raises(StoreFull, match="no space left"):
            for _ in range(100):
                before = store.ready("default")
                with Change(store):
                    large = Task(new_id(), "square", bytes(1024 * 1024))
                    store.insert([Arrival(large, State.READY, NOW)], NOW)
        store.rollback()
        assert store.ready("default") == before
        assert store._db.execute("SELECT count(*) FROM task").fetchone() == (before,)  # type: ignore[attr-defined]
        subprocess.run(["mount", "-o", "remount,size=60m", str(tmp_path)], check=True)
        submit(store, 1)
        store.close()
        assert open_store(f"sqlite://{tmp_path}/qdist.db").ready("default") == before + 1
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
