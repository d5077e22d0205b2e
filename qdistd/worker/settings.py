"""What a worker runs by: the values of `worker.toml` that matter here, and who it is."""

import os

import msgspec

from qdistd.address import Address
from qdistd.config import Share, WorkerConfig
from qdistd.model import Life
from qdistd.pool import PoolSettings
from qdistd.wire.keyring import Key


class Settings(msgspec.Struct, frozen=True):
    """All of it can be reloaded, but `name`, `host`, `pid`, `life` and `plain_task`."""

    name: str
    host: str
    masters: tuple[Address, ...]
    key: Key
    queues: tuple[str, ...]
    pool: PoolSettings
    pid: int = 0
    life: Life = Life()
    fair: bool = False
    """Whether the queues share this worker by their weights, instead of the first coming first."""
    labels: tuple[str, ...] = ()
    shares: tuple[Share, ...] = ()
    plain_task: str = ""
    """The task to run on what a plain BaseManager server hands out; empty: the masters speak qdist."""

    @classmethod
    def of(cls, config: WorkerConfig, key: Key, host: str, life: Life) -> "Settings":
        """The settings of an instance on `host`, as its configuration says. `key`: what `config.key` holds."""
        name = f"{config.instance}@{host}"
        return cls(
            name=name,
            host=host,
            masters=config.masters,
            key=key,
            queues=config.queues,
            pool=_pool_settings(config, name),
            pid=os.getpid(),
            life=life,
            fair=config.order == "fair",
            labels=config.labels,
            shares=tuple(config.share.values()),
            plain_task=config.compat.task if config.protocol == "queue" else "",
        )

    @property
    def introduction(self) -> tuple[object, ...]:
        """What a master was told of us, or reached by: a change of it takes a new connection."""
        return self.masters, self.key, self.queues, self.fair, self.pool.processes


def _pool_settings(config: WorkerConfig, name: str) -> PoolSettings:
    return PoolSettings(
        processes=config.processes or os.cpu_count() or 1,
        modules=config.tasks,
        path=tuple(map(str, config.path)),
        timeout=config.limits.timeout,
        memory=config.limits.memory,
        pids=config.limits.pids,
        result=config.limits.result,
        worker=name,
        shares={share.name: str(share.path) for share in config.share.values()},
        soft_timeout=config.limits.soft_timeout,
        grace=config.limits.grace,
        child_tasks=config.limits.child_tasks,
        child_memory=config.limits.child_memory,
    )
