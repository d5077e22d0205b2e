"""Who runs what, and when: children are real, and tasks wait for the test where order matters."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from poolside import Poolside, at_the_pool, children, settings

from qdistd.call import encode_call
from qdistd.errors import ConfigError
from qdistd.model import Grant, Held, Outcome

# -- running


@at_the_pool()
async def test_a_task_runs_and_its_result_comes_back(side: Poolside) -> None:
    before = time.time()
    grant = side.give("add", 3, b=4)
    assert await side.result(grant) == 7
    settlement = await side.end(grant)
    assert before <= settlement.started <= time.time()
    assert 0 < settlement.wall < 10
    assert settlement.rss > 1000
    assert side.pool.held() == []


@at_the_pool(processes=3)
async def test_every_task_of_many_is_settled_once(side: Poolside) -> None:
    grants = [side.grant("add", number, 1) for number in range(5000)]
    side.pool.give(grants)
    await side.until(lambda: len(side.settled) >= len(grants))
    assert sorted(settlement.id for settlement in side.settled) == [grant.id for grant in grants]
    assert {settlement.outcome for settlement in side.settled} == {Outcome.SUCCEEDED}


@at_the_pool()
async def test_processor_time_of_programs_that_a_task_starts_counts(side: Poolside) -> None:
    settlement = await side.end(side.give("burn", 0.2))
    assert settlement.cpu >= 0.2


@at_the_pool(processes=2)
async def test_long_tasks_run_side_by_side(side: Poolside) -> None:
    one, two = side.give("hold", side.news, "one", side.gate), side.give("hold", side.news, "two", side.gate)
    await side.hears("one", "two")
    assert side.pool.running() == 2
    assert side.pool.room() == 0
    assert side.pool.held() == [Held(one.id, 1), Held(two.id, 1)]
    side.open_gate()
    assert [await side.result(one), await side.result(two)] == ["one", "two"]


@at_the_pool(processes=1)
async def test_a_large_payload_and_a_large_result_pass(side: Poolside) -> None:
    value = os.urandom(900_000)
    assert await side.run("echo", value) == value


@at_the_pool(processes=1)
async def test_a_name_may_carry_its_module(side: Poolside) -> None:
    assert await side.run("task_samples.add", 1, 2) == 3
    assert await side.run("task_samples:add", 1, 2) == 3


@at_the_pool(processes=1, modules=("task_samples", "math"))
async def test_a_builtin_function_runs_where_its_module_is_allowed(side: Poolside) -> None:
    assert await side.run("math.factorial", 20) == 2432902008176640000


@at_the_pool()
async def test_a_task_that_may_not_run_here_fails_and_says_what_to_change(side: Poolside) -> None:
    failure = await side.failure(side.give("os.system", "true"))
    assert (failure.kind, failure.message) == (
        "not-allowed",
        "os.system: os is not allowed here. Tasks may come from task_samples "
        "(change [worker] tasks in the worker's configuration)",
    )


# -- who waits for whom


@at_the_pool(processes=2)
async def test_nothing_waits_behind_a_task_that_turns_out_long(side: Poolside) -> None:
    await side.teach("nap", 0.0)
    assert side.pool.room() >= 20
    long = side.grant("nap", 1000.0)
    short = [side.grant("nap", 0.0) for _ in range(10)]
    # both children get some of these, and one of them gets the long one first
    side.pool.give([long, *short])
    await side.until(lambda: len(side.settled) == len(short))
    assert side.pool.held() == [Held(long.id, 1)]
    side.pool.cancel(long.id)
    await side.end(long)


@at_the_pool(processes=2)
async def test_nothing_waits_behind_a_task_that_holds_the_interpreter_in_c(side: Poolside) -> None:
    await side.teach("hold_in_c", "/dev/null", "", "b")
    stuck = side.grant("hold_in_c", side.news, "stuck")
    behind = [side.grant("hold_in_c", "/dev/null", "", "b") for _ in range(10)]
    side.pool.give([stuck, *behind])
    await side.hears("stuck")
    await side.until(lambda: len(side.settled) == len(behind))
    assert side.pool.held() == [Held(stuck.id, 1)]


@at_the_pool(processes=1)
async def test_what_waits_behind_a_long_task_runs_when_it_is_over(side: Poolside) -> None:
    await side.teach("hold", "/dev/null", "", "/dev/null")
    long = side.grant("hold", side.news, "long", side.gate)
    behind = [side.grant("hold", "/dev/null", str(number), "/dev/null") for number in range(5)]
    side.pool.give([long, *behind])
    await side.hears("long")
    side.open_gate()
    await side.until(lambda: len(side.settled) == 6)
    ends = [settlement.id for settlement in side.settled]
    assert ends == [grant.id for grant in [long, *behind]]


@at_the_pool(processes=1)
async def test_a_task_of_which_nothing_is_known_runs_alone(side: Poolside) -> None:
    side.give("hold", side.news, "first", side.gate)
    await side.hears("first")
    side.give("add", 1, 2)
    assert side.pool.room() == 0
    assert len(side.pool.recall()) == 1


@at_the_pool(processes=2)
async def test_short_tasks_are_wanted_in_hundreds_and_long_ones_one_for_each_child(side: Poolside) -> None:
    assert side.pool.room() == 2
    await side.teach("add", 1)
    assert side.pool.room() >= 20
    for _ in range(10):
        await side.run("nap", 0.1)
    assert side.pool.room() == 2


@at_the_pool(processes=2)
async def test_room_is_announced_when_a_child_is_free_and_in_large_steps(side: Poolside) -> None:
    side.give("hold", side.news, "a", side.gate)
    side.give("hold", side.news, "b", side.gate)
    await side.hears("a", "b")
    before = len(side.rooms)
    side.open_gate()
    await side.until(lambda: len(side.settled) == 2)
    assert side.rooms[before:]
    await side.teach("add", 1)
    before, count = len(side.rooms), 1000
    side.pool.give([side.grant("add", 1) for _ in range(count)])
    await side.until(lambda: len(side.settled) == count)
    assert len(side.rooms) - before < count / 20


# -- taking back


@at_the_pool(processes=1)
async def test_recall_takes_back_all_that_no_child_has_begun(side: Poolside) -> None:
    await side.teach("hold", "/dev/null", "", "/dev/null")
    long = side.grant("hold", side.news, "long", side.gate)
    behind = [side.grant("add", number) for number in range(20)]
    side.pool.give([long, *behind])
    await side.hears("long")
    assert side.pool.recall() == behind
    assert side.pool.held() == [Held(long.id, 1)]
    side.open_gate()
    assert await side.result(long) == "long"
    assert await side.run("add", 1, 2) == 3


@at_the_pool(processes=1)
async def test_what_has_not_waited_long_enough_is_not_recalled(side: Poolside) -> None:
    side.give("hold", side.news, "long", side.gate)
    waiting = side.give("add", 1)
    await side.hears("long")
    assert side.pool.recall(patience=3600.0) == []
    assert side.pool.recall() == [waiting]


@at_the_pool(processes=1)
async def test_recall_takes_back_what_does_not_fit_into_the_pipe(side: Poolside) -> None:
    await side.teach("echo", "")
    long = side.give("hold", side.news, "long", side.gate)
    await side.hears("long")
    large = [side.grant("echo", b"x" * 60_000) for _ in range(20)]
    side.pool.give(large)
    assert side.pool.recall() == large
    side.open_gate()
    assert await side.result(long) == "long"
    side.pool.give(large)
    assert await side.result(large[-1]) == b"x" * 60_000


@at_the_pool(processes=1)
async def test_a_task_that_waits_is_cancelled_at_once(side: Poolside) -> None:
    await side.teach("hold", "/dev/null", "", "/dev/null")
    first = side.grant("hold", side.news, "first", side.gate)
    second, third = side.grant("add", 2), side.grant("add", 3)
    side.pool.give([first, second, third])
    await side.hears("first")
    side.pool.cancel(second.id)
    assert (await side.failure(second, Outcome.CANCELLED)).kind == "cancelled"
    side.open_gate()
    assert await side.result(third) == 3
    assert len(side.settled) == 3


@at_the_pool(processes=1)
async def test_a_task_that_runs_is_cancelled_and_those_behind_it_run(side: Poolside) -> None:
    await side.teach("hold", "/dev/null", "", "/dev/null")
    first, second = side.grant("hold", side.news, "first", side.gate), side.grant("add", 2)
    side.pool.give([first, second])
    await side.hears("first")
    side.pool.cancel(first.id)
    assert (await side.failure(first, Outcome.CANCELLED)).message == "hold was cancelled"
    assert await side.result(second) == 2
    assert side.log.lines == []


@at_the_pool(processes=1)
async def test_a_task_that_ignores_sigterm_is_cancelled_too(side: Poolside) -> None:
    grant = side.give("hold_against_sigterm", side.news, "deaf", side.gate)
    await side.hears("deaf")
    side.pool.cancel(grant.id)
    assert (await side.failure(grant, Outcome.CANCELLED)).kind == "cancelled"
    assert await side.run("add", 1, 2) == 3


@at_the_pool()
async def test_cancelling_a_task_that_is_not_here_does_nothing(side: Poolside) -> None:
    side.pool.cancel(b"x" * 16)
    assert await side.run("add", 1, 2) == 3


# -- beginning, changing, ending


def test_a_pool_with_no_module_that_can_be_imported_does_not_start(tmp_path: object) -> None:
    async def scene(side: Poolside) -> None:
        with pytest.raises(ConfigError) as error:
            await side.pool.start()
        assert str(error.value) == (
            "[worker] tasks = no_such_module: no module of tasks can be imported: "
            "no_such_module (ModuleNotFoundError: No module named 'no_such_module')"
        )

    _without_start(tmp_path, scene, modules=("no_such_module",))


def test_a_pool_whose_modules_kill_their_process_does_not_start(tmp_path: object) -> None:
    async def scene(side: Poolside) -> None:
        (side.folder / "deadly.py").write_text("import os; os._exit(3)")
        with pytest.raises(ConfigError, match="a child ended by itself with exit status 3 while it imported"):
            await side.pool.start()

    _without_start(tmp_path, scene, modules=("deadly",), path=(str(tmp_path),))


def test_a_pool_whose_modules_write_into_its_pipes_does_not_start(tmp_path: object) -> None:
    async def scene(side: Poolside) -> None:
        (side.folder / "scribbler.py").write_text("from task_samples import scribble; scribble(bytes(45), '/dev/null')")
        with pytest.raises(ConfigError, match="a child said nonsense while it started"):
            await side.pool.start()

    _without_start(tmp_path, scene, modules=("scribbler",), path=(str(tmp_path), str(Path(__file__).parent)))


def test_one_broken_module_costs_only_its_own_tasks(tmp_path: object) -> None:
    async def scene(side: Poolside) -> None:
        (side.folder / "broken.py").write_text("raise SystemExit('not today')")
        await side.pool.start()
        assert await side.run("add", 1, 2) == 3
        failure = await side.failure(side.give("broken.add"))
        assert failure.kind == "not-found"
        assert "broken cannot be imported here: SystemExit: not today" in failure.message
        assert [line for line in side.log.lines if not line.startswith("task ")] == [
            "tasks of these modules will fail, as they cannot be imported: broken (SystemExit: not today)"
        ]

    path = (*settings().path, str(tmp_path))
    _without_start(tmp_path, scene, processes=2, modules=("broken", "task_samples"), path=path)


@at_the_pool(processes=1)
async def test_a_resized_pool_leaves_alone_what_runs(side: Poolside) -> None:
    long = side.give("hold", side.news, "long", side.gate)
    await side.hears("long")
    side.pool.resize(settings(processes=3, modules=("task_samples", "math")))
    assert await side.run("math.factorial", 3) == 6
    assert side.pool.held() == [Held(long.id, 1)]
    side.open_gate()
    assert await side.result(long) == "long"
    await side.until(lambda: side.pool.room() >= 3)


@at_the_pool(processes=1)
async def test_a_child_that_goes_when_its_task_ends_makes_its_successor_no_less_idle(side: Poolside) -> None:
    long = side.give("hold", side.news, "long", side.gate)
    await side.hears("long")
    assert side.pool.idle() == 0
    side.pool.resize(settings(processes=1))
    await side.until(lambda: side.pool.idle() == 1)
    side.open_gate()
    assert await side.result(long) == "long"


@at_the_pool(processes=3)
async def test_a_pool_can_shrink(side: Poolside) -> None:
    side.pool.resize(settings(processes=1))
    while len(children()) != 1:
        assert await side.run("add", 1, 2) == 3


@at_the_pool(processes=2)
async def test_settings_that_no_child_can_start_with_are_not_taken(side: Poolside) -> None:
    side.pool.resize(settings(modules=("no_such_module",)))
    await side.until(lambda: side.log.lines)
    assert "the old settings of the pool stay" in side.log.lines[0]
    assert await side.run("add", 1, 2) == 3


@at_the_pool(processes=2)
async def test_resizing_brings_in_the_code_as_it_is_now(side: Poolside) -> None:
    source = side.folder / "changing.py"
    source.write_text("def age(): return 'old'")
    changed = settings(modules=("changing",), path=(str(side.folder),))
    side.pool.resize(changed)
    while await side.say("age") != "old":
        """Those of before do not know it."""
    source.write_text("def age(): return 'brand new'")
    side.pool.resize(changed)
    while await side.say("age") != "brand new":
        """Those of before know what they have imported."""


@at_the_pool(processes=2)
async def test_a_pool_that_closes_hands_back_what_it_has(side: Poolside) -> None:
    grants = [side.give("hold", side.news, word, side.gate) for word in ("a", "b", "c")]
    await side.hears("a", "b")
    await side.pool.close()
    for grant in grants:
        assert (await side.failure(grant, Outcome.RELEASED)).kind == "stopped"
    assert side.pool.held() == []
    assert children() == []
    late = side.give("add", 1)
    assert (await side.failure(late, Outcome.RELEASED)).kind == "stopped"


@at_the_pool(processes=2)
async def test_a_dead_child_leaves_no_descriptor_and_no_process(side: Poolside) -> None:
    before = _descriptors()
    for _ in range(3):
        await side.failure(side.give("leave", 3), Outcome.CRASHED)
    while len(children()) != 2 or side.pool.room() < 2:
        await side.run("add", 1)
    assert _descriptors() == before
    await side.pool.close()
    await side.pool.close()
    assert children() == []


@at_the_pool(processes=1)
async def test_throughput(side: Poolside) -> None:
    """Prints how fast one child runs n * n through a pool; machines differ, so nothing is asserted."""
    count, payload = 30_000, encode_call((7, 1), {})
    grants = [Grant(number.to_bytes(16, "big"), 1, "add", payload) for number in range(count)]
    await side.teach("add", 1)
    begin = time.perf_counter()
    while grants:
        room = side.pool.room()
        side.rooms.clear()
        side.pool.give(grants[:room])
        del grants[:room]
        await side.until(lambda: side.rooms)
    await side.until(lambda: len(side.settled) == count)
    seconds = time.perf_counter() - begin
    print(f"{count / seconds:,.0f} tasks/s, {seconds / count * 1e6:.1f} µs per task, through one child")


# -- helpers


def _without_start(folder: object, scene: object, **changes: object) -> None:
    async def whole() -> None:
        side = Poolside(folder, settings(**changes))  # type: ignore[arg-type]  # tmp_path is a Path
        try:
            await scene(side)  # type: ignore[operator]  # a coroutine function
        finally:
            await side.close()

    asyncio.run(whole())


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
