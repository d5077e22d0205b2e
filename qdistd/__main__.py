"""Where programs begin: `qdist`, `qdist-master`, `qdist-worker`, or `python -m qdistd [master|worker] …`.

Each loads its own part alone: `qdist status` must not wait for what only a master needs.
"""

import sys
from collections.abc import Sequence


def qdist() -> int:
    """The console script `qdist`."""
    from qdistd.cli.door import main

    return main(sys.argv[1:])


def master(arguments: Sequence[str] | None = None) -> int:
    """The console script `qdist-master`."""
    from qdistd.programs.master import main

    return main(sys.argv[1:] if arguments is None else arguments)


def worker(arguments: Sequence[str] | None = None) -> int:
    """The console script `qdist-worker`."""
    from qdistd.programs.worker import main

    return main(sys.argv[1:] if arguments is None else arguments)


def any_of_them() -> int:
    """`python -m qdistd`: the daemons by their short names, everything else is for `qdist`."""
    match sys.argv[1:]:
        case ["master", *arguments]:
            return master(arguments)
        case ["worker", *arguments]:
            return worker(arguments)
    return qdist()


if __name__ == "__main__":
    sys.exit(any_of_them())
