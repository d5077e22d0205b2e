"""Configuration: read once, checked whole, frozen; secrets stay in their files until `read_key` is asked.

settings, tables: the table of all settings, made of `rows`, in the kinds of value of `kinds`, `rates`, `occasions`
  │
reading: bytes ──> survey: values, origins, problems ──> loading: files ──> …Config ──> keys: the key files
                                                           └──> showing: show, check, sample; editing: set_value

`showing` and `editing` are imported by name where they are used: the library behind them takes long to load.
"""

from qdistd.config.keys import KeyFile, master_keys, own_key, read_key
from qdistd.config.kinds import duration, size
from qdistd.config.loading import HERE, Place, load_client, load_master, load_worker, main_file
from qdistd.config.rates import Rate
from qdistd.config.settings import DEFAULT_INSTANCE, ClientConfig, FileKind, MasterConfig, WorkerConfig
from qdistd.config.share import Share
from qdistd.config.tables import QueueConfig, ScheduleConfig

__all__ = [
    "DEFAULT_INSTANCE",
    "HERE",
    "ClientConfig",
    "FileKind",
    "KeyFile",
    "MasterConfig",
    "Place",
    "QueueConfig",
    "Rate",
    "ScheduleConfig",
    "Share",
    "WorkerConfig",
    "duration",
    "load_client",
    "load_master",
    "load_worker",
    "main_file",
    "master_keys",
    "own_key",
    "read_key",
    "size",
]
