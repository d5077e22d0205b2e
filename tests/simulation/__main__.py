"""`python -m tests.simulation FIRST LAST [BUG]`: run seeds and print what they find; exit code 1 with anomalies.

A failing seed replays with `PYTHONHASHSEED=0 python -m tests.simulation SEED SEED+1` at the same commit.
"""

import logging
import sys

from tests.simulation.bugs import PLANTED
from tests.simulation.cluster import Cluster, Plan


def nothing(_kind: str, _part: object) -> None:
    """No bug."""


def main(first: int, last: int, bug: str = "nothing") -> int:
    """Run the seeds from `first` to before `last`; how many showed something."""
    logging.getLogger("qdistd").setLevel(logging.CRITICAL)
    plant = {planted.__name__: planted for planted in (*PLANTED, nothing)}[bug]
    found = 0
    for seed in range(first, last):
        cluster = Cluster(seed, Plan(), plant)
        anomalies = cluster.run()
        found += bool(anomalies)
        for line in anomalies:
            print(seed, line)
        if anomalies and bug != "nothing":
            break
    print(f"{last - first} seeds, {found} with anomalies")
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]) > 0)
