"""Fixtures that boot hosts; what each is stands in the docstring of this package."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hosts import images
from tests.hosts.cluster import HostCluster
from tests.hosts.host import Host
from tests.hosts.images import Image
from tests.hosts.lab import Lab

LABS = pytest.StashKey[list[Lab]]()

JOURNAL_LINES = 100
"""How many lines of the journal of a host are printed with a failure."""


@pytest.fixture(scope="session")
def rooted() -> None:
    """Hosts are made of mounts, namespaces and cgroups."""
    if os.geteuid() != 0:
        pytest.skip("only root can boot hosts")


@pytest.fixture(scope="session")
def installed_images(rooted: None) -> dict[str, Image]:
    """All releases with qdist, by name: made at the same time."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(images.SUITES, pool.map(images.installed, images.SUITES), strict=True))


@pytest.fixture(scope="session")
def bookworm(installed_images: dict[str, Image]) -> Image:
    """Debian 12 with qdist."""
    return installed_images["bookworm"]


@pytest.fixture(scope="session")
def trixie(installed_images: dict[str, Image]) -> Image:
    """Debian 13 with qdist."""
    return installed_images["trixie"]


@pytest.fixture(scope="session")
def bare_bookworm(rooted: None) -> Image:
    """Debian 12 without qdist."""
    return images.base("bookworm")


@pytest.fixture(scope="session")
def bare_trixie(rooted: None) -> Image:
    """Debian 13 without qdist."""
    return images.base("trixie")


@pytest.fixture(scope="session")
def deb(rooted: None) -> Path:
    """The .deb of this checkout."""
    return images.deb()


@pytest.fixture
def lab(rooted: None, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """An empty lab for one test."""
    with shown(request) as made:
        yield made


@pytest.fixture(scope="module")
def shared_lab(rooted: None, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """An empty lab for all tests of one file."""
    with shown(request) as made:
        yield made


@pytest.fixture(scope="module")
def three_hosts(shared_lab: Lab, bookworm: Image, trixie: Image) -> HostCluster:
    """A running cluster for the tests of one file."""
    return HostCluster(shared_lab, bookworm, trixie, bookworm)


@contextmanager
def shown(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab whose journals are printed with the failure of a test that uses it."""
    with Lab() as lab:
        request.session.stash.setdefault(LABS, []).append(lab)
        yield lab
        request.session.stash[LABS].remove(lab)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[pytest.TestReport]:
    """Adds the journals of all hosts there are to a failure."""
    report = yield
    if report.failed:
        for host in [host for lab in item.session.stash.get(LABS, []) for host in lab.hosts.values()]:
            report.sections.append((f"journal of {host.name}", last_words(host)))
    return report


def last_words(host: Host) -> str:
    """The last lines of the journal that are about qdist."""
    told = [entry for entry in host.journal() if "qdist" in str(entry.get("UNIT", entry.get("_SYSTEMD_UNIT")))]
    return "\n".join(f"{entry.get('SYSLOG_IDENTIFIER')}: {entry.get('MESSAGE')}" for entry in told[-JOURNAL_LINES:])
