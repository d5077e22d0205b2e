"""The checker is fed every anomaly that it names, and must find it; and a history with none, and must be silent."""

from collections.abc import Callable

import pytest

from tests.simulation.history import Ending, Family, History, Run, anomalies

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def good() -> History:
    """Two tasks: one ran once, one was lost with its worker and ran again meanwhile."""
    history = History(submitted={A, B}, acknowledged={A, B})
    history.runs[A] = [Run("w1", 1, 0.0, 1.0, b"A1")]
    history.runs[B] = [Run("w1", 1, 0.0, 9.0, b"B1"), Run("w2", 2, 5.0, 6.0, b"B2")]
    history.final[A] = Ending("succeeded", 1, b"A1", {1: "succeeded"})
    history.final[B] = Ending("succeeded", 2, b"B2", {1: "lost", 2: "succeeded"})
    history.read(A, "succeeded", 1, b"A1")
    history.read(B, "succeeded", 2, b"B2")
    history.families.append(Family((A, B), {B: ()}, {B: "cancel"}))
    history.narrow["key"] = (1, {A, B})
    return history


def lose(history: History) -> None:
    del history.final[A]


def invent_task(history: History) -> None:
    history.submitted.discard(A)


def leave_stuck(history: History) -> None:
    history.final[A].state = "leased"
    history.results.clear()


def change_between_reads(history: History) -> None:
    history.read(B, "succeeded", 1, b"B1")


def change_after_read(history: History) -> None:
    history.results[B] = {("succeeded", 1, b"B1")}


def run_an_attempt_twice(history: History) -> None:
    history.runs[A].append(Run("w2", 1, 3.0, 4.0, b"A1"))


def skip_a_number(history: History) -> None:
    history.final[B].attempts = {1: "lost", 3: "succeeded"}


def forget_an_attempt(history: History) -> None:
    history.runs[A].append(Run("w2", 2, 3.0, 4.0))


def invent_a_result(history: History) -> None:
    history.final[A].value = b"A9"
    history.results[A] = {("succeeded", 1, b"A9")}


def overlap_without_a_cause(history: History) -> None:
    history.final[B].attempts[1] = "released"


def never_tell(history: History) -> None:
    history.waiting.add(A)


def refuse(history: History) -> None:
    history.failures.append("no")


def tear(history: History) -> None:
    history.submitted.add(C)
    history.families.append(Family((A, C), {}, {}))


def begin_early(history: History) -> None:
    history.families.append(Family((A, B), {A: (B,)}, {A: "cancel"}))


def succeed_after_a_failure(history: History) -> None:
    history.families.append(Family((A, B), {B: (A,)}, {B: "cancel"}))
    history.final[A].state = "failed"


def crowd(history: History) -> None:
    history.runs[A] = [Run("w1", 1, 5.5, 7.0, b"A1")]


def test_a_good_history_has_no_anomaly() -> None:
    assert anomalies(good()) == []


@pytest.mark.parametrize(
    ("kind", "plant"),
    [
        ("LOST", lose),
        ("CROWDED", crowd),
        ("UNEXPECTED", invent_task),
        ("STUCK", leave_stuck),
        ("CHANGED", change_between_reads),
        ("CHANGED", change_after_read),
        ("TWICE", run_an_attempt_twice),
        ("GAP", skip_a_number),
        ("UNEXPLAINED", forget_an_attempt),
        ("INVENTED", invent_a_result),
        ("OVERLAP", overlap_without_a_cause),
        ("UNHEARD", never_tell),
        ("REFUSED", refuse),
        ("TORN", tear),
        ("EARLY", begin_early),
        ("CARELESS", succeed_after_a_failure),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_planted_anomaly_is_found_by_its_name(kind: str, plant: Callable[[History], None]) -> None:
    history = good()
    plant(history)
    assert kind in {line.split()[0] for line in anomalies(history)}
