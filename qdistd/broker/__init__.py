"""The master's core: read, decide, save, each call inside the transaction that its caller opened."""

from qdistd.broker.broker import Broker
from qdistd.broker.flow import Flow, QueueLimits
from qdistd.broker.late import Live
from qdistd.broker.ledger import Settings
from qdistd.broker.news import News
from qdistd.broker.retention import PURGE_PAUSE, Retention
from qdistd.broker.seats import Seat

__all__ = ["PURGE_PAUSE", "Broker", "Flow", "Live", "News", "QueueLimits", "Retention", "Seat", "Settings"]
