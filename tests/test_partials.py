"""Partial results: each once and in order, from what the master still has."""

from collections.abc import Iterable, Iterator
from typing import Any

from qdistd.call import encode_value
from qdistd.client.partials import LONGEST_REST, SHORTEST_REST, partials
from qdistd.model import State
from qdistd.views import TaskView


def view(values: Iterable[Any], *, before: int = 0, attempt: int = 1, state: State = State.LEASED) -> TaskView:
    return TaskView(
        bytes(16), "count", "default", state, attempt, partials=[*map(encode_value, values)], partials_before=before
    )


def shown(*views: TaskView) -> tuple[list[Any], list[float]]:
    """What these looks at a task give, and the rests between them."""
    looks: Iterator[TaskView] = iter(views)
    rests: list[float] = []
    return list(partials(lambda: next(looks), rests.append)), rests


def test_each_partial_result_comes_once_and_in_order() -> None:
    values, rests = shown(view([]), view("ab"), view("abc"), view("bcd", before=1), view([], state=State.SUCCEEDED))
    assert values == ["a", "b", "c", "d"]
    assert rests == [2 * SHORTEST_REST, SHORTEST_REST, SHORTEST_REST, SHORTEST_REST]


def test_what_the_master_has_let_go_is_missed_and_nothing_else() -> None:
    assert shown(view("ab"), view("efg", before=4), view("efgh", before=4, state=State.FAILED))[0] == [*"abefgh"]


def test_an_attempt_that_follows_begins_anew() -> None:
    assert shown(view("ab"), view([], attempt=2), view("ac", attempt=2), view([], state=State.CANCELLED))[0] == [
        *"abac"
    ]


def test_a_task_that_has_ended_has_what_there_is() -> None:
    assert shown(view("ab", state=State.SUCCEEDED)) == (["a", "b"], [])


def test_a_task_that_says_nothing_is_looked_at_less_and_less() -> None:
    _, rests = shown(*[view([])] * 10, view([], state=State.SUCCEEDED))
    assert rests[:3] == [2 * SHORTEST_REST, 4 * SHORTEST_REST, 8 * SHORTEST_REST]
    assert set(rests[5:]) == {LONGEST_REST}
