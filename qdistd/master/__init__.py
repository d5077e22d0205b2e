"""The manager daemon."""

from qdistd.master.master import Host, Master, MasterSettings

__all__ = ["Host", "Master", "MasterSettings"]
