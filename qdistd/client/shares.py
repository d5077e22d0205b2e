"""Files on shared storage: a task whose arguments name a share runs where that share is.

"share://data/in/x.log" among the arguments  ──>  the label "share=data" among those that the task requires
"""

from collections.abc import Iterator, Sequence
from typing import Any

from qdistd.call import decode_call

SHARE = b"share://"
"""How such a text begins. Payloads without these bytes are not looked at any further."""

LABEL = "share="
"""What the name of a share follows in the label that every worker has for each of its healthy ones."""


def with_shares(labels: Sequence[str], payload: bytes) -> tuple[str, ...]:
    """The labels, and those of the shares that the arguments in `payload` name."""
    if SHARE not in payload:
        return tuple(labels)
    return tuple(sorted({*labels, *(LABEL + name for name in _shares_in(decode_call(payload)))}))


def _shares_in(value: Any) -> Iterator[str]:
    """The names of the shares in plain data, however deep: it was written by a pickler, which goes no deeper."""
    if isinstance(value, str):
        if value.startswith("share://") and (name := value[8:].partition("/")[0]):
            yield name
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _shares_in(pair)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _shares_in(item)
