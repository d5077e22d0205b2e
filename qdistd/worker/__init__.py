"""The worker daemon: asks for tasks, has its pool run them, and does not forget a result before the master has it."""

from qdistd.worker.estate import WorkerEstate
from qdistd.worker.settings import Settings
from qdistd.worker.spool import Spool
from qdistd.worker.worker import Worker

__all__ = ["Settings", "Spool", "Worker", "WorkerEstate"]
