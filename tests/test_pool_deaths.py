"""Children that die, hang, leak and lie: the task that did it is named, and its neighbours run."""

import contextlib
import os
import random
import select
import signal

import pytest
from poolside import Poolside, at_the_pool, children, settings

from qdistd.child.frames import CUT_OFF
from qdistd.model import Failure, Outcome

# -- deaths


@pytest.mark.parametrize(
    ("name", "args", "kind", "number"),
    [
        ("segfault", (), "signal", signal.SIGSEGV),
        ("leave", (3,), "exit", 3),
        ("leave", (0,), "exit", 0),
        ("kill_oneself", (9,), "signal", signal.SIGKILL),
        ("kill_oneself", (signal.SIGRTMIN + 1,), "signal", signal.SIGRTMIN + 1),
        ("close_everything", (), "exit", CUT_OFF),
        ("write_everywhere", (), "signal", signal.SIGKILL),
    ],
)
@at_the_pool()
async def test_a_task_that_kills_its_child_has_crashed_and_the_next_one_runs(
    side: Poolside, name: str, args: tuple[int, ...], kind: str, number: int
) -> None:
    killer, behind = side.grant(name, *args), side.grant("add", 1, 2)
    side.pool.give([killer, behind])
    failure = await side.failure(killer, Outcome.CRASHED)
    assert (failure.kind, failure.number) == (kind, number)
    assert failure.message.startswith((f"the child that ran {name} ", f"{name} wrote into pipes"))
    assert await side.result(behind) == 3


@at_the_pool()
async def test_a_child_that_is_killed_while_it_runs_a_task_is_replaced(side: Poolside) -> None:
    grant = side.give("hold", side.news, "running", side.gate)
    await side.hears("running")
    [pid] = children()
    os.kill(pid, signal.SIGKILL)
    failure = await side.failure(grant, Outcome.CRASHED)
    assert failure == Failure(
        "signal",
        "the child that ran hold was killed by signal 9 (SIGKILL): "
        "by somebody, or by the kernel because memory ran out",
        number=9,
    )
    settlement = await side.end(grant)
    assert settlement.rss > 1000
    assert settlement.wall > 0
    assert await side.run("add", 1, 2) == 3
    assert pid not in children()


@at_the_pool()
async def test_only_the_task_that_ran_is_blamed_for_a_death(side: Poolside) -> None:
    await side.teach("add", 1)
    await side.teach("hold", "/dev/null", "", "/dev/null")
    before = [side.grant("add", number) for number in range(20)]
    killer = side.grant("hold", side.news, "killer", side.gate)
    behind = [side.grant("add", number) for number in range(20)]
    side.pool.give([*before, killer, *behind])
    await side.hears("killer")
    os.kill(children()[0], signal.SIGKILL)
    await side.failure(killer, Outcome.CRASHED)
    for number, grant in enumerate([*before, *behind]):
        assert await side.result(grant) == number % 20
    assert len(side.settled) == 41


@at_the_pool()
async def test_a_result_that_came_before_nonsense_counts(side: Poolside) -> None:
    await side.teach("scribble", b"", "/dev/null")
    good, bad = side.grant("scribble", b"", "/dev/null"), side.grant("scribble", b"x" * 99, side.news)
    side.pool.give([good, bad])
    assert side.reads_before_the_pool() == "scribbled"
    await side.result(good)
    assert "wrote into pipes" in (await side.failure(bad, Outcome.CRASHED)).message
    assert side.pool.held() == []


@at_the_pool(processes=2)
async def test_a_child_that_is_stopped_while_idle_is_replaced_and_its_tasks_run(side: Poolside) -> None:
    await side.teach("add", 1)
    side.give("hold_and_tell_pid", side.news, side.gate)
    await side.until(lambda: side.heard)
    [idle] = [pid for pid in children() if pid != int(side.heard[0])]
    os.kill(idle, signal.SIGSTOP)
    grants = [side.grant("add", number) for number in range(3)]
    side.pool.give(grants)
    assert [await side.result(grant) for grant in grants] == [0, 1, 2]
    assert idle not in children()
    assert side.log.lines == [
        f"child {idle} does not take up its tasks: it is replaced, and they go to others",
    ]


@at_the_pool()
async def test_a_task_that_never_began_is_not_blamed_for_its_time(side: Poolside) -> None:
    [pid] = children()
    os.kill(pid, signal.SIGSTOP)
    assert await side.result(side.give("add", 1, 2, timeout=0.1)) == 3


