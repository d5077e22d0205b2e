"""Schedules on a real store, with clocks that the test moves: each occasion is one task, whatever the clocks do."""

import logging
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from household import WALL, Clocks, House
from hypothesis import given, settings
from hypothesis import strategies as st

from qdistd.broker.schedules import AT_ONCE, LATE, LONGEST_NAP, WRONG, Schedule, Schedules
from qdistd.calendar import parse
from qdistd.model import State, Task, id_of_key
from qdistd.protocol import Refusal
from qdistd.store import Page, open_store

START = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC).timestamp()
TASK = Task(bytes(16), "square", b"payload")

MINUTE = 60.0
HOUR = 3600.0
DAY = 86400.0


def schedule(calendar: str = "minutely", name: str = "a", task: Task = TASK, **options: object) -> Schedule:
    return Schedule(name, parse(calendar), UTC, calendar, task, **options)  # type: ignore[arg-type]


class Tower:
    """The schedules of a master in a folder. `given`: every task that was submitted and committed, by its time."""

    def __init__(self, folder: Path, *schedules: Schedule) -> None:
        self.folder = folder
        self.clocks = Clocks()
        self.clocks.jump = START - WALL
        self.schedules: Sequence[Schedule] = schedules
        self.refuse: list[str] = []
        self.given: list[str] = []
        self._uncommitted: list[Task] = []
        self._open()

    def _open(self) -> None:
        self.house = House(open_store(f"sqlite://{self.folder}/qdist.db"), self.clocks)
        clocks, log = self.clocks, logging.getLogger("tower")
        self.look = Schedules(self, self.house.store, wall=clocks.wall, monotonic=clocks.monotonic, log=log)

    def submit(self, tasks: Sequence[Task]) -> list[Refusal]:
        """As a broker, which may be full."""
        if self.refuse:
            return [Refusal(task.id, self.refuse[0], "no", 2.5) for task in tasks]
        self._uncommitted += tasks
        return self.house.broker.submit(tasks)

    def start(self) -> float:
        """The master starts."""
        return self._change(lambda: self.look.start(self.schedules))

    def restart(self, seconds: float = 0.0) -> float:
        """The master was killed, and starts again after a while."""
        self.house.store.close()
        self.clocks.now += seconds
        self._open()
        return self.start()

    def reload(self, *schedules: Schedule) -> float:
        self.schedules = schedules
        return self._change(lambda: self.look.reload(schedules))

    def tick(self, seconds: float = 0.0, *, step: float = 0.0) -> float:
        """Time passes, and the wall clock steps; then everything is done that wants to be done at once."""
        self.clocks.now += seconds
        self.clocks.jump += step
        while (due := self._change(self.look.tick)) <= self.clocks.now:
            pass
        return due

    def fail(self) -> None:
        """Everything is done, and is not committed."""
        self.house.store.begin()
        self.look.tick()
        self._uncommitted.clear()
        self.house.store.rollback()
        self.house.broker.recover()

    def _change(self, look: object) -> float:
        with self.house.change():
            due = look()  # type: ignore[operator]
        self.given += [task.key.partition(":")[2] for task in self._uncommitted]
        self._uncommitted.clear()
        return float(due)

    @property
    def stored(self) -> set[str]:
        """The keys of all tasks in the store."""
        return {view.key.partition(":")[2] for view in self.house.store.page(Page(limit=100_000))[0]}

    def task(self, key: str) -> Task:
        view = self.house.store.view(id_of_key(f"schedule:{key}"))
        assert view is not None
        return view  # type: ignore[return-value]


@pytest.fixture
def tower(tmp_path: Path) -> Tower:
    return Tower(tmp_path, schedule())


def minutes(*numbers: int, name: str = "a") -> list[str]:
    """Times after noon, as their keys."""
    return [f"{name}:2026-11-24T{12 + number // 60:02d}:{number % 60:02d}:00+00:00" for number in numbers]


# -- each occasion once


def test_each_occasion_is_a_task_with_the_key_of_its_time(tower: Tower) -> None:
    assert tower.start() == pytest.approx(LONGEST_NAP)
    assert tower.tick(29) == pytest.approx(30)
    assert tower.given == []
    tower.tick(1)
    tower.tick(MINUTE)
    assert tower.given == minutes(1, 2)
    task = tower.task("a:2026-11-24T12:02:00+00:00")
    assert (task.name, task.payload, task.queue) == ("square", b"payload", "default")


def test_what_is_late_is_given_all_the_same_and_a_bounded_number_at_once(tmp_path: Path) -> None:
    tower = Tower(tmp_path, schedule("*:*:*"))
    tower.start()
    tower.clocks.now += 2.5 * AT_ONCE
    for number in (1, 2):
        assert tower._change(tower.look.tick) == tower.clocks.now
        assert len(tower.given) == number * AT_ONCE
    tower.tick()
    assert len(tower.given) == len(set(tower.given)) == 2.5 * AT_ONCE


