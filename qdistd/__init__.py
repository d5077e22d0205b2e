"""qdist: a task distributor that loses nothing.

    import qdistd

    with qdistd.Client() as q:
        print(q.submit("square", 7).result(timeout=10))

All that a program needs has its name here, and is loaded when it is first named.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdistd.child.context import current, partial, progress
    from qdistd.client.client import Client
    from qdistd.client.executor import Executor
    from qdistd.client.handle import Handle, as_completed, wait
    from qdistd.client.options import Choices
    from qdistd.client.submitter import Batch
    from qdistd.client.task import Call, bind, task
    from qdistd.client.together import Counts, Group
    from qdistd.errors import (
        Cancelled,
        InternalError,
        NotAllowed,
        NotFound,
        Overloaded,
        QdistError,
        Refused,
        Reject,
        Retry,
        SoftTimeout,
        TaskCancelled,
        TaskFailed,
        TaskQuarantined,
        TooLarge,
        Unavailable,
        WrongKey,
    )
    from qdistd.model import Progress, State
    from qdistd.shares import share

    __version__: str

__all__ = [
    "Batch",
    "Call",
    "Cancelled",
    "Choices",
    "Client",
    "Counts",
    "Executor",
    "Group",
    "Handle",
    "InternalError",
    "NotAllowed",
    "NotFound",
    "Overloaded",
    "Progress",
    "QdistError",
    "Refused",
    "Reject",
    "Retry",
    "SoftTimeout",
    "State",
    "TaskCancelled",
    "TaskFailed",
    "TaskQuarantined",
    "TooLarge",
    "Unavailable",
    "WrongKey",
    "__version__",
    "as_completed",
    "bind",
    "current",
    "partial",
    "progress",
    "share",
    "task",
    "wait",
]

_HOMES = {
    "Batch": "qdistd.client.submitter",
    "Call": "qdistd.client.task",
    "Choices": "qdistd.client.options",
    "Client": "qdistd.client.client",
    "Counts": "qdistd.client.together",
    "Executor": "qdistd.client.executor",
    "Group": "qdistd.client.together",
    "Handle": "qdistd.client.handle",
    "as_completed": "qdistd.client.handle",
    "wait": "qdistd.client.handle",
    "bind": "qdistd.client.task",
    "current": "qdistd.child.context",
    "partial": "qdistd.child.context",
    "progress": "qdistd.child.context",
    "task": "qdistd.client.task",
    "Progress": "qdistd.model",
    "State": "qdistd.model",
    "share": "qdistd.shares",
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
