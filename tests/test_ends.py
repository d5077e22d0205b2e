"""How a task ends that ends by order, by its own wish or late; and when its child does not end with it."""

import asyncio
import os
import random
import select
import signal
import time
from typing import Any

import msgspec
import pytest
from clearing import clearing
from poolside import Poolside, at_the_pool, children, settings
from samples import MODULES

import qdistd
from qdistd.model import Grant, Outcome, id_text

AT_ONCE = 1.0
"""Seconds in which a task that runs has heard that it is cancelled."""


def give(side: Poolside, name: str, *args: object, **options: Any) -> Grant:
    """A task with options of a grant."""
    grant = msgspec.structs.replace(side.grant(name, *args), **options)
    side.pool.give([grant])
    return grant


# -- another try, or none


@pytest.mark.parametrize(
    ("after", "message", "words"),
    [
        (60.0, "", "the task wants another try in 60 seconds"),
        (None, "", "the task wants another try"),
        (0, "the site is closed", "the site is closed"),
    ],
)
@at_the_pool(modules=MODULES)
async def test_a_task_that_wants_another_try_says_when(
    side: Poolside, after: float | None, message: str, words: str
) -> None:
    grant = side.give("retry", after, message)
    failure = await side.failure(grant)
    assert (failure.kind, failure.message) == ("retry", words)
    assert (await side.end(grant)).wait == (-1.0 if after is None else after)
    assert side.log.lines == [f"task retry {_text(grant)} ended after {(await side.end(grant)).wall:.3g} s: {words}"]


@pytest.mark.parametrize("after", [-1, 1e12, float("nan"), "soon"])
def test_another_try_at_no_time_is_refused(after: Any) -> None:
    with pytest.raises(qdistd.Refused, match=r"Retry\(after=.*\) will not do; expected seconds from 0 to"):
        qdistd.Retry(after)


@at_the_pool(modules=MODULES)
async def test_an_exception_of_ones_own_that_is_a_retry_is_one(side: Poolside) -> None:
    grant = side.give("retry_badly")
    assert (await side.failure(grant)).kind == "retry"
    assert (await side.end(grant)).wait == -1.0


@at_the_pool(modules=MODULES)
async def test_a_task_that_rejects_has_failed_for_good(side: Poolside) -> None:
    failure = await side.failure(side.give("reject", "no such customer"), Outcome.REJECTED)
    assert (failure.kind, failure.message) == ("rejected", "no such customer")
    assert "raise qdistd.Reject(why)" in failure.traceback


# -- the soft limit of time


@at_the_pool(modules=MODULES)
async def test_a_task_that_is_late_gets_an_exception_and_its_child_goes_on(side: Poolside) -> None:
    [pid] = children()
    grant = give(side, "outlast", side.news, side.gate, soft_timeout=0.3, timeout=60.0)
    failure = await side.failure(grant)
    assert (failure.kind, failure.type) == ("soft-timeout", "qdistd.errors.SoftTimeout")
    assert failure.message == "outlast ran longer than its soft limit of 0.3 seconds"
    assert "Path(gate).read_bytes()" in failure.traceback
    assert 0.3 <= (await side.end(grant)).wall < 5.0
    assert children() == [pid]


@at_the_pool(modules=MODULES, soft_timeout=0.3)
async def test_a_task_that_is_late_by_the_settings_of_its_worker_can_come_to_an_end(side: Poolside) -> None:
    assert "soft limit of 0.3 seconds" in await side.run("outlast_politely", side.news, side.gate)
    assert await side.result(give(side, "nap", 0.5, soft_timeout=60.0)) == 0.5


@at_the_pool(modules=MODULES)
async def test_a_task_that_does_not_care_is_killed_at_its_hard_limit(side: Poolside) -> None:
    grant = give(side, "outlast_all", side.news, side.gate, soft_timeout=0.2, timeout=1.0)
    await side.hears("warned")
    assert (await side.failure(grant)).kind == "timeout"


