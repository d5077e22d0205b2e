"""Configuration: read once, checked whole, frozen; secrets stay in their files until `read_key` is asked.

settings (the table) ── kinds (how values are written)
    │
reading (text, lines) ──> loading (layers, problems, Config) ──> editing (show, check, set)
                                └──> keys (key files)
"""

from qdistd.config.keys import KeyFile, master_keys, own_key, read_key
from qdistd.config.loading import HERE, Place, load_client, load_master, load_worker
from qdistd.config.settings import (
    DEFAULT_INSTANCE,
    ClientConfig,
    FileKind,
    MasterConfig,
    WorkerConfig,
)

__all__ = [
    "DEFAULT_INSTANCE",
    "HERE",
    "ClientConfig",
    "FileKind",
    "KeyFile",
    "MasterConfig",
    "Place",
    "WorkerConfig",
    "load_client",
    "load_master",
    "load_worker",
    "master_keys",
    "own_key",
    "read_key",
]
