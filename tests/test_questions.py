"""What a client asks a master and tells it to do, beyond its own tasks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from office import PATIENCE, Office
from serving import ALL
from shell import Shell

import qdistd
from qdistd import State


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with Office(tmp_path) as office:
        yield office


def test_a_paused_queue_gives_nothing_until_it_goes_on(office: Office) -> None:
    with qdistd.Client(str(office.address), ALL.secret) as q:
        q.submit("square", 1).result(PATIENCE)
        assert q.pause("default", "nobody").changed == ["default", "nobody"]
        assert q.pause("default").changed == []
        task = q.submit("square", 7)
        assert task.state() == State.READY
        assert "paused" in task.why()
        assert {queue.name for queue in q.queues() if queue.paused} == {"default", "nobody"}
        assert q.resume("default").changed == ["default"]
        assert task.result(PATIENCE) == "7 * 7 = 49"


def test_a_drained_worker_gets_nothing_more(office: Office) -> None:
    with qdistd.Client(str(office.address), ALL.secret) as q:
        (worker,) = q.workers()
        assert q.drain(worker.name).changed == [worker.name]
        assert [worker.drained for worker in q.workers()] == [True]
        assert q.drain("nobody").unknown == ["nobody"]
        assert q.undrain(worker.name).changed == [worker.name]
        assert q.submit("square", 7).result(PATIENCE) == "7 * 7 = 49"


def test_a_key_that_may_submit_may_not_pause(office: Office) -> None:
    with office.client() as q:
        assert q.schedules() == []
        for switch in (q.pause, q.resume, q.drain, q.undrain):
            with pytest.raises(qdistd.NotAllowed, match="admin"):
                switch("default")


def test_the_options_of_the_file_hold_for_the_command_too(cluster: Cluster) -> None:
    shell = Shell(cluster)
    with shell.config.open("a") as file:
        file.write('[options]\nqueue = "host7"\nretries = 9\nunique = "queued"\n')
    first, second = (shell("submit", "square", "7").out.strip() for _ in range(2))
    own = shell("submit", "square", "7", "--queue", "other", "--retries", "1").out.strip()
    with cluster.client() as q:
        assert first == second
        assert [(q.show(task).queue, q.show(task).retries) for task in (first, own)] == [("host7", 9), ("other", 1)]