@at_the_pool(modules=MODULES)
async def test_a_limit_ends_with_its_task(side: Poolside) -> None:
    assert await side.result(give(side, "nap", 0.0, soft_timeout=0.2)) == 0.0
    assert await side.result(give(side, "nap", 0.4)) == 0.4
    assert await side.run("alarms") == (True, 0.0)


# -- an order to end


@at_the_pool(modules=MODULES)
async def test_a_task_that_is_cancelled_can_tidy_up_and_its_child_goes_on(side: Poolside) -> None:
    [pid] = children()
    grant = side.give("tidy_up", side.news, side.gate)
    await side.hears("begun False")
    begin = time.monotonic()
    side.pool.cancel(grant.id)
    side.pool.cancel(grant.id)
    await side.hears("tidied True")
    failure = await side.failure(grant, Outcome.CANCELLED)
    assert time.monotonic() - begin < AT_ONCE
    assert (failure.kind, failure.message) == ("cancelled", "tidy_up was cancelled")
    side.pool.cancel(grant.id)
    assert (await side.run("who"))["cancelled"] is False
    assert children() == [pid]
    assert side.log.lines == []


@at_the_pool(modules=MODULES)
async def test_a_cancelled_task_that_raises_something_else_is_cancelled_all_the_same(side: Poolside) -> None:
    grant = side.give("tidy_up_in_vain", side.news, side.gate)
    await side.hears("begun")
    side.pool.cancel(grant.id)
    assert (await side.failure(grant, Outcome.CANCELLED)).kind == "cancelled"
    assert await side.run("add", 1, 2) == 3


@at_the_pool(modules=MODULES)
async def test_a_cancelled_task_that_comes_to_its_end_has_a_result(side: Poolside) -> None:
    [pid] = children()
    grant = side.give("finish_all_the_same", side.news, side.gate)
    await side.hears("begun")
    side.pool.cancel(grant.id)
    assert await side.result(grant) == "done"
    assert await side.run("add", 1, 2) == 3
    assert children() == [pid]


@at_the_pool(modules=MODULES)
async def test_a_thread_sees_that_its_task_is_cancelled(side: Poolside) -> None:
    grant = side.give("watch_from_a_thread", side.news)
    await side.hears("begun")
    side.pool.cancel(grant.id)
    await side.hears("seen")
    await side.failure(grant, Outcome.CANCELLED)


@at_the_pool(modules=MODULES, grace=0.3)
async def test_a_task_that_ignores_the_order_is_killed_after_its_grace(side: Poolside) -> None:
    [pid] = children()
    grant = side.give("ignore_all", side.news, side.gate)
    await side.hears("begun")
    begin = time.monotonic()
    side.pool.cancel(grant.id)
    await side.failure(grant, Outcome.CANCELLED)
    assert 0.3 <= time.monotonic() - begin < 0.3 + AT_ONCE
    assert await side.run("add", 1, 2) == 3
    assert pid not in children()


@at_the_pool(modules=MODULES)
async def test_a_busy_loop_is_cancelled(side: Poolside) -> None:
    grant = side.give("spin", side.news)
    await side.hears("begun")
    side.pool.cancel(grant.id)
    await side.failure(grant, Outcome.CANCELLED)


@at_the_pool(modules=MODULES)
async def test_without_a_cgroup_a_child_ends_with_a_program_that_its_cancelled_task_has_left(side: Poolside) -> None:
    """The process group goes with its leader; a program in a session of its own needs a cgroup."""
    [pid] = children()
    grant = side.give("run_a_program", side.news)
    await side.until(lambda: side.heard)
    side.pool.cancel(grant.id)
    await side.failure(grant, Outcome.CANCELLED)
    assert await side.run("pid") != pid
    os.kill(int(side.heard[0]), signal.SIGKILL)


