"""What a task may want to do: each probe does it, or raises. Copied to a host, and run as tasks in a worker there.

Those of `forbidden` do what no task should be able to.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import qdistd

from . import files, forbidden, network, processes, system


@qdistd.task
def probe(name: str) -> str:
    """Run one probe; "" if it works, else what it raised."""
    try:
        PROBES[name]()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"{type(error).__name__}: {error}"
    return ""


@qdistd.task
def names() -> list[str]:
    """All probes, in order."""
    return list(PROBES)


@qdistd.task
def wait_for(path: str) -> str:
    """What somebody writes into this FIFO, once somebody does."""
    return Path(path).read_text()


def _probes(module: ModuleType) -> dict[str, Callable[[], None]]:
    """The functions that the module itself has, and that take nothing."""
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    return {name: value for name, value in own.items() if value.__code__.co_argcount == 0}


PROBES = {
    name: value for module in (files, processes, system, network, forbidden) for name, value in _probes(module).items()
}
