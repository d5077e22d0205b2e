"""What one transaction has done, for whoever writes it down after the commit."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from qdistd.events import Event
from qdistd.model import Grant, Task
from qdistd.store import Ending


@dataclass
class News:
    """Each list in the order of events; a worker is named by its name, and nobody by an empty one."""

    new: int = 0
    """How many of `submitted` the store did not have yet."""
    submitted: list[Task] = field(default_factory=list)
    leased: list[tuple[str, Sequence[Grant]]] = field(default_factory=list)
    switched: list[tuple[Event, str]] = field(default_factory=list)
    """What a person has paused, drained, and the other way round, and its name."""
    overloaded: str = ""
    """Why tasks were refused that would be welcome at another time."""
    ended: list[tuple[str, Sequence[Ending]]] = field(default_factory=list)