def test_nothing_that_was_due_before_the_schedule_was_there_is_given(tmp_path: Path) -> None:
    tower = Tower(tmp_path, schedule(persistent=True), schedule(name="b"))
    tower.start()
    tower.tick()
    assert tower.given == []


def test_what_was_rolled_back_is_given_again(tower: Tower) -> None:
    tower.start()
    tower.clocks.now += MINUTE
    tower.fail()
    assert tower.stored == set()
    tower.tick()
    assert tower.given == minutes(1)


def test_a_schedule_that_is_never_due_again_has_no_next_time(tmp_path: Path) -> None:
    tower = Tower(tmp_path, schedule("2001-01-01"))
    tower.start()
    (view,) = tower.look.views()
    assert (view.next, view.last, view.last_id, view.last_state) == (0.0, 0.0, b"", None)


def test_without_schedules_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    assert Tower(tmp_path).start() == float("inf")


# -- starts


def test_what_was_due_while_the_master_was_down_is_passed_over(tower: Tower) -> None:
    tower.start()
    tower.tick(MINUTE)
    tower.restart(10 * MINUTE)
    tower.tick(MINUTE)
    assert tower.given == minutes(1, 12)


def test_a_persistent_schedule_makes_up_for_it_once(tmp_path: Path) -> None:
    tower = Tower(tmp_path, schedule(persistent=True))
    tower.start()
    tower.tick(MINUTE)
    tower.restart(10 * MINUTE)
    tower.restart()
    tower.tick(MINUTE)
    assert tower.given == minutes(1, 11, 12)


@pytest.mark.parametrize(("persistent", "given"), [(True, ["2026-11-27"]), (False, [])])
def test_days_without_the_master_count_as_one(tmp_path: Path, persistent: bool, given: list[str]) -> None:
    tower = Tower(tmp_path, schedule("daily", persistent=persistent))
    tower.start()
    tower.restart(3 * DAY)
    tower.restart(HOUR)
    tower.tick()
    assert tower.given == [f"a:{day}T00:00:00+00:00" for day in given]


def test_what_was_never_due_is_not_made_up_for(tmp_path: Path) -> None:
    tower = Tower(tmp_path, schedule("daily", persistent=True))
    tower.start()
    tower.restart(HOUR)
    assert tower.given == []
    tower.tick(11 * HOUR)
    assert tower.given == ["a:2026-11-25T00:00:00+00:00"]


def test_a_persistent_schedule_waits_for_room_with_what_it_makes_up_for(tmp_path: Path) -> None:
    tower = Tower(tmp_path, schedule(persistent=True))
    tower.start()
    tower.refuse = ["overloaded"]
    tower.restart(10 * MINUTE)
    tower.tick()
    assert tower.given == []
    tower.refuse = []
    tower.tick(1)
    assert tower.given == minutes(10)


# -- clocks


def test_a_clock_that_is_set_back_gives_nothing_twice_and_goes_on_when_it_is_there_again(tower: Tower) -> None:
    tower.start()
    tower.tick(2 * MINUTE)
    for _ in range(60):
        tower.tick(MINUTE / 60, step=-MINUTE)
    tower.restart()
    assert tower.given == minutes(1, 2)
    tower.tick(step=HOUR)
    assert tower.given == minutes(1, 2, 3)


def test_a_clock_that_is_set_forward_loses_nothing(tower: Tower) -> None:
    tower.start()
    tower.tick(step=HOUR)
    assert tower.given == minutes(*range(1, 61))


@pytest.mark.parametrize(("persistent", "given"), [(True, minutes(15)), (False, [])])
def test_a_step_of_many_hours_is_like_a_time_without_the_master(
    tmp_path: Path, persistent: bool, given: list[str]
) -> None:
    tower = Tower(tmp_path, schedule(persistent=persistent))
    tower.start()
    tower.tick(step=LATE + DAY + 15 * MINUTE)
    assert [key.partition("T")[2] for key in tower.given] == ["15:15:00+00:00"] * len(given)


def test_a_clock_that_was_years_ahead_stops_nothing_once_it_is_right(tmp_path: Path) -> None:
    tower = Tower(tmp_path, schedule())
    tower.start()
    tower.tick(MINUTE)
    tower.tick(step=4 * 365 * DAY)
    tower.tick(MINUTE)
    tower.tick(step=-4 * 365 * DAY)
    tower.tick(MINUTE)
    assert len(tower.given) == 3
    assert tower.given[::2] == minutes(1, 3)


def test_what_comes_again_after_a_clock_that_was_wrong_is_the_same_task(tower: Tower) -> None:
    tower.start()
    tower.tick(2 * MINUTE)
    tower.tick(step=WRONG + HOUR)
    tower.tick(MINUTE)
    tower.tick(step=-WRONG - HOUR - 3 * MINUTE)
    tower.tick(3 * MINUTE)
    assert tower.given.count(minutes(2)[0]) == 2
    assert len([key for key in tower.stored if key == minutes(2)[0]]) == 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), persistent=st.booleans())
