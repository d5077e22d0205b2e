"""Tasks that tell of themselves, for the tests of what a submitter sees of them."""

from pathlib import Path

import qdistd


def hand_out(values: list[str], gate: str) -> int:
    """Hands out the values, waits for the gate (a fifo) to be opened for writing, and hands out one more."""
    for number, value in enumerate(values, 1):
        qdistd.progress(number, len(values), value)
        qdistd.partial(value)
    Path(gate).read_bytes()
    qdistd.partial("last")
    return len(values)
