"""A store that the version before has written is opened by this one: nothing is lost, whatever ends it half way."""

import logging
import os
import shutil
import signal
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from zlib import crc32

import msgspec
import pytest
from household import Clocks, House
from old_store import (
    EARLIER,
    FAILURE,
    KINDS,
    NOW,
    OUTPUT,
    SPOOL,
    STATE_OF,
    TOKEN,
    id_of,
    kinds,
    payload_of,
    queue_of,
    write,
)

from qdistd.model import Held, Outcome, Settlement, State
from qdistd.store import Page, Store, open_store
from qdistd.store.opening import connect
from qdistd.store.schema import STEPS, migrate
from qdistd.worker import Spool

TASKS = 1300
MANY = 100_000
OLD = 2
"""The version of the schema that `old_store` writes."""

A_START = 60.0
"""Seconds in which a master with a hundred thousand tasks must be there: well under the 90 that systemd gives it."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "qdist.db", TASKS)
    return tmp_path / "qdist.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite://{path}")) as store:
        yield store


def of(kind: str) -> list[int]:
    """The numbers of the tasks of a kind."""
    return [number for name, number in kinds(TASKS) if name == kind]


def ids(kind: str) -> list[bytes]:
    return [id_of(kind, number) for number in of(kind)]


def check_all(store: Store, tasks: int = TASKS) -> None:
    """Every task is what it was, by the counts and one by one."""
    expected = Counter((queue_of(number), State(STATE_OF[kind])) for kind, number in kinds(tasks))
    counts = {(queue, state): n for queue, states in store.counts().items() for state, n in states.items() if n}
    assert counts == expected
    for kind, number in kinds(tasks):
        view = store.view(id_of(kind, number))
        assert view is not None
        assert (view.name, view.queue, view.state, view.payload) == (
            *(kind, queue_of(number), STATE_OF[kind]),
            payload_of(number),
        )
        asked = (view.timeout, view.retries, view.backoff, view.backoff_cap, view.soft_timeout, view.expires)
        assert asked == (9.0, 3, 2.0, 3600.0, 0.0, 0.0)
        assert view.run_at == KINDS[kind].get("run_at", NOW - 100)
        assert (view.requires, view.after, view.concurrency_key, view.blocked_by) == ([], [], "", 0)


def test_all_there_was_is_there_and_counted(store: Store) -> None:
    check_all(store)
    assert store.mailbox() == len(of("mailed"))
    seen, before = 0, 0
    while True:
        views, before = store.page(Page(before=before, limit=1000))
        seen += len(views)
        if not before:
            break
    assert seen == TASKS


def test_results_attempts_and_output_can_be_read(store: Store) -> None:
    found, unknown = store.results(ids("succeeded") + ids("failed") + ids("ready"))
    assert not unknown
    assert Counter((result.state, result.value) for result in found) == {
        (State.SUCCEEDED, b"\x80\x04K1."): len(of("succeeded")),
        (State.FAILED, FAILURE): len(of("failed")),
    }
    for kind in EARLIER:
        view = store.view(ids(kind)[0])
        assert view is not None
        first = view.attempts[0]
        assert (first.worker, first.wall, first.rss, first.output) == ("w1@host", 2.5, 1024, OUTPUT)
        assert first.failure is not None and first.failure.message == "no"
        assert len(view.attempts) == view.attempt
    taken = 0
    store.begin()
    while store.take():
        taken += 1
    store.seal()
    store.commit()
    assert taken == len(of("mailed"))


def test_what_waits_runs_in_its_order_and_what_is_due_later_runs_then(store: Store) -> None:
    house = House(store, Clocks())
    seat = house.hello("n", "new")
    urgent = {id_of("urgent", n) for n in of("urgent") if queue_of(n) == "default"}
    assert {grant.id for grant in house.lease(seat, len(urgent))} == urgent
    house.tick()
    retrying = id_of("retrying", next(n for n in of("retrying") if queue_of(n) == "default"))
    assert house.state(retrying) is State.SCHEDULED
    house.clocks.now += 60
    house.tick()
    assert house.state(retrying) is State.READY
    assert house.state(ids("delayed")[0]) is State.SCHEDULED
    house.clocks.now += 200
    house.tick()
    assert {house.state(task) for task in ids("delayed") + ids("timed")} == {State.READY}


def test_its_old_worker_settles_what_it_holds_and_hears_what_was_cancelled(store: Store) -> None:
    house = House(store, Clocks())
    held = ids("leased") + ids("cancelling")
    with house.change() as broker:
        assert all((seat := broker.seat_of(task)) and seat.row.token == TOKEN for task in held)
    words = tuple(Held(task, 1) for task in held)
    seat = house.hello("o", "w1@host", words)
    assert set(seat.cancel) == set(ids("cancelling"))
    grants = list(seat.claims.values())
    for claim in grants:
        assert house.settle(seat, claim) == []  # type: ignore[arg-type] # it has the id and the attempt
    assert {house.state(task) for task in held} == {State.SUCCEEDED}
    assert store.view(held[0]).value == b"v"  # type: ignore[union-attr]


def test_what_a_worker_that_never_comes_back_held_is_leased_again_and_the_retries_go_on(store: Store) -> None:
    house = House(store, Clocks())
    house.tick(31.0)
    task = id_of("leased", next(n for n in of("leased") if queue_of(n) == "default"))
    view = store.view(task)
    assert view is not None and view.attempts[0].outcome == Outcome.LOST.word
    assert view.state in (State.READY, State.SCHEDULED)
    assert {house.state(task) for task in ids("cancelling")} == {State.CANCELLED}


def test_failed_and_quarantined_tasks_can_be_tried_again_and_old_ends_are_purged(store: Store) -> None:
    house = House(store, Clocks())
    again = ids("failed") + ids("quarantined") + ids("cancelled")
    with house.change() as broker:
        assert set(broker.retry(again).values()) == {State.READY}
    house.clocks.jump = 400 * 86400.0
    gone = ids("succeeded")
    while store.view(gone[-1]):
        house.tick(60.0)
    assert store.view(ids("mailed")[0]) is not None, "nobody has taken that result yet"


# -- killed half way


def version_of(path: Path) -> int:
    """Of the file with its log, after a look at all of it."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM task").fetchone() == (TASKS,)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        assert _shape(db) == _shape_of(version)
        return int(version)


