"""How long to wait before the next try.

Full jitter spreads the workers and the clients of a restarted master over the whole interval (M. Brooker,
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

import random

DOUBLINGS = 20
"""Tries after which every cap has long been reached; keeps the power small."""


class Backoff:
    """Pauses drawn from 0 to a ceiling that starts at `base` seconds and doubles with every draw, up to `cap`."""

    def __init__(self, rng: random.Random, base: float, cap: float) -> None:
        self._rng = rng
        self._base = base
        self._cap = cap
        self._drawn = 0

    def draw(self) -> float:
        """Seconds to wait now."""
        ceiling = min(self._cap, self._base * 2.0 ** min(self._drawn, DOUBLINGS))
        self._drawn += 1
        return self._rng.uniform(0.0, ceiling)

    def reset(self) -> None:
        """The trouble is over: the next pause is a short one again."""
        self._drawn = 0
