"""qdist: a task distributor that loses nothing.

    import qdistd

    with qdistd.Client() as q:
        print(q.submit("square", 7).result(timeout=10))

All that a program needs has its name here, and is loaded when it is first named.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdistd.client.client import Client
    from qdistd.client.executor import Executor
    from qdistd.client.handle import Handle, as_completed, wait
    from qdistd.client.task import task
    from qdistd.errors import (
        InternalError,
        NotAllowed,
        NotFound,
        Overloaded,
        QdistError,
        Refused,
        TaskCancelled,
        TaskFailed,
        TaskQuarantined,
        TooLarge,
        Unavailable,
        WrongKey,
    )
    from qdistd.model import State

    __version__: str

__all__ = [
    "Client",
    "Executor",
    "Handle",
    "InternalError",
    "NotAllowed",
    "NotFound",
    "Overloaded",
    "QdistError",
    "Refused",
    "State",
    "TaskCancelled",
    "TaskFailed",
    "TaskQuarantined",
    "TooLarge",
    "Unavailable",
    "WrongKey",
    "__version__",
    "as_completed",
    "task",
    "wait",
]

_HOMES = {
    "Client": "qdistd.client.client",
    "Executor": "qdistd.client.executor",
    "Handle": "qdistd.client.handle",
    "as_completed": "qdistd.client.handle",
    "wait": "qdistd.client.handle",
    "task": "qdistd.client.task",
    "State": "qdistd.model",
}
"""Where a name lives; those that are not here are errors."""


def __getattr__(name: str) -> Any:
    """Load a name of `__all__` on first use (PEP 562): `import qdistd` alone costs a millisecond."""
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("qdistd")
    elif name in __all__:
        value = getattr(importlib.import_module(_HOMES.get(name, "qdistd.errors")), name)
    else:
        raise AttributeError(f"module 'qdistd' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What there is."""
    return __all__
