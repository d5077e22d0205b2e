"""Labels and shares of a worker: what it tells of them, and what becomes of tasks that need what it lacks."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stage import Stage, grant, on_stage

from qdistd.call import encode_call
from qdistd.config import Share
from qdistd.events import Event
from qdistd.model import Grant, Outcome
from qdistd.protocol import Orders
from qdistd.worker.look import UNMOUNTED, look
from qdistd.worker.shares import PROGRAM

OFTEN = 0.1
"""Seconds between two looks at a share."""


def needing(number: int, address: str = "share://data/x") -> Grant:
    return msgspec.structs.replace(grant(number), payload=encode_call(([address],), {}))


class Coast(Stage):
    """A stage whose worker has the label `gpu` and a share `data`, which is there."""

    def share(self, **changes: Any) -> Share:
        return Share(**{"name": "data", "path": self.folder / "data", "interval": OFTEN} | changes)

    async def connected(self, **changes: Any) -> None:
        (self.folder / "data").mkdir()
        await self.begin(await self.master.start(), **{"labels": ("gpu",), "shares": (self.share(),)} | changes)
        await self.until(lambda: self.master.parked and self.labels)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the master was told last."""
        return self._told.labels

    @property
    def troubles(self) -> list[str]:
        return self._told.troubles

    @property
    def _told(self) -> Any:
        return [*self.master.hellos, *self.master.relabels][-1]

    @property
    def look(self) -> int:
        """The process that looks at the share now."""
        [watch] = self.worker._shares._watches
        assert watch._look
        return watch._look.pid

    async def well(self) -> None:
        await self.until(lambda: "share=data" in self.labels)

    async def lose(self) -> None:
        """Take the share away; return when the master knows, and the worker that it does."""
        await self.well()
        (self.folder / "data").rename(self.folder / "away")
        await self.until(lambda: self.troubles and self.master.parked)
        self.master.order(Orders())
        await self.until(lambda: self.master.parked)

    async def find(self) -> None:
        (self.folder / "away").rename(self.folder / "data")
        await self.well()


# -- what the master is told


@on_stage(Coast)
async def test_a_share_that_is_there_is_a_label_beside_those_of_the_file(stage: Coast) -> None:
    await stage.connected()
    await stage.well()
    assert (stage.labels, stage.troubles) == (("gpu", "share=data"), [])
    assert f"share data is well: {stage.folder}/data" in stage.lines()
    assert "share" not in stage.worker.status()


@on_stage(Coast)
async def test_a_share_that_goes_is_told_at_once_and_logged_once_and_so_is_its_return(stage: Coast) -> None:
    await stage.connected()
    await stage.lose()
    trouble = f"share data: {stage.folder}/data: No such file or directory"
    assert (stage.labels, stage.troubles) == (("gpu",), [trouble])
    assert stage.worker.status().endswith(f"ok, 0 unsent; {trouble}")
    await stage.find()
    assert (stage.labels, stage.troubles) == (("gpu", "share=data"), [])
    told = [getattr(record, "message_id", "") for record in stage.log]
    assert [told.count(event.value) for event in (Event.SHARE_LOST, Event.SHARE_FOUND)] == [1, 2]
    assert len(stage.master.hellos) == 1


@on_stage(Coast)
async def test_the_next_hello_has_it_all(stage: Coast) -> None:
    await stage.connected()
    await stage.lose()
    stage.master.cut()
    await stage.until(lambda: len(stage.master.hellos) == 2)
    hello = stage.master.hellos[-1]
    assert (hello.labels, len(hello.troubles)) == (("gpu",), 1)


@on_stage(Coast)
async def test_what_changes_while_the_master_is_slow_is_told_afterwards(stage: Coast) -> None:
    await stage.connected()
    await stage.well()
    stage.master.silent = {"labels"}
    (stage.folder / "data").rename(stage.folder / "away")
    await stage.until(lambda: stage.master.unanswered)
    (stage.folder / "away").rename(stage.folder / "data")
    await stage.until(lambda: stage.lines()[-1].startswith("share data is well"))
    stage.master.speak()
    await stage.until(lambda: len(stage.master.relabels) >= 2 and stage.labels == ("gpu", "share=data"))


