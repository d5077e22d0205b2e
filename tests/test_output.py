"""What tasks print and log: with the attempt, and in the log under the id of the task."""

import logging
from pathlib import Path

from qdistd.model import MOST_OUTPUT, Grant, Outcome, id_text
from qdistd.pool.ear import BURST, LINE, LINES_A_SECOND
from tests.poolside import Poolside, at_the_pool

TALKERS = {"modules": ("talkers",), "path": (str(Path(__file__).parent),)}


def lines_of(side: Poolside, grant: Grant) -> list[logging.LogRecord]:
    """What the log has under the id of this task."""
    fields = [(record, getattr(record, "qdist", {})) for record in side.log.records]
    return [record for record, names in fields if names.get("TASK_ID") == id_text(grant.id)]


def texts_of(side: Poolside, grant: Grant) -> list[str]:
    return [record.getMessage() for record in lines_of(side, grant)]


async def said(side: Poolside, grant: Grant) -> str:
    return (await side.end(grant)).output.decode()


@at_the_pool(**TALKERS)
async def test_short_tasks_that_travel_together_keep_their_words_apart(side: Poolside) -> None:
    await side.teach("count", 0)
    grants = [side.grant("count", number) for number in range(300)]
    side.pool.give(grants)
    for number, grant in enumerate(grants):
        assert await said(side, grant) == f"{number}\n"
        assert texts_of(side, grant) == [str(number)]


@at_the_pool(**TALKERS)
async def test_a_line_in_the_log_has_all_names_of_its_task(side: Poolside) -> None:
    grant = side.give("count", 7)
    await side.end(grant)
    (record,) = lines_of(side, grant)
    names = {"TASK_ID": id_text(grant.id), "TASK": "count", "QUEUE": "default", "ATTEMPT": 1, "WORKER": ""}
    assert record.__dict__["qdist"] == names
    assert record.levelno == logging.INFO


@at_the_pool(**TALKERS)
async def test_a_last_line_without_an_end_is_a_line(side: Poolside) -> None:
    grant = side.give("whisper", "psst")
    assert await said(side, grant) == "psstpsst"
    assert texts_of(side, grant) == ["psstpsst"]


@at_the_pool(**TALKERS)
async def test_records_of_logging_keep_their_levels_and_stay_whole(side: Poolside) -> None:
    grant = side.give("log", "oh")
    await side.end(grant)
    info, warning, error = lines_of(side, grant)
    assert (info.levelno, info.getMessage()) == (logging.INFO, "mail: oh")
    assert (warning.levelno, warning.getMessage()) == (logging.WARNING, "root: oh!")
    assert error.levelno == logging.ERROR
    assert error.getMessage().startswith("root: failed\nTraceback")
    assert error.getMessage().endswith("ValueError: oh")


@at_the_pool(**TALKERS)
async def test_what_programs_of_a_task_print_is_said_by_the_task(side: Poolside) -> None:
    for name, argument in (("shell", "echo out; echo err >&2"), ("mixed", "out")):
        grant = side.give(name, argument)
        assert (await said(side, grant)).splitlines()[0] == "out"
        assert texts_of(side, grant)[0] == "out"


@at_the_pool(**TALKERS)
async def test_the_last_words_of_a_child_that_dies_are_those_of_its_task(side: Poolside) -> None:
    grant = side.give("fault", "farewell")
    settlement = await side.end(grant)
    assert settlement.outcome is Outcome.CRASHED
    text = settlement.output.decode()
    assert text.startswith("farewell\n")
    assert "Fatal Python error: Segmentation fault" in text
    assert "in fault" in text, "the stack that faulthandler writes"


@at_the_pool(**TALKERS)
async def test_threads_that_talk_at_once_break_nobodys_words_and_no_result(side: Poolside) -> None:
    grant = side.give("crowd", 8, 100)
    assert len(await side.result(grant)) == 300_000
    lines = (await said(side, grant)).splitlines()
    assert all(len(set(line)) == 1 for line in lines if len(line) == 100)
    assert await side.run("count", 1) == 1


@at_the_pool(**TALKERS)
async def test_a_copy_that_a_task_forks_off_breaks_nothing(side: Poolside) -> None:
    grant = side.give("copy", "x")
    assert await said(side, grant) == "x" * 1000 + "\n"
    assert await side.run("count", 1) == 1


@at_the_pool(**TALKERS)
async def test_a_task_may_close_its_output_and_write_bytes_that_are_no_text(side: Poolside) -> None:
    grant = side.give("raw", "ö")
    assert (await side.end(grant)).output == "ö".encode() + b"\xff\n"
    assert texts_of(side, grant) == ["ö\\xff"]
    assert await side.run("mute") == "done"
    assert await said(side, side.give("count", 1)) == "1\n", "the next task of that child has an output again"


@at_the_pool(**TALKERS)
async def test_a_module_that_talks_while_it_is_imported_is_heard(side: Poolside) -> None:
    await side.run("shell", "true")
    assert "imported" in side.log.lines


@at_the_pool(**TALKERS)
async def test_a_flood_costs_the_log_little_and_its_end_is_kept(side: Poolside) -> None:
    grant = side.give("flood", 50_000)
    settlement = await side.end(grant)
    assert len(settlement.output) == MOST_OUTPUT
    assert settlement.output.endswith(b"line 49999\n")
    *lines, confession = texts_of(side, grant)
    assert BURST <= len(lines) <= BURST + LINES_A_SECOND * (settlement.wall + 5)
    assert confession.startswith(f"{50_000 - len(lines)} more lines of this task are not in the log")


@at_the_pool(**TALKERS)
async def test_a_flood_without_an_end_of_line_costs_the_log_as_little(side: Poolside) -> None:
    grant = side.give("whisper", "x" * (8 << 20))
    await side.end(grant)
    *lines, _ = texts_of(side, grant)
    assert BURST * LINE / 2 <= sum(map(len, lines)) <= 2 * BURST * LINE


@at_the_pool(**TALKERS)
async def test_a_record_that_cannot_be_made_costs_the_task_nothing_else(side: Poolside) -> None:
    grant = side.give("log_what_has_no_text")
    assert await side.result(grant) == "done"
    assert "no text of me" in await said(side, grant)


@at_the_pool(**TALKERS)
async def test_what_nobody_was_told_of_yet_is_told_by_the_next_image(side: Poolside) -> None:
    grant = side.give("shell", f"echo hello; cat {side.gate}")
    await side.until(lambda: "hello" in side.log.lines)
    await side.hand_over()
    assert [(said.id, said.output) for said in side.pool.said()] == [(grant.id, b"hello\n")]
    assert side.pool.said() == []
    side.open_gate()
    assert await said(side, grant) == "hello\n"


@at_the_pool()
async def test_a_task_that_says_nothing_has_no_output(side: Poolside) -> None:
    assert (await side.end(side.give("add", 1, 2))).output == b""
