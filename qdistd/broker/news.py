"""What one transaction has done, for whoever writes it down after the commit."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from qdistd.model import Grant, Task
from qdistd.store import Ending


@dataclass
class News:
    """Each list in the order of events; a worker is named by its name, and nobody by an empty one."""

    new: int = 0
    """How many of `submitted` the store did not have yet."""
    submitted: list[Task] = field(default_factory=list)
    leased: list[tuple[str, Sequence[Grant]]] = field(default_factory=list)
    ended: list[tuple[str, Sequence[Ending]]] = field(default_factory=list)
