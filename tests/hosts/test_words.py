"""What tasks say on real hosts: in the journal of the worker under the id of the task, and from any host."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qdistd import Client, TaskFailed
from qdistd.events import Event
from tests.hosts.cluster import HostCluster
from tests.hosts.host import Host
from tests.hosts.images import Image
from tests.hosts.lab import Lab
from tests.patience import until

TASKS = '[worker]\ntasks = ["qdistd.tasks", "words"]\npath = ["/srv/tasks"]\n'

INFO, WARNING, ERROR = "6", "4", "3"


@pytest.fixture(scope="module")
def cluster(shared_lab: Lab, bookworm: Image, trixie: Image) -> HostCluster:
    made = HostCluster(shared_lab, bookworm, trixie)
    for host in made.worker_hosts:
        host.write("/srv/tasks/words.py", (Path(__file__).parent / "words.py").read_text())
        host.write("/etc/qdist/worker.d/words.toml", TASKS)
        host.systemctl("reload", "qdist-worker@*")
    return made


@pytest.fixture
def q(cluster: HostCluster) -> Iterator[Client]:
    with cluster.client() as client:
        cluster.wait_for_workers(client, 2)
        yield client


def told(host: Host, task_id: str, text: str) -> dict[str, object]:
    """The record of a task with this text, as soon as the journal has it."""

    def found() -> list[dict[str, object]]:
        records = host.journal(f"QDIST_TASK_ID={task_id}")
        return [record for record in records if text in str(record["MESSAGE"])]

    return until(found, f"{text!r} in the journal of {host.name}")[0]


def test_a_task_has_its_words_in_the_journal_with_all_its_names(cluster: HostCluster, q: Client) -> None:
    task = q.submit("talk")
    assert task.result(30) == "done"
    worker = cluster.w1
    for text, priority in (
        ("printed", INFO),
        ("informed", INFO),
        ("warned", WARNING),
        ("alarmed", ERROR),
        ("from a shell", INFO),
    ):
        record = told(worker, task.id, text)
        assert record["PRIORITY"] == priority, text
        assert (record["QDIST_TASK"], record["QDIST_QUEUE"], record["QDIST_ATTEMPT"]) == ("talk", "default", "1")
        assert str(record["QDIST_WORKER"]).endswith("@w1")


def test_the_last_words_of_a_crash_are_there_and_the_master_says_what_follows(cluster: HostCluster, q: Client) -> None:
    task = q.submit("crash")
    with pytest.raises(TaskFailed):
        task.result(60)
    assert "farewell" in str(told(cluster.w1, task.id, "farewell")["MESSAGE"])
    assert told(cluster.w1, task.id, "Segmentation fault")
    quarantined = told(cluster.m, task.id, "quarantined")
    assert (quarantined["MESSAGE_ID"], quarantined["PRIORITY"]) == (Event.TASK_QUARANTINED.value, ERROR)


def test_the_journal_explains_a_failure_and_says_what_to_do(cluster: HostCluster, q: Client) -> None:
    task = q.submit("fail", "on purpose")
    with pytest.raises(TaskFailed):
        task.result(30)
    told(cluster.m, task.id, "on purpose")
    explained = cluster.m.run("journalctl", "--no-pager", "-x", f"QDIST_TASK_ID={task.id}").stdout
    assert "Subject: A task has failed" in explained
    assert f"qdist retry {task.id}" in explained
    assert "ValueError: on purpose" in str(told(cluster.w1, task.id, "Traceback")["MESSAGE"])


def test_the_words_of_a_running_task_are_read_from_another_host(cluster: HostCluster, q: Client) -> None:
    task = q.submit("tick", 3)
    followed = cluster.m.run("qdist", "logs", "-f", task.id).stdout.splitlines()
    assert [line for line in followed if line.startswith("tick")] == ["tick 0", "tick 1", "tick 2"]
    assert followed[0].startswith("--- attempt 1 on ") and followed[-1].startswith("--- succeeded")
    assert task.result(1) == 3


def test_a_thousand_failures_a_second_lose_no_warning(cluster: HostCluster, q: Client) -> None:
    tasks = [q.submit("fail", str(number)) for number in range(3000)]
    for task in tasks:
        with pytest.raises(TaskFailed):
            task.result(60)
    count = f"MESSAGE_ID={Event.TASK_FAILED.value}"
    until(lambda: len([r for r in cluster.m.journal(count) if r["QDIST_TASK"] == "fail"]) >= 3000, "3000 warnings")