@at_the_pool(clearing, modules=MODULES)
async def test_in_a_cgroup_a_program_of_a_cancelled_task_ends_and_the_child_goes_on(side: Poolside) -> None:
    [pid] = children()
    grant = side.give("run_a_program", side.news)
    await side.until(lambda: side.heard)
    program = os.pidfd_open(int(side.heard[0]))
    side.pool.cancel(grant.id)
    await side.failure(grant, Outcome.CANCELLED)
    assert select.select([program], [], [], AT_ONCE)[0]
    os.close(program)
    assert await side.run("pid") == pid


@at_the_pool(modules=MODULES)
async def test_a_task_that_raises_cancelled_by_itself_has_failed(side: Poolside) -> None:
    failure = await side.failure(side.give("raise_cancelled"))
    assert (failure.kind, failure.type) == ("exception", "qdistd.errors.Cancelled")


@at_the_pool(modules=MODULES)
async def test_a_sigterm_of_somebody_else_ends_the_task_and_costs_it_as_any_signal_does(side: Poolside) -> None:
    [pid] = children()
    grant = side.give("tidy_up", side.news, side.gate)
    await side.hears("begun False")
    os.kill(pid, signal.SIGTERM)
    failure = await side.failure(grant, Outcome.CRASHED)
    assert (failure.kind, failure.number) == ("signal", signal.SIGTERM)
    assert "which its worker had not sent" in failure.message
    assert await side.run("pid") == pid


@at_the_pool(modules=MODULES)
async def test_a_sigterm_between_tasks_ends_the_child(side: Poolside) -> None:
    await side.run("add", 1)
    [pid] = children()
    os.kill(pid, signal.SIGTERM)
    await side.until(lambda: side.log.lines)
    assert side.log.lines == [f"child {pid}, which had no task, was killed by signal 15 (SIGTERM)"]
    assert await side.run("pid") != pid


@at_the_pool(modules=MODULES)
async def test_a_task_that_leaves_the_child_deaf_deafens_no_other(side: Poolside) -> None:
    await side.run("replace_the_handler")
    grant = side.give("tidy_up", side.news, side.gate)
    await side.hears("begun False")
    side.pool.cancel(grant.id)
    await side.hears("tidied True")


@at_the_pool(modules=MODULES)
async def test_a_forked_copy_of_a_task_ends_by_sigterm_as_ever(side: Poolside) -> None:
    assert await side.run("kill_a_copy") == -signal.SIGTERM


@at_the_pool(modules=MODULES)
async def test_a_worker_that_stops_lets_tasks_tidy_up_and_hands_them_back(side: Poolside) -> None:
    grant = side.give("tidy_up", side.news, side.gate)
    await side.hears("begun False")
    await side.pool.close()
    await side.hears("tidied True")
    assert (await side.failure(grant, Outcome.RELEASED)).kind == "stopped"
    assert children() == []


@at_the_pool(modules=MODULES, processes=2, grace=10.0)
async def test_in_a_hail_of_orders_every_task_ends_once_and_only_those_named_are_cancelled(side: Poolside) -> None:
    dice = random.Random(7)
    grants = [side.grant("nap", dice.choice([0.0, 0.0, 0.001, 0.003])) for _ in range(2000)]
    side.pool.give(grants)
    named = set()
    for number in range(200):
        await side.until(lambda: len(side.settled) >= 8 * number)  # noqa: B023 - used at once
        running = [held.id for held in side.pool.held()[:3]]
        if running:
            named.add(dice.choice(running))
            side.pool.cancel(dice.choice(sorted(named)))
    await side.until(lambda: len(side.settled) == len(grants))
    assert sorted(settlement.id for settlement in side.settled) == [grant.id for grant in grants]
    ends = {settlement.id: settlement.outcome for settlement in side.settled}
    assert set(ends.values()) <= {Outcome.SUCCEEDED, Outcome.CANCELLED, Outcome.RELEASED}
    assert {key for key, outcome in ends.items() if outcome is Outcome.CANCELLED} <= named
    assert sum(outcome is Outcome.RELEASED for outcome in ends.values()) <= 20


