"""The pool: processes that run tasks, their limits, and their deaths as data.

`pool` decides which child gets what; `process` is one child as the pool sees it, `fate` how it is made to end, `ear`
what it says; `staff` has as many of them as there should be, and `nursery` brings them up; `spawn`, `outlet`, `inlet`
and `cgroups` are the system calls; `handover` is what outlives an exec; `chronicle` writes the log. The other end of
the pipes is `qdistd.child`.
"""

from qdistd.pool.cgroups import claim
from qdistd.pool.handover import PoolEstate
from qdistd.pool.pool import Pool
from qdistd.pool.settings import PoolSettings

__all__ = ["Pool", "PoolEstate", "PoolSettings", "claim"]
