"""The last words of tasks are kept for a moment, and never more of them than there is room for."""

from qdistd.broker.late import MOST_BYTES, MOST_PARTIAL_BYTES, MOST_PARTIALS, MOST_TASKS, Late, Live
from qdistd.model import MOST_OUTPUT, Progress, Said


def said(*partials: bytes, output: bytes = b"", progress: Progress | None = None) -> Said:
    return Said(bytes(16), 1, output, progress, [*partials])


def heard(*news: Said) -> Live:
    live = Live()
    for each in news:
        live.hear(each)
    return live


def task_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_the_latest_is_kept_and_what_is_gone_is_counted() -> None:
    live = heard(*[said(b"%d" % n, progress=Progress(n, 0), output=b"x" * 100) for n in range(MOST_PARTIALS + 7)])
    assert (live.partials[0], len(live.partials), live.partials_before) == (b"7", MOST_PARTIALS, 7)
    assert live.progress == Progress(MOST_PARTIALS + 6, 0)
    assert len(live.output) == MOST_OUTPUT


def test_large_partial_results_are_limited_by_their_bytes() -> None:
    live = heard(*[said(bytes(100_000)) for _ in range(20)])
    assert live.size == sum(map(len, live.partials)) <= MOST_PARTIAL_BYTES
    assert len(live.partials) + live.partials_before == 20


def test_the_last_words_are_those_of_one_attempt() -> None:
    late = Late()
    late.keep(task_id(1), 2, heard(said(b"a", output=b"words")))
    found = late.of(task_id(1), 2)
    assert found is not None
    assert ([*found.partials], found.output) == ([b"a"], b"")
    assert late.of(task_id(1), 1) is late.of(task_id(2), 1) is None


def test_no_more_tasks_are_kept_than_there_is_room_for() -> None:
    late = Late()
    for number in range(MOST_TASKS + 1):
        late.keep(task_id(number), 1, heard(said(b"a")))
    assert late.of(task_id(0), 1) is None
    assert late.of(task_id(1), 1) is not None
    for number in range(50):
        late.keep(task_id(number), 1, heard(said(bytes(MOST_PARTIAL_BYTES))))
    assert sum(late.of(task_id(number), 1) is not None for number in range(50)) == MOST_BYTES // MOST_PARTIAL_BYTES
    assert late._size == MOST_BYTES