@at_the_pool(processes=2)
async def test_an_idle_child_that_is_killed_is_replaced_and_nobody_is_blamed(side: Poolside) -> None:
    await side.teach("add", 1)
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    await side.until(lambda: len(side.log.lines) >= 2)
    assert await side.run("add", 1, 2) == 3
    assert {settlement.outcome for settlement in side.settled} == {Outcome.SUCCEEDED}


@at_the_pool(processes=1)
async def test_the_log_names_the_task_that_ran_when_a_child_died(side: Poolside) -> None:
    grant = side.give("leave", 3)
    await side.failure(grant, Outcome.CRASHED)
    [line] = side.log.lines
    assert line.endswith("ended by itself with exit status 3 while it ran task 00000000-0000-0000-0000-000000000001")


@at_the_pool(processes=2)
async def test_a_crowd_of_killers_does_not_stop_the_rest(side: Poolside) -> None:
    killers = [side.grant("leave", 1) for _ in range(10)]
    others = [side.grant("add", number) for number in range(100)]
    side.pool.give([grant for pair in zip(killers, others, strict=False) for grant in pair] + others[10:])
    for grant in killers:
        await side.failure(grant, Outcome.CRASHED)
    for number, grant in enumerate(others):
        assert await side.result(grant) == number


@at_the_pool(processes=3)
async def test_under_a_hail_of_kills_every_task_is_settled_once(side: Poolside) -> None:
    dice, kills = random.Random(7), 30
    grants = [side.grant("nap", dice.choice([0.0, 0.0, 0.0, 0.001, 0.01])) for _ in range(3000)]
    side.pool.give(grants)
    for number in range(kills):
        await side.until(lambda: len(side.settled) >= 50 * number and children())  # noqa: B023 - used at once
        os.kill(dice.choice(children()), signal.SIGKILL)
    await side.until(lambda: len(side.settled) == len(grants))
    assert sorted(settlement.id for settlement in side.settled) == [grant.id for grant in grants]
    crashed = sum(settlement.outcome is Outcome.CRASHED for settlement in side.settled)
    assert 0 < crashed <= kills


@at_the_pool(processes=1)
async def test_a_module_that_breaks_while_the_pool_works_is_tried_again(side: Poolside) -> None:
    module = side.folder / "fragile.py"
    module.write_text("def twice(n): return n + n")
    side.pool.resize(settings(modules=("fragile",), path=(str(side.folder),)))
    while await side.say("twice", 2) != 4 or len(children()) > 1:
        """The child of before does not know it, and takes a moment to go."""
    module.write_text("import no_such_module")
    [pid] = children()
    os.kill(pid, signal.SIGKILL)
    await side.until(lambda: sum("no module of tasks can be imported" in line for line in side.log.lines) >= 3)
    grant = side.give("twice", 3)
    module.write_text("def twice(n): return n * 2")
    assert await side.result(grant) == 6


# -- limits


@at_the_pool()
async def test_a_task_that_takes_too_long_is_killed_with_all_it_has_started(side: Poolside) -> None:
    grant = side.give("hold_with_grandchild", side.news, side.gate, timeout=0.5)
    await side.until(lambda: side.heard)
    with _watched(int(side.heard[0])) as grandchild:
        failure = await side.failure(grant)
        _wait_for_end(grandchild)
    assert failure == Failure("timeout", "hold_with_grandchild ran longer than its limit of 0.5 seconds and was killed")
    assert (await side.end(grant)).wall >= 0.5
    assert await side.run("add", 1, 2) == 3
    assert [line for line in side.log.lines if not line.startswith("task ")] == []


@at_the_pool(timeout=0.5)
async def test_the_pool_limits_tasks_that_bring_no_limit_of_their_own(side: Poolside) -> None:
    brief, lasting = side.grant("nap", 1000.0), side.grant("nap", 1.0, timeout=60.0)
    side.pool.give([brief, lasting])
    assert (await side.failure(brief)).kind == "timeout"
    assert await side.result(lasting) == 1.0


@at_the_pool()
async def test_the_limit_of_a_task_counts_from_its_own_start(side: Poolside) -> None:
    await side.teach("nap", 0.0)
    grants = [side.grant("nap", 0.4, timeout=0.8) for _ in range(4)]
    side.pool.give(grants)
    for grant in grants:
        assert await side.result(grant) == 0.4


