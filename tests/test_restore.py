"""A backup takes the place of a store; nothing of what was leased before is accepted, whoever brings it."""

import contextlib
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from audit import causes_of_repeats, spooled
from cluster import Cluster
from conftest import NewCluster
from gate import Gate
from household import Clocks, House
from patience import until
from shell import Ran, Shell

from qdistd import Client, Handle, errors
from qdistd.model import Held, State
from qdistd.store import Store, open_store
from qdistd.store.restoring import restore
from qdistd.views import AttemptView

LONG = 90.0
"""Seconds that a client waits for a master that is being restored."""


def backup_of(store: Store, path: Path) -> Path:
    """A backup file, without a master."""
    copy = store.copy()
    copy.make()
    path.write_bytes(copy.read(0, copy.share()[1]))
    copy.close()
    return path


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A broker on the first time line."""
    store = open_store(f"sqlite://{tmp_path}/qdist.db")
    yield House(store, Clocks())
    store.close()


def on_the_second_line(house: House, backup: Path) -> House:
    """A broker on a restored copy."""
    restore(backup, backup.with_name("second.db"))
    return House(open_store(f"sqlite://{backup.with_name('second.db')}"), Clocks())


# -- the epoch


def test_a_store_keeps_its_epoch_and_each_restored_copy_has_one_of_its_own(tmp_path: Path) -> None:
    def epoch(name: str) -> bytes:
        with closing(open_store(f"sqlite://{tmp_path}/{name}")) as store:
            return store.epoch

    first = epoch("qdist.db")
    assert len(first) == 16 and epoch("qdist.db") == first
    with closing(open_store(f"sqlite://{tmp_path}/qdist.db")) as store:
        backup_of(store, tmp_path / "b.db")
        (tmp_path / "twin.db").write_bytes((tmp_path / "b.db").read_bytes())
    restored, twin = epoch("b.db"), epoch("twin.db")
    assert len({first, restored, twin}) == 3, "whoever opens a backup begins a new time line"
    assert epoch("b.db") == restored and epoch("qdist.db") == first


def test_a_plain_copy_of_the_file_that_is_put_in_place_by_restore_has_a_new_epoch_too(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite://{tmp_path}/qdist.db")) as store:
        first = store.epoch
    (tmp_path / "copy.db").write_bytes((tmp_path / "qdist.db").read_bytes())
    restore(tmp_path / "copy.db", tmp_path / "qdist.db")
    with closing(open_store(f"sqlite://{tmp_path}/qdist.db")) as store:
        assert store.epoch != first


# -- what the master refuses by itself, whatever a worker says


def test_what_was_leased_when_the_backup_was_made_goes_back_at_no_cost(house: House, tmp_path: Path) -> None:
    (task,) = house.submit()
    (grant,) = house.lease(house.hello("a"))
    second = on_the_second_line(house, backup_of(house.store, tmp_path / "b.db"))
    second.tick()
    assert second.state(task) is State.READY
    view = second.store.view(task)
    assert view and view.attempts[0].failure and "restored from a backup" in view.attempts[0].failure.message
    seat = second.hello("a", held=(Held(grant.id, grant.attempt),))
    assert seat.cancel == [task] and second.settle(seat, grant) == [task]


def test_a_lease_from_before_counts_for_nothing_even_if_the_first_tick_never_came(house: House, tmp_path: Path) -> None:
    (task,) = house.submit()
    (grant,) = house.lease(house.hello("a"))
    second = on_the_second_line(house, backup_of(house.store, tmp_path / "b.db"))
    seat = second.hello("a", held=(Held(grant.id, grant.attempt),))
    assert seat.cancel == [task] and second.settle(seat, grant) == [task]
    assert second.state(task) is State.READY


def test_a_result_of_before_that_outlived_its_worker_is_not_accepted_either(house: House, tmp_path: Path) -> None:
    (task,) = house.submit()
    (grant,) = house.lease(house.hello("a"))
    second = on_the_second_line(house, backup_of(house.store, tmp_path / "b.db"))
    heir = second.hello("b", held=(Held(grant.id, grant.attempt),))
    assert second.settle(heir, grant, token=b"a" * 16) == [task]
    second.tick()
    assert second.state(task) is State.READY


def test_the_same_attempt_leased_anew_to_another_worker_is_not_settled_by_the_old_one(
    house: House, tmp_path: Path
) -> None:
    (task,) = house.submit()
    backup = backup_of(house.store, tmp_path / "b.db")
    (old,) = house.lease(house.hello("a"))
    second = on_the_second_line(house, backup)
    other = second.hello("b", name="other")
    (new,) = second.lease(other)
    assert (new.id, new.attempt) == (old.id, old.attempt)
    late = second.hello("a", held=(Held(old.id, old.attempt),))
    assert second.settle(late, old) == [task]
    assert second.settle(late, old, token=b"a" * 16) == [task]
    assert second.state(task) is State.LEASED
    assert second.settle(other, new) == []


def test_a_worker_is_never_leased_an_attempt_that_it_still_holds_from_before(house: House, tmp_path: Path) -> None:
    (task,) = house.submit()
    backup = backup_of(house.store, tmp_path / "b.db")
    (old,) = house.lease(house.hello("a"))
    second = on_the_second_line(house, backup)
    seat = second.hello("a", held=(Held(old.id, old.attempt),))
    assert second.lease(seat) == [], "it could not tell the one from the other"
    assert second.settle(seat, old) == [task]
    (new,) = second.lease(seat)
    assert new.attempt == old.attempt + 1
    assert second.settle(seat, old) == [task]
    assert second.settle(seat, new) == []
    assert [attempt.outcome for attempt in _attempts(second, task)] == ["released", "succeeded"]


def test_a_restored_store_that_dies_at_once_still_knows_that_its_leases_are_void(house: House, tmp_path: Path) -> None:
    (task,) = house.submit()
    (grant,) = house.lease(house.hello("a"))
    first = on_the_second_line(house, backup_of(house.store, tmp_path / "b.db"))
    first.store.close()
    second = House(open_store(f"sqlite://{tmp_path}/second.db"), Clocks())
    assert second.settle(second.hello("a", held=(Held(grant.id, grant.attempt),)), grant) == [task]


def test_a_token_of_before_that_leases_again_is_of_the_new_time_line(house: House, tmp_path: Path) -> None:
    """A worker of an older version keeps its token: what it leases now outlives the next restart of the master."""
    house.submit(2)
    house.lease(house.hello("a"))
    second = on_the_second_line(house, backup_of(house.store, tmp_path / "b.db"))
    second.tick()
    (new, _) = second.lease(second.hello("a"), 2)
    second.store.close()
    third = House(open_store(f"sqlite://{tmp_path}/second.db"), Clocks())
    third.tick()
    assert third.settle(third.hello("a", held=(Held(new.id, new.attempt),)), new) == []


def _attempts(house: House, task: bytes) -> list[AttemptView]:
    view = house.store.view(task)
    assert view
    return list(view.attempts)


# -- with real processes


def test_nothing_of_the_old_time_line_is_accepted_and_each_task_ends_once(
    new_cluster: NewCluster, tmp_path: Path
) -> None:
    cluster = new_cluster(workers=0)
    old, new = (cluster.add_worker(name, worker={"processes": 2}) for name in ("old", "new"))
    gates = Gate(tmp_path / "gate-1"), Gate(tmp_path / "gate-2")
    with cluster.client("admin", timeout=LONG) as q:
        held, spooled_one = [q.options(priority=-1).submit("count_lines", gate.path) for gate in gates]
        squares = [q.submit("square", n) for n in range(500)]
        q.flush()
        q.backup(tmp_path / "b.db")  # everything is ready in it, and nothing is leased
        later = q.submit("square", 7)

        old.start()
        for gate in gates:
            gate.reached()
        cluster.master.kill()
        gates[1].let_go(lines=3)
        until(lambda: (spooled_one.id, 1) in spooled(cluster, old), "a result waits on the disk of the old worker")
        old.signal(signal.SIGSTOP)

        assert Shell(cluster)("restore", tmp_path / "b.db", "--master", cluster.folder / "master.toml").code == 0
        cluster.master.start()
        new.start()
        for task in (held, spooled_one):
            until(lambda task=task: runs_on(q, task, "new"), "the new worker has the same attempt")
        gates[1].reached()
        old.signal(signal.SIGCONT)
        until(lambda: "was restored from a backup" in old.log, "the old worker has met the other epoch")
        until(lambda: old.log.count("connected to the master") == 2, "and is back as another one")
        assert spooled(cluster, old) == set()
        assert q.show(spooled_one).state is State.LEASED
        gates[1].let_go(lines=5)
        gates[0].let_go(lines=7)
        assert (spooled_one.result(LONG), held.result(LONG)) == (5, 7)
        assert [square.result(LONG) for square in squares] == [f"{n} * {n} = {n * n}" for n in range(500)]
        for task in (held, spooled_one):
            (attempt,) = q.show(task).attempts
            assert (attempt.number, attempt.outcome, attempt.worker.partition("@")[0]) == (1, "succeeded", "new")
        with pytest.raises(errors.NotFound):
            q.show(later)
        assert causes_of_repeats(q, 502).keys() <= {"released"}


def runs_on(q: Client, task: Handle[object], worker: str) -> bool:
    view = q.show(task)
    return (view.state, view.attempt, view.worker.partition("@")[0]) == (State.LEASED, 1, worker)


def test_a_worker_that_works_on_through_a_restore_takes_up_work_of_the_new_time_line(
    new_cluster: NewCluster, tmp_path: Path
) -> None:
    cluster = new_cluster()
    gate = Gate(tmp_path / "gate")
    with cluster.client("admin", timeout=LONG) as q:
        q.backup(tmp_path / "b.db")
        lost = q.submit("count_lines", gate.path)
        gate.reached()
        cluster.master.stop()
        assert Shell(cluster)("restore", tmp_path / "b.db", "--master", cluster.folder / "master.toml").code == 0
        cluster.master.start()
        assert q.submit("square", 7).result(LONG) == "7 * 7 = 49"
        with pytest.raises(errors.NotFound):
            q.show(lost)
        until(lambda: not gate._write(b"a line\n"), "the task of before is ended")


# -- the command


@pytest.fixture
def stopped(new_cluster: NewCluster, tmp_path: Path) -> Cluster:
    """A cluster with a backup at `b.db`, and one task more in its store; its master is stopped."""
    cluster = new_cluster(workers=0)
    with cluster.client("admin") as q:
        q.submit("square", 1)
        q.flush()
        q.backup(tmp_path / "b.db")
        q.submit("square", 2)
    cluster.master.stop()
    return cluster


def put_back(cluster: Cluster, backup: Path) -> Ran:
    return Shell(cluster)("restore", backup, "--master", cluster.folder / "master.toml")


def tasks_in(path: Path) -> int:
    with closing(open_store(f"sqlite://{path}")) as store:
        return sum(sum(states.values()) for states in store.counts().values())


def test_restore_puts_the_backup_in_place_and_keeps_what_was_there(stopped: Cluster, tmp_path: Path) -> None:
    ran = put_back(stopped, tmp_path / "b.db")
    store = stopped.folder / "qdist.db"
    assert ran.code == 0 and "1 tasks" in ran.out and "qdist.db.replaced-1" in ran.out, ran
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    assert store.stat().st_uid == stopped.folder.stat().st_uid
    assert put_back(stopped, tmp_path / "b.db").out.count("qdist.db.replaced-2") == 1
    assert (tasks_in(store), tasks_in(stopped.folder / "qdist.db.replaced-1")) == (1, 2)
    assert not [path.name for path in stopped.folder.iterdir() if path.name.endswith(".part")]


def test_a_log_of_the_former_store_never_reaches_the_restored_one(new_cluster: NewCluster, tmp_path: Path) -> None:
    cluster = new_cluster(workers=0)
    with cluster.client("admin") as q:
        q.backup(tmp_path / "b.db")
        q.submit("square", 1)
    cluster.master.kill()
    assert (cluster.folder / "qdist.db-wal").stat().st_size > 0
    assert put_back(cluster, tmp_path / "b.db").code == 0
    assert not (cluster.folder / "qdist.db-wal").exists()
    assert (tasks_in(cluster.folder / "qdist.db"), tasks_in(cluster.folder / "qdist.db.replaced-1")) == (0, 1)


def test_a_damaged_store_is_replaced_and_kept_with_its_log(stopped: Cluster, tmp_path: Path) -> None:
    store, log = stopped.folder / "qdist.db", stopped.folder / "qdist.db-wal"
    store.write_bytes(b"no database" * 1000)
    log.write_bytes(b"its log")
    assert put_back(stopped, tmp_path / "b.db").code == 0
    assert (stopped.folder / "qdist.db.replaced-1-wal").read_bytes() == b"its log" and not log.exists()
    assert tasks_in(store) == 1


def test_a_restore_that_is_killed_leaves_the_former_store_or_the_restored_one(stopped: Cluster, tmp_path: Path) -> None:
    store = stopped.folder / "qdist.db"
    former = store.read_bytes()
    found = []
    for tenths in range(10):
        store.write_bytes(former)
        process = Shell(stopped).start("restore", tmp_path / "b.db", "--master", stopped.folder / "master.toml")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1 + tenths / 10)
        process.kill()
        process.communicate()
        found.append(tasks_in(store))
    assert set(found) <= {1, 2} and found[0] == 2, found
    assert not [path.name for path in stopped.folder.iterdir() if path.name.endswith(".part")]


def test_a_store_that_is_not_there_any_more_is_restored(stopped: Cluster, tmp_path: Path) -> None:
    (stopped.folder / "qdist.db").unlink()
    ran = put_back(stopped, tmp_path / "b.db")
    assert ran.code == 0 and "replaced" not in ran.out
    assert tasks_in(stopped.folder / "qdist.db") == 1


def test_restore_refuses_while_the_master_runs(stopped: Cluster, tmp_path: Path) -> None:
    stopped.master.start()
    ran = put_back(stopped, tmp_path / "b.db")
    assert (ran.code, ran.out) == (1, "") and "a master has it open; stop that first" in ran.err
    with stopped.client() as q:
        assert len(q.list().tasks) == 2


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no store of qdist"),
        (b"no database" * 1000, "is no whole database"),
        (None, "No such file"),
        ("cut", "damaged|no whole database"),
        ("newer", "of a newer qdist"),
    ],
)
def test_what_is_no_whole_backup_changes_nothing(
    stopped: Cluster, tmp_path: Path, content: bytes | str | None, complaint: str
) -> None:
    bad = tmp_path / "bad.db"
    if isinstance(content, bytes):
        bad.write_bytes(content)
    elif content:
        whole = (tmp_path / "b.db").read_bytes()
        bad.write_bytes(whole[: len(whole) // 2] if content == "cut" else whole)
    if content == "newer":
        with closing(sqlite3.connect(bad)) as db:
            db.execute("PRAGMA user_version = 999")
    ran = put_back(stopped, bad)
    assert (ran.code, ran.out) == (1, "") and any(part in ran.err for part in complaint.split("|")), ran
    assert str(bad) in ran.err and "Traceback" not in ran.err
    assert tasks_in(stopped.folder / "qdist.db") == 2


def test_the_file_of_a_store_in_use_is_no_backup(stopped: Cluster, tmp_path: Path) -> None:
    (tmp_path / "b.db-wal").write_bytes(b"a log")
    ran = put_back(stopped, tmp_path / "b.db")
    assert ran.code == 1 and "its log stands beside it" in ran.err
    itself = put_back(stopped, stopped.folder / "qdist.db")
    assert itself.code == 1 and "is the store itself" in itself.err