@at_the_pool(modules=MODULES, processes=2, child_tasks=30)
async def test_in_a_hail_of_kills_and_orders_with_children_that_are_replaced_every_task_ends_once(
    side: Poolside,
) -> None:
    dice = random.Random(11)
    grants = [side.grant("nap", dice.choice([0.0, 0.001, 0.005])) for _ in range(1500)]
    side.pool.give(grants)
    for number in range(60):
        await side.until(lambda: len(side.settled) >= 20 * number and children())  # noqa: B023 - used at once
        held = side.pool.held()
        if held and number % 2:
            side.pool.cancel(held[0].id)
        else:
            os.kill(dice.choice(children()), dice.choice([signal.SIGKILL, signal.SIGTERM]))
    await side.until(lambda: len(side.settled) == len(grants))
    assert sorted(settlement.id for settlement in side.settled) == [grant.id for grant in grants]
    assert side.pool.held() == []


# -- children that are worn out


@at_the_pool(modules=MODULES, child_tasks=10)
async def test_a_child_is_replaced_after_so_many_tasks(side: Poolside) -> None:
    pids = [await side.run("pid") for _ in range(10)]
    assert len(set(pids)) == 1
    while await side.run("pid") == pids[0]:
        """The next one stands in a moment, and until then this one goes on."""
    await side.gone(pids[0])
    assert side.log.lines == []


@at_the_pool(modules=MODULES, child_tasks=200)
async def test_while_children_are_replaced_the_service_has_no_gap(side: Poolside) -> None:
    seen, longest = set(), 0.0
    while len(seen) < 4:
        begin = time.perf_counter()
        seen.add(await side.run("pid"))
        longest = max(longest, time.perf_counter() - begin)
    print(f"longest wait for a task while three children were replaced: {longest * 1e3:.1f} ms")
    assert {settlement.outcome for settlement in side.settled} == {Outcome.SUCCEEDED}


@at_the_pool(modules=MODULES, child_tasks=1)
async def test_who_is_worn_out_ends_its_task_before_its_heir_begins_one(side: Poolside) -> None:
    first = await side.run("pid")
    grant = side.give("hold", side.news, "long", side.gate)
    await side.hears("long")
    while len(side.pool._children) != 2:
        await asyncio.sleep(0.01)  # nobody is told when the heir stands
    behind = side.give("pid")
    assert side.pool.running() == 1
    assert side.pool.room() == 0
    side.open_gate()
    assert await side.result(grant) == "long"
    assert await side.result(behind) != first


@at_the_pool(modules=MODULES, child_memory=100 << 20)
async def test_a_child_that_has_grown_too_large_is_replaced_after_its_task(side: Poolside) -> None:
    first = await side.run("keep", 10 << 20)
    assert await side.run("keep", 200 << 20) == first
    while await side.run("pid") == first:
        """The next one stands in a moment."""
    assert [settlement.outcome for settlement in side.settled if settlement.outcome is not Outcome.SUCCEEDED] == []


@at_the_pool(modules=MODULES, child_memory=100 << 20)
async def test_a_child_that_was_large_for_a_while_is_kept(side: Poolside) -> None:
    [first] = children()
    await side.run("take_memory", 200 << 20)
    for _ in range(20):
        assert await side.run("pid") == first
    assert children() == [first]


@at_the_pool(modules=MODULES, child_tasks=5, processes=2)
async def test_settings_can_change_while_children_are_replaced(side: Poolside) -> None:
    for number in range(30):
        assert await side.run("add", number) == number
        if number in (7, 20):
            side.pool.resize(settings(modules=MODULES, child_tasks=5, processes=1 + number % 3))
    await side.pool.close()
    assert children() == []


def _text(grant: Grant) -> str:
    return id_text(grant.id)