def _shape(db: sqlite3.Connection) -> list[tuple[str, str]]:
    return db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()


def _shape_of(version: int) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for step in STEPS[:version]:
            db.executescript(step)
        return _shape(db)


def copy_of(path: Path, folder: Path, log: bytes | None = None) -> Path:
    """The file and its log, or so much of it."""
    folder.mkdir()
    shutil.copy(path, folder / path.name)
    content = Path(f"{path}-wal").read_bytes() if log is None else log
    (folder / f"{path.name}-wal").write_bytes(content)
    return folder / path.name


def killed(work: Callable[[], None]) -> bool:
    """Do it in a process of its own; whether that was killed."""
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def migrate_until(path: Path, moment: int) -> None:
    """Open the file and migrate it, but kill this process when SQLite has come so far."""
    left = moment

    def tick() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.set_progress_handler(tick, 20)
    migrate(db, str(path))


def migrate_and_die(path: Path) -> None:
    """Open the file and migrate it, and end without putting anything in order."""
    connect(str(path))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_migration_that_is_killed_anywhere_leaves_a_version_whole_and_the_next_start_goes_on(
    path: Path, tmp_path: Path
) -> None:
    seen, ended, moment = Counter[int](), False, 0
    while not ended:
        copy = copy_of(path, tmp_path / f"killed-{moment}", b"")
        ended = not killed(lambda copy=copy, moment=moment: migrate_until(copy, moment))  # type: ignore[misc]
        looked_at = copy_of(copy, tmp_path / f"look-{moment}") if Path(f"{copy}-wal").exists() else copy
        seen[version_of(looked_at)] += 1
        if ended or moment % 3 == 0:
            with closing(open_store(f"sqlite://{copy}")) as store:
                assert len(store.epoch) == 16
                assert sum(sum(states.values()) for states in store.counts().values()) == TASKS
        for folder in {copy.parent, looked_at.parent}:
            shutil.rmtree(folder)
        moment += 1 + moment // 40
    assert set(seen) == set(range(OLD, len(STEPS) + 1))
    print(f"killed {sum(seen.values()) - 1} times, versions found: {dict(sorted(seen.items()))}")


def test_power_that_fails_at_any_write_of_the_migration_leaves_a_version_whole(path: Path, tmp_path: Path) -> None:
    before = copy_of(path, tmp_path / "before", b"")
    assert killed(lambda: migrate_and_die(path))
    log = Path(f"{path}-wal").read_bytes()
    (page,) = struct.unpack_from(">I", log, 8)
    size, seen = page + 24, Counter[int]()
    frames = _frames(log, size)
    for number in range(frames + 1):
        for torn in (0, size // 2):
            cut = log[: 32 + number * size + torn]
            copy = copy_of(before, tmp_path / f"cut-{number}-{torn}", cut)
            seen[version_of(copy)] += 1
            shutil.rmtree(copy.parent)
    assert set(seen) == set(range(OLD, len(STEPS) + 1))
    print(f"{frames} frames, each also torn: versions found {dict(sorted(seen.items()))}")


def _frames(log: bytes, size: int) -> int:
    """How many frames of this run the log has: those with its salt."""
    salt, count = log[16:24], 0
    while log[32 + count * size + 8 : 32 + count * size + 16] == salt:
        count += 1
    return count


def test_a_hundred_thousand_tasks_are_migrated_within_the_start_of_a_master(tmp_path: Path) -> None:
    write(tmp_path / "qdist.db", MANY)
    began = time.perf_counter()
    store = open_store(f"sqlite://{tmp_path}/qdist.db")
    took = time.perf_counter() - began
    print(f"{MANY:,} tasks of schema version {OLD} opened as version {len(STEPS)} in {took:.2f} s")
    assert sum(sum(states.values()) for states in store.counts().values()) == MANY
    store.close()
    assert took < A_START


# -- the worker's side


def test_results_that_an_old_worker_has_kept_are_sent_by_the_new_one(tmp_path: Path) -> None:
    end = [b"t" * 16, 3, 0, b"value", NOW, 1.5, 0.5, 2048, TOKEN, OUTPUT]
    with closing(sqlite3.connect(tmp_path / "spool.db")) as db:
        db.executescript(SPOOL)
        body = msgspec.msgpack.encode(end)
        with db:
            db.execute("INSERT INTO unsent VALUES(?, 3, ?, ?)", (end[0], body, crc32(body)))
    with closing(Spool(tmp_path / "spool.db", logging.getLogger("worker"))) as spool:
        assert spool.unsent() == [
            Settlement(b"t" * 16, 3, Outcome.SUCCEEDED, b"value", NOW, 1.5, 0.5, 2048, TOKEN, OUTPUT)
        ]
