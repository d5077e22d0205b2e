"""Fixtures that many tests use, and what a failing or skipped test must show.

`cluster` is a running master with two workers of one child each; `new_cluster(workers=…, master={…}, worker={…})` makes
one to order. When a test fails, the logs of all its daemons are printed with it.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from cluster import Cluster

CLUSTERS = pytest.StashKey[list[Cluster]]()

ABSENT = "interpreter missing: "
"""Starts the one reason for which a test may be skipped where CI=true: `interpreter missing: python3.8`."""

NewCluster = Callable[..., Cluster]


def pytest_configure() -> None:
    """A shell starts its background jobs with Ctrl-C ignored, and children inherit that: here it means something.

    And no example of hypothesis fails because the machine was busy with something else.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hypothesis.settings.register_profile("busy", deadline=None)
    hypothesis.settings.load_profile("busy")


@pytest.fixture
def new_cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NewCluster]:
    """Makes and starts clusters, and ends them with the test. The arguments are those of `Cluster`."""
    clusters = request.node.stash.setdefault(CLUSTERS, [])

    def make(**options: object) -> Cluster:
        folder = tmp_path / f"cluster-{len(clusters)}"
        folder.mkdir(mode=0o700)
        clusters.append(Cluster(folder, **options))
        return clusters[-1].start()

    yield make
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def cluster(new_cluster: NewCluster) -> Cluster:
    """A running master and two workers."""
    return new_cluster()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[pytest.TestReport]:
    """Adds the logs of daemons to a failure, and under CI makes a failure of a skip."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(ABSENT):
            report.outcome, report.longrepr = "failed", f"skipped under CI=true, where nothing may be: {reason}"
    if report.failed:
        for daemon in [daemon for cluster in item.stash.get(CLUSTERS, []) for daemon in cluster.daemons]:
            report.sections.append((f"log of {daemon.name}", daemon.log))
    return report
