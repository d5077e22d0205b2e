"""What a pool is to be."""

import msgspec


class PoolSettings(msgspec.Struct, frozen=True):
    """All of it can be changed while the pool works (`Pool.resize`)."""

    processes: int
    """How many children, at least 1."""
    modules: tuple[str, ...]
    """The modules whose functions may run here, in the order in which short names are looked up."""
    path: tuple[str, ...] = ()
    """Directories where Python looks for these modules first."""
    timeout: float = 0.0
    """Seconds that a task may run which brings no limit of its own; 0: for ever."""
    memory: int = 0
    """Bytes of private memory for each child; 0: no limit."""
    pids: int = 0
    """Processes and threads of each child with all that it has started, where it has a cgroup; 0: no limit."""
    result: int = 0
    """Bytes of an encoded result; 0: no limit."""
    worker: str = ""
    """Whose pool it is: stands beside what its tasks say."""
    shares: dict[str, str] = {}
    """Where this worker has its shares, by their names."""
    soft_timeout: float = 0.0
    """Seconds after which a task that brings no soft limit of its own gets `SoftTimeout`; 0: never."""
    grace: float = 2.0
    """Seconds from SIGTERM to SIGKILL."""
    child_tasks: int = 0
    """After how many tasks a child is replaced; 0: never."""
    child_memory: int = 0
    """Bytes of resident memory above which a child is replaced after its task; 0: never."""