@on_stage(Coast)
async def test_a_reload_with_other_labels_and_shares_is_told_and_the_connection_stays(stage: Coast) -> None:
    await stage.connected()
    await stage.well()
    other = stage.share(name="other", path=stage.folder)
    stage.worker.reload(msgspec.structs.replace(stage.settings, labels=("site=berlin",), shares=(other,)))
    await stage.until(lambda: stage.labels == ("site=berlin", "share=other"))
    assert len(stage.master.hellos) == 1


# -- tasks that need what is not there


@on_stage(Coast)
async def test_of_what_has_not_begun_only_what_needs_the_lost_share_goes_back(stage: Coast) -> None:
    await stage.connected()
    await stage.well()
    stage.master.give(needing(1), grant(2), needing(3), grant(4))
    await stage.until(lambda: len(stage.pool.tasks) == 4)
    await stage.lose()
    await stage.until(lambda: stage.ends() == [(3, Outcome.RELEASED)])
    assert {task[0] for task in stage.pool.tasks} == {1, 2, 4}
    assert stage.pool.begun == {needing(1).id, grant(2).id}


@on_stage(Coast)
async def test_a_task_that_requires_the_share_and_does_not_name_it_goes_back_as_well(stage: Coast) -> None:
    await stage.connected()
    await stage.well()
    requiring = msgspec.structs.replace(grant(3), requires=("gpu", "share=data"))
    stage.master.give(grant(1), grant(2), requiring, grant(4))
    await stage.until(lambda: len(stage.pool.tasks) == 4)
    await stage.lose()
    await stage.until(lambda: stage.ends() == [(3, Outcome.RELEASED)])


@on_stage(Coast)
async def test_a_task_that_crosses_the_word_of_the_loss_goes_back_at_once(stage: Coast) -> None:
    await stage.connected()
    await stage.well()
    stage.master.silent = {"labels"}
    (stage.folder / "data").rename(stage.folder / "away")
    await stage.until(lambda: stage.master.unanswered)
    stage.master.give(needing(1), grant(2), needing(3, "share://nowhere/x"))
    await stage.until(lambda: stage.ends() == [(1, Outcome.RELEASED)])
    assert {task[0] for task in stage.pool.tasks} == {2, 3}  # of a share that is none of ours, the child says so


@on_stage(Coast)
async def test_a_task_that_did_not_ask_for_the_share_waits_for_it(stage: Coast) -> None:
    await stage.connected()
    await stage.lose()
    stage.master.give(needing(1))
    await stage.until(lambda: " 1 queued" in stage.worker.status())
    assert not stage.pool.tasks
    stage.master.cut()
    await stage.until(lambda: len(stage.master.hellos) == 2)
    assert [held.id for held in stage.master.hellos[-1].held] == [grant(1).id]
    await stage.find()
    await stage.until(lambda: grant(1).id in stage.pool.tasks)
    assert stage.ends() == []


@on_stage(Coast)
async def test_a_task_whose_share_is_not_known_yet_waits_for_the_first_look(stage: Coast) -> None:
    (stage.folder / "slow").mkdir()
    os.mkfifo(stage.folder / "slow/probe")
    await stage.connected(shares=(stage.share(path=stage.folder / "slow", probe="probe", timeout=60.0),))
    assert (stage.labels, stage.troubles) == (("gpu",), [])
    stage.master.give(needing(1))
    await stage.until(lambda: " 1 queued" in stage.worker.status())
    writer = os.open(stage.folder / "slow/probe", os.O_RDWR)  # whoever opens it to read waits no more
    os.write(writer, b"x")
    await stage.until(lambda: grant(1).id in stage.pool.tasks)
    os.close(writer)


