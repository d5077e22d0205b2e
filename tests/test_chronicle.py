"""What the log of a master hears of its tasks."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from qdistd import protocol as say
from qdistd.broker import QueueLimits, Settings
from qdistd.call import encode_failure
from qdistd.events import Event
from qdistd.lifecycle import Policy
from qdistd.model import Failure, Grant, Outcome, Settlement, id_text
from tests.serving import run, serving, task

WORSE = encode_failure(Failure("exception", "no\nsuch thing", "ValueError"))

Logged = pytest.LogCaptureFixture


def ended(grant: Grant, outcome: Outcome) -> Settlement:
    return Settlement(grant.id, grant.attempt, outcome, WORSE if outcome else b"v")


def told_of(caplog: Logged, event: Event) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "message_id", "") == event.value]


def life_of_a_task(folder: Path, outcome: Outcome, *, retries: int = 0) -> str:
    """Submit one task and end its first attempt so; its id."""
    new = task(7, retries=retries)

    async def scenario() -> None:
        async with serving(folder, broker=Settings(policy=Policy(crashes=1))) as served:
            client, worker = await served.link(), await served.worker()
            await client.call(say.Submit([new]))
            (grant,) = (await worker.call(say.Lease(["default"], 1, 20.0))).grants
            await worker.call(say.Report([ended(grant, outcome)]))

    run(scenario)
    return id_text(new.id)


@pytest.mark.parametrize(
    ("outcome", "retries", "event", "level"),
    [
        (Outcome.FAILED, 0, Event.TASK_FAILED, logging.WARNING),
        (Outcome.FAILED, 1, Event.TASK_RETRIED, logging.WARNING),
        (Outcome.CRASHED, 0, Event.TASK_QUARANTINED, logging.ERROR),
        (Outcome.REJECTED, 9, Event.TASK_FAILED, logging.WARNING),
    ],
)
def test_trouble_is_told_at_once_with_all_its_names(
    tmp_path: Path, caplog: Logged, outcome: Outcome, retries: int, event: Event, level: int
) -> None:
    caplog.set_level(logging.INFO)
    task_id = life_of_a_task(tmp_path, outcome, retries=retries)
    (record,) = told_of(caplog, event)
    fields = record.__dict__["qdist"]
    assert record.levelno == level
    assert "ValueError: no such thing" in record.getMessage(), "one line, whatever the exception says"
    assert fields["TASK_ID"] == task_id
    assert (fields["TASK"], fields["QUEUE"], fields["ATTEMPT"]) == ("square", "default", 1)
    assert (fields["CAUSE"], fields["ERROR_TYPE"]) == ("exception", "ValueError")
    assert fields["WORKER"]


def test_what_goes_well_is_a_number_in_the_summary(tmp_path: Path, caplog: Logged) -> None:
    caplog.set_level(logging.INFO)
    task_id = life_of_a_task(tmp_path, Outcome.SUCCEEDED)
    (record,) = told_of(caplog, Event.SUMMARY)
    assert "1 submitted, 1 succeeded" in record.getMessage()
    assert task_id not in caplog.text


def test_at_level_debug_every_move_of_a_task_has_a_line_with_its_id(tmp_path: Path, caplog: Logged) -> None:
    caplog.set_level(logging.DEBUG)
    task_id = life_of_a_task(tmp_path, Outcome.SUCCEEDED)
    lines = [record.getMessage() for record in caplog.records if task_id in record.getMessage()]
    assert [line.partition(": ")[2].split(" on ")[0] for line in lines] == [
        "was submitted",
        "attempt 1 was leased to w",
        "attempt 1 succeeded",
    ]


def test_a_lost_task_names_the_worker_that_had_it(tmp_path: Path, caplog: Logged) -> None:
    caplog.set_level(logging.INFO)
    new = task(7)

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            client, worker = await served.link(), await served.worker()
            await client.call(say.Submit([new]))
            await worker.call(say.Lease(["default"], 1, 20.0))
            worker.close()
            await until(lambda: bool(told_of(caplog, Event.TASK_LOST)))

    run(scenario)
    (record,) = told_of(caplog, Event.TASK_LOST)
    assert record.__dict__["qdist"]["TASK_ID"] == id_text(new.id)
    assert "it will run again" in record.getMessage()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20.0):
        while not true():
            await asyncio.sleep(0)


def test_what_a_person_switches_is_told_once_and_by_name(tmp_path: Path, caplog: Logged) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with serving(tmp_path) as served:
            admin = await served.link()
            for on in (True, True, False):
                await admin.call(say.Pause(["mail"], on))
                await admin.call(say.Drain(["w1"], on))

    run(scenario)
    for event in (Event.QUEUE_PAUSED, Event.QUEUE_RESUMED, Event.WORKER_DRAINED, Event.WORKER_UNDRAINED):
        (record,) = told_of(caplog, event)
        assert record.__dict__["qdist"] == {"NAME": "mail" if "QUEUE" in event.name else "w1"}


def test_a_master_that_refuses_tasks_for_now_says_so_once_and_not_for_each(tmp_path: Path, caplog: Logged) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with serving(tmp_path, broker=Settings(queues={"default": QueueLimits(limit=1)})) as served:
            client = await served.link()
            for number in range(9):
                await client.call(say.Submit([task(number)]))

    run(scenario)
    (record,) = told_of(caplog, Event.OVERLOADED)
    assert "default" in record.getMessage()
