"""What a worker leaves to the next image of its program, besides what is in its spool."""

import msgspec

from qdistd.model import Settlement
from qdistd.pool import PoolEstate
from qdistd.worker.shares import WatchEstate


class WorkerEstate(msgspec.Struct):
    """A worker at a moment between two things that it does."""

    token: bytes
    """Of the incarnation: it goes on, and so do its leases."""
    pool: PoolEstate
    unsent: list[Settlement]
    """Results that the disk did not take."""
    drained: bool
    """Whether the master wants it to take no tasks."""
    epoch: bytes = b""
    """In which the pool's tasks were leased."""
    shares: list[WatchEstate] = []
    """What is known of its shares, and the processes that look at them."""