def test_whatever_the_clocks_do_and_whatever_is_rolled_back_each_occasion_is_given_once(
    seed: int, persistent: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(seed)
    tower = Tower(tmp_path_factory.mktemp("tower"), schedule("*:0/5", persistent=persistent))
    tower.start()
    latest = START
    for _ in range(30):
        tower.clocks.now += rng.expovariate(1 / 300)
        tower.clocks.jump += rng.choice([0, 0, 0, rng.uniform(-HOUR, HOUR)])
        if rng.random() < 0.3:
            tower.fail()
        if rng.random() < 0.7:
            tower.tick()
            latest = max(latest, tower.clocks.wall())
            if rng.random() < 0.3:
                tower.restart()
    tower.tick()
    latest = max(latest, tower.clocks.wall())
    calendar, expected, at = parse("*:0/5"), [], START
    while (due := calendar.next_after(at, UTC)) is not None and due <= latest:
        expected.append(f"a:{datetime.fromtimestamp(due, UTC).isoformat()}")
        at = due
    assert tower.given == expected
    tower.house.store.close()


# -- reloads


def test_a_new_schedule_and_another_calendar_begin_with_the_reload(tower: Tower) -> None:
    tower.start()
    tower.tick(MINUTE)
    tower.reload(schedule("hourly"), schedule("*:0/2", name="b"))
    tower.tick(HOUR)
    given = [key for key in tower.given if key.startswith("a")]
    assert given == [*minutes(1), "a:2026-11-24T13:00:00+00:00"]
    assert len(tower.given) == len(given) + 30
    tower.restart()
    assert tower.tick() > tower.clocks.now


def test_a_schedule_that_stays_goes_on_where_it_is(tower: Tower) -> None:
    tower.start()
    tower.clocks.now += 2 * MINUTE
    tower.reload(schedule(task=Task(bytes(16), "other", b"new")))
    assert tower.given == minutes(1, 2)
    assert {view.name for view in tower.house.store.page(Page())[0]} == {"other"}


def test_a_schedule_that_is_gone_is_forgotten(tower: Tower) -> None:
    tower.start()
    tower.reload()
    tower.clocks.now += HOUR
    assert tower.look.views() == []
    tower.reload(schedule(persistent=True))
    tower.tick(MINUTE)
    assert len(tower.given) == 1


# -- refusals


def test_what_there_is_no_room_for_comes_later_in_its_order(tower: Tower) -> None:
    tower.start()
    tower.refuse = ["overloaded"]
    assert tower.tick(MINUTE) == pytest.approx(tower.clocks.now + 2.5)
    tower.tick(MINUTE)
    tower.refuse = []
    tower.tick(2.5)
    assert tower.given == minutes(1, 2)


def test_what_is_refused_for_good_is_told_and_passed_over(tower: Tower, caplog: pytest.LogCaptureFixture) -> None:
    tower.start()
    tower.refuse = ["too-large"]
    tower.tick(MINUTE)
    tower.refuse = []
    tower.tick(MINUTE)
    assert tower.given == minutes(2)
    assert "schedule a: its task is refused: no" in caplog.text


# -- what else a schedule may ask for


def test_a_randomized_delay_is_another_one_for_each_time_and_name_but_always_the_same(tmp_path: Path) -> None:
    tower = Tower(tmp_path, *(schedule(name=name, randomized_delay=30.0) for name in "ab"))
    tower.start()
    tower.tick(30)
    for _ in range(9):
        tower.tick(MINUTE)
    waits = {view.key: view.run_at for view in tower.house.store.page(Page())[0]}
    again = [one.occasion(due, due) for one in tower.schedules for due in range(int(START) + 30, int(START) + 601, 60)]
    assert waits == {task.key: pytest.approx(task.run_at, abs=0.01) for task in again if task}
    delays = [run_at % MINUTE for run_at in waits.values()]
    assert len(delays) == len(set(delays)) == 20
    assert 0 <= min(delays) < 8 < 22 < max(delays) <= 30
    assert {view.next - view.last for view in tower.look.views()} != {MINUTE}


def test_what_expires_counts_from_when_it_was_due(tmp_path: Path) -> None:
    expiring = schedule(task=Task(bytes(16), "square", b"", expires=150.0), persistent=True)
    task = expiring.occasion(START, START + 50)
    assert task is not None
    assert task.expires == pytest.approx(100)
    assert expiring.occasion(START, START + 150) is None
    assert schedule().occasion(START, START + DAY) is not None
    tower = Tower(tmp_path, schedule("daily", task=Task(bytes(16), "square", b"", expires=MINUTE), persistent=True))
    tower.start()
    tower.restart(DAY)
    tower.restart()
    assert tower.given == []


def test_people_see_when_it_is_due_and_what_became_of_the_last(tower: Tower) -> None:
    tower.start()
    tower.tick(MINUTE)
    (view,) = tower.look.views()
    assert (view.name, view.calendar, view.task, view.queue) == ("a", "minutely", "square", "default")
    assert (view.next, view.last) == (START + 90, START + 30)
    assert (view.last_id, view.last_state) == (id_of_key(f"schedule:{minutes(1)[0]}"), State.READY)