@pytest.mark.parametrize("orders", [Orders(cancel=[grant(1).id]), Orders(drain=True), None], ids=str)
@on_stage(Coast)
async def test_what_waits_for_a_share_goes_back_when_it_is_cancelled_or_the_worker_drained_or_stopped(
    stage: Coast, orders: Orders | None
) -> None:
    await stage.connected()
    await stage.lose()
    stage.master.give(needing(1))
    await stage.until(lambda: " 1 queued" in stage.worker.status())
    if orders:
        stage.master.order(orders)
    else:
        stage.worker.stop(0.0)
    await stage.until(lambda: stage.ends() == [(1, Outcome.RELEASED)])


@on_stage(Coast)
async def test_no_more_tasks_wait_for_a_share_than_the_pool_has_room_for(stage: Coast) -> None:
    await stage.connected()
    await stage.lose()
    stage.master.give(*map(needing, range(1, 5)))
    await stage.until(lambda: stage.master.parked and stage.master.parked.count == 0)
    assert " 4 queued" in stage.worker.status()


# -- one that hangs


@on_stage(Coast)
async def test_a_share_that_does_not_answer_is_stale_and_has_one_process_at_a_time(stage: Coast) -> None:
    (stage.folder / "slow").mkdir()
    os.mkfifo(stage.folder / "slow/probe")
    await stage.connected(shares=(stage.share(path=stage.folder / "slow", probe="probe", timeout=0.5),))
    await stage.until(lambda: stage.troubles)
    assert re.fullmatch(
        rf"share data: {stage.folder}/slow/probe has not answered since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
        *stage.troubles,
    )
    assert len(looks(stage.folder)) <= 1
    (stage.folder / "slow/probe").unlink()
    (stage.folder / "slow/probe").touch()
    await stage.well()


def looks(folder: Path) -> list[int]:
    """The processes of ours that look at a share there."""
    pids = [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]
    return [pid for pid in pids if str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]


@on_stage(Coast)
async def test_a_process_that_somebody_kills_is_no_word_of_the_share_and_the_next_look_is(stage: Coast) -> None:
    (stage.folder / "slow").mkdir()
    os.mkfifo(stage.folder / "slow/probe")
    await stage.connected(shares=(stage.share(path=stage.folder / "slow", probe="probe", timeout=60.0),))
    pid = stage.look
    os.kill(pid, signal.SIGTERM)
    await stage.until(lambda: stage.troubles)
    assert stage.troubles[0].endswith("cannot be looked at: the process was killed by signal 15")
    (stage.folder / "slow/probe").unlink()
    (stage.folder / "slow/probe").touch()
    await stage.well()


@on_stage(Coast)
async def test_a_worker_that_ends_leaves_no_process_behind(stage: Coast) -> None:
    (stage.folder / "slow").mkdir()
    os.mkfifo(stage.folder / "slow/probe")
    await stage.connected(shares=(stage.share(path=stage.folder / "slow", probe="probe", timeout=60.0),))
    pid = stage.look
    await stage.end()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


# -- one look


def test_a_look_finds_out_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    for name, code in ((".", 0), ("file", 0), ("none", 2), ("link", 2), ("file/x", 20)):
        assert look(str(tmp_path), str(tmp_path / name), mounted=False) == code
    assert look(str(tmp_path / "none"), str(tmp_path), mounted=False) == 2


def test_a_look_tells_a_mount_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    assert look("/proc", "/proc/stat", mounted=True) == 0
    assert look(str(tmp_path / "link"), "/proc", mounted=True) == 0
    assert look(str(tmp_path), str(tmp_path), mounted=True) == UNMOUNTED


def test_a_look_that_nobody_ends_ends_itself(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "probe")
    command = [sys.executable, "-I", "-S", PROGRAM, str(tmp_path), str(tmp_path / "probe"), "no", "0.3"]
    assert subprocess.run(command, timeout=20).returncode == -signal.SIGALRM
    shutil.rmtree(tmp_path)