@pytest.mark.parametrize("name", ["hold_in_c", "stop_oneself"])
@at_the_pool()
async def test_a_child_that_hears_nothing_any_more_is_killed_in_time(side: Poolside, name: str) -> None:
    grant = side.give(name, side.news, "deaf", timeout=0.5)
    await side.hears("deaf")
    assert (await side.failure(grant)).kind == "timeout"
    assert await side.run("add", 1, 2) == 3


@at_the_pool()
async def test_a_child_without_pipes_is_killed_in_time_and_costs_no_processor_until_then(side: Poolside) -> None:
    grant = side.give("hold_after_closing_everything", side.news, "cut off", side.gate, timeout=1.0)
    await side.hears("cut off")
    before = os.times().user
    assert (await side.failure(grant)).kind == "timeout"
    assert os.times().user - before < 0.5
    assert await side.run("add", 1, 2) == 3


@at_the_pool()
async def test_a_child_without_pipes_is_killed_though_its_task_has_no_limit(side: Poolside) -> None:
    grant = side.give("hold_after_closing_everything", side.news, "cut off", side.gate)
    failure = await side.failure(grant, Outcome.CRASHED)
    assert failure.message == ("hold_after_closing_everything closed the pipes of its child, which was killed for it")
    assert await side.run("add", 1, 2) == 3


@at_the_pool(memory=200 << 20)
async def test_a_task_that_takes_too_much_memory_fails_and_its_child_lives(side: Poolside) -> None:
    [pid] = children()
    failure = await side.failure(side.give("take_memory", 1 << 30))
    assert (failure.kind, failure.type) == ("memory", "MemoryError")
    assert failure.message == "take_memory wanted more memory than its limit of 200 MiB"
    assert await side.run("take_memory", 1 << 20) == 1 << 20
    assert children() == [pid]


@at_the_pool(result=1000)
async def test_a_result_that_is_too_large_is_refused_with_advice(side: Poolside) -> None:
    failure = await side.failure(side.give("give_bytes", 100_000_000))
    assert failure == Failure(
        "too-large",
        "the result of give_bytes is over 1000 bytes. Write it to a file and return its path, "
        "or raise [limits] result in the worker's configuration",
    )
    assert await side.run("give_bytes", 900) == b"x" * 900


# -- what a child is, and leaves


@at_the_pool()
async def test_a_child_inherits_nothing_of_the_worker(side: Poolside, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("QDIST_KEY", "QDIST_KEY_FILE", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "CREDENTIALS_DIRECTORY")
    for name in ours:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HARMLESS", "kept")
    [pid] = children()
    os.kill(pid, signal.SIGKILL)  # the next one is born into this environment
    await side.until(lambda: side.log.lines)
    inherited = os.open("/dev/zero", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    found = await side.run("surroundings")
    os.close(inherited)
    assert not set(ours) & set(found["environment"])
    assert found["environment"]["HARMLESS"] == "kept"
    assert found["descriptors"] == ["/memfd", *["pipe"] * 4]
    assert found["inherited"] == ["0", "1", "2"]
    assert found["session"]
    assert found["stdin"] == ""
    assert found["arguments"] == ["-c"]
    assert found["modules"] == []


@at_the_pool()
async def test_a_secret_of_the_worker_is_not_in_the_memory_of_a_child(side: Poolside) -> None:
    halves = ("canary-", os.urandom(8).hex())
    secret = "".join(halves)
    assert not await side.run("find_in_memory", *halves)
    assert await side.run("find_secret", secret, *halves), "the search finds what is there"


@at_the_pool()
async def test_what_a_task_left_running_ends_with_its_child(side: Poolside) -> None:
    with _watched(await side.run("leave_grandchild")) as grandchild:
        await side.failure(side.give("leave", 1), Outcome.CRASHED)
        _wait_for_end(grandchild)


@at_the_pool()
async def test_a_task_that_forks_and_returns_twice_is_settled_once(side: Poolside) -> None:
    assert await side.run("fork_and_return") == 7
    assert await side.run("add", 1, 2) == 3
    assert len(side.settled) == 2


@contextlib.contextmanager
def _watched(pid: int) -> object:
    """A pidfd of a process that is not ours to wait for."""
    watch = os.pidfd_open(pid)
    try:
        yield watch
    finally:
        os.close(watch)


def _wait_for_end(watch: int) -> None:
    assert select.select([watch], [], [], 10.0)[0], "it still runs"
