"""Schedules of a real master: kill -9 at any time, restarts, reloads, and what `qdist schedules` says."""

import re
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from audit import every_task
from cluster import Cluster
from conftest import NewCluster
from patience import until
from serving import run, serving
from shell import Shell

from qdistd import Client
from qdistd import protocol as say
from qdistd.broker.schedules import Schedule
from qdistd.calendar import parse
from qdistd.model import State, Task, id_text
from qdistd.views import TaskView

EVERY_SECOND = {"calendar": "*:*:*", "task": "square", "arguments": [7]}

LIVES = 4
TASKS_OF_A_LIFE = 3

MOST_FOR_A_RELOAD = 6
"""Seconds in which a master takes up new settings and is killed, however busy the machine is."""


def occasions(q: Client, name: str) -> dict[datetime, TaskView]:
    """The tasks of a schedule by the time they were due."""
    start = f"schedule:{name}:"
    views = [view for view in every_task(q) if view.key.startswith(start)]
    due = {datetime.fromisoformat(view.key.removeprefix(start)): view for view in views}
    assert len(due) == len(views)
    return due


def has(cluster: Cluster, name: str, tasks: int) -> None:
    """Return once the schedule has had that many tasks."""
    with cluster.client() as q:
        until(lambda: len(occasions(q, name)) >= tasks, f"{tasks} tasks of {name}")


def test_each_second_is_one_task_however_often_the_master_is_killed(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=1, master={"schedule": {"tick": EVERY_SECOND}})
    for life in range(1, LIVES + 1):
        has(cluster, "tick", life * TASKS_OF_A_LIFE)
        cluster.master.kill()
        cluster.master.start()
    cluster.configure_master(schedule={})
    cluster.master.reload()
    with cluster.client() as q:
        due = occasions(q, "tick")
        for view in due.values():
            assert q.handle(id_text(view.id)).result(timeout=20) == "7 * 7 = 49"
    times = sorted(due)
    assert all(at.microsecond == 0 for at in times)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert sum(gap > timedelta(seconds=1) for gap in gaps) <= LIVES


def test_what_was_due_while_the_master_was_down_is_made_up_for_once_if_it_is_persistent(
    new_cluster: NewCluster,
) -> None:
    cluster = new_cluster(workers=1)
    shell = Shell(cluster)
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=MOST_FOR_A_RELOAD)
    once = {"calendar": f"{due:%Y-%m-%d %H:%M:%S} UTC", "task": "square", "arguments": [7]}
    schedules = {"kept": {**once, "persistent": True}, "passed": once}
    cluster.configure_master(schedule=schedules)
    cluster.master.reload()
    until(lambda: len(shell("schedules", "--json").things) == 2, "the master knows of them")
    cluster.master.kill()
    assert datetime.now(UTC) < due, "the machine is too slow to miss anything"
    until(lambda: datetime.now(UTC) > due + timedelta(seconds=1), "the time that is missed")
    for _ in range(3):
        cluster.master.start()
        has(cluster, "kept", 1)
        cluster.master.kill()
    cluster.master.start()
    with cluster.client() as q:
        (view,) = occasions(q, "kept").values()
        assert q.handle(id_text(view.id)).result(timeout=20) == "7 * 7 = 49"
        assert list(occasions(q, "kept")) == [due]
        assert occasions(q, "passed") == {}
    assert re.search(r"schedule passed: what was due since \S+ was missed; it is passed over", cluster.master.log)


def test_whichever_way_the_clock_of_a_running_master_is_set_each_second_is_one_task(tmp_path: Path) -> None:
    ahead = 0.0
    every_second = Schedule("tick", parse("*:*:*"), UTC, "*:*:*", Task(bytes(16), "square", b""))

    async def scenario() -> None:
        nonlocal ahead
        async with serving(tmp_path, wall=lambda: time.time() + ahead, schedules=(every_second,)) as served:
            worker, came = await served.worker(), 0
            for step, wanted in ((0.0, 1), (200.0, 200), (-1.7, 202), (200.5, 400), (-0.4, 401)):
                ahead += step
                while came < wanted:
                    came += len((await worker.call(say.Lease(["default"], 1000, 20.0))).grants)
                await worker.call(say.Report())
            views = (await (await served.link()).call(say.List(limit=1000))).tasks
            due = sorted(datetime.fromisoformat(view.key.removeprefix("schedule:tick:")) for view in views)
            assert len(due) >= 400
            assert {later - earlier for earlier, later in pairwise(due)} == {timedelta(seconds=1)}

    run(scenario)


def test_a_reload_applies_at_once_what_the_file_says_of_schedules(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0)
    shell = Shell(cluster)
    assert shell("schedules", "--json").things == []
    cluster.configure_master(schedule={"tick": EVERY_SECOND})
    cluster.master.reload()
    has(cluster, "tick", 2)
    cluster.configure_master(schedule={"other": {**EVERY_SECOND, "calendar": "yearly"}})
    cluster.master.reload()
    assert [thing["name"] for thing in shell("schedules", "--json").things] == ["other"]
    cluster.configure_master(schedule={"other": {**EVERY_SECOND, "calendar": "sometimes"}})
    cluster.master.reload()
    until(lambda: "[schedule.other] calendar: " in cluster.master.log, "the reason")
    assert [thing["calendar"] for thing in shell("schedules", "--json").things] == ["yearly"]


def test_what_is_due_next_and_what_became_of_the_last_is_listed(new_cluster: NewCluster) -> None:
    yearly = {"calendar": "*-01-01", "task": "square", "arguments": [8], "time_zone": "Europe/Berlin", "queue": "slow"}
    cluster = new_cluster(workers=1, master={"schedule": {"tick": EVERY_SECOND, "year": yearly}})
    shell = Shell(cluster)
    has(cluster, "tick", 2)
    began = time.time()
    until(lambda: tick(shell)["last_state"] == "succeeded", "a task that has succeeded")
    told, year = shell("schedules", "--json").things
    assert (told["name"], told["calendar"], told["task"], told["queue"]) == ("tick", "*:*:*", "square", "default")
    assert datetime.fromisoformat(told["next"]) - datetime.fromisoformat(told["last"]) == timedelta(seconds=1)
    assert datetime.fromisoformat(told["next"]).timestamp() > began - 1
    assert shell("result", told["last_id"]).out == "7 * 7 = 49\n"
    assert shell("show", told["last_id"], "--json").thing["key"].startswith("schedule:tick:20")
    assert (year["name"], year["time_zone"], year["last"], year["last_state"]) == ("year", "Europe/Berlin", None, None)
    assert re.fullmatch(r"20\d\d-12-31T23:00:00.000\+00:00", year["next"])
    header, first, second = shell("schedules").lines
    assert header.split()[:2] == ["SCHEDULE", "CALENDAR"]
    assert first.startswith("tick") and "square" in first
    assert "*-01-01 (Europe/Berlin)" in second


def tick(shell: Shell) -> dict[str, str]:
    found: dict[str, str] = shell("schedules", "--json").things[0]
    return found


def test_a_schedule_that_must_not_overlap_waits_for_its_last_task(new_cluster: NewCluster) -> None:
    cluster = new_cluster(workers=0, master={"schedule": {"tick": {**EVERY_SECOND, "overlap": False}}})
    shell = Shell(cluster)
    has(cluster, "tick", 1)
    first = tick(shell)
    until(lambda: tick(shell)["last"] > first["last"], "the next time")
    again = tick(shell)
    assert (again["last_id"], again["last_state"]) == (first["last_id"], State.READY.word)
    with cluster.client() as q:
        assert len(occasions(q, "tick")) == 1
