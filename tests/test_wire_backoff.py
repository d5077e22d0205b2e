"""Pauses between tries."""

import random

from qdistd.wire.backoff import Backoff


class MostPatient(random.Random):
    """Draws the upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_pauses_double_up_to_the_cap_and_begin_anew_after_a_reset() -> None:
    backoff = Backoff(MostPatient(), base=0.1, cap=0.5)
    assert [backoff.draw() for _ in range(4)] == [0.1, 0.2, 0.4, 0.5]
    backoff.reset()
    assert backoff.draw() == 0.1


def test_no_number_of_tries_is_too_many() -> None:
    backoff = Backoff(MostPatient(), base=0.1, cap=5.0)
    assert {backoff.draw() for _ in range(5000)} >= {0.1, 5.0}


def test_pauses_are_spread_over_the_whole_interval() -> None:
    backoff = Backoff(random.Random(1), base=1.0, cap=1.0)
    drawn = [backoff.draw() for _ in range(1000)]
    assert 0.0 <= min(drawn) < 0.05
    assert 0.95 < max(drawn) <= 1.0
