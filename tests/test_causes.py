"""Every cause of death there is, each of a real process: what it is called, and what it costs.

The kernel's own want of memory needs a machine that has little: `tests/hosts/test_memory.py`.
"""

from typing import Any, NamedTuple

import msgspec
import pytest
from conftest import NewCluster
from daemons import DEADLINE
from gate import Gate
from patience import until
from poolside import Poolside, at_the_pool
from samples import HERE, MODULES

from qdistd.model import Outcome, State


class Cause(NamedTuple):
    """`words` are in the message; "NEWS" and "GATE" among `args` stand for the fifos of the test."""

    kind: str
    name: str
    args: tuple[Any, ...] = ()
    outcome: Outcome = Outcome.FAILED
    words: str = ""
    number: int = 0
    options: dict[str, Any] = {}


HOLD = ("NEWS", "begun", "GATE")

CAUSES = (
    Cause("exception", "raise_chain", words="could not add"),
    Cause("retry", "retry", (60.0,), words="wants another try in 60 seconds"),
    Cause("rejected", "reject", ("never",), Outcome.REJECTED, "never"),
    Cause("timeout", "hold", HOLD, words="limit of 0.3 seconds and was killed", options={"timeout": 0.3}),
    Cause("soft-timeout", "hold", HOLD, words="soft limit of 0.3 seconds", options={"soft_timeout": 0.3}),
    Cause("exit", "leave", (3,), Outcome.CRASHED, "ended by itself with exit status 3", 3),
    Cause("signal", "segfault", (), Outcome.CRASHED, "was killed by signal 11 (SIGSEGV)", 11),
    Cause("memory", "take_memory", (1 << 30,), words="wanted more memory than its limit of 300 MiB"),
    Cause("too-large", "give_bytes", (2000,), words="is over 1000 bytes"),
    Cause("unserializable", "give_lambda", words="function is not plain data"),
    Cause("undecodable", "add", words="the bytes are not plain data", options={"payload": b"rubbish"}),
    Cause("not-found", "no_such_task", words="no module here has such a function"),
    Cause("not-found", "no_such_module.add", words="No module named 'no_such_module'"),
    Cause("not-allowed", "os.system", ("true",), words="os is not allowed here"),
)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: f"{cause.kind}-{cause.name}")
@at_the_pool(modules=(*MODULES, "no_such_module"), memory=300 << 20, result=1000)
async def test_a_cause_has_its_name_and_the_next_task_runs(side: Poolside, cause: Cause) -> None:
    fifos = {"NEWS": side.news, "GATE": side.gate}
    args = [fifos.get(arg, arg) if isinstance(arg, str) else arg for arg in cause.args]
    grant = msgspec.structs.replace(side.grant(cause.name, *args), **cause.options)
    side.pool.give([grant])
    failure = await side.failure(grant, cause.outcome)
    assert (failure.kind, failure.number) == (cause.kind, cause.number)
    assert cause.words in failure.message
    assert await side.run("add", 1, 2) == 3


@pytest.mark.parametrize(("stop", "kind"), [(False, "cancelled"), (True, "stopped")])
@at_the_pool(modules=MODULES)
async def test_an_order_has_its_name(side: Poolside, stop: bool, kind: str) -> None:
    grant = side.give("hold", side.news, "begun", side.gate)
    await side.hears("begun")
    if stop:
        await side.pool.close()
    else:
        side.pool.cancel(grant.id)
    assert (await side.failure(grant, Outcome.RELEASED if stop else Outcome.CANCELLED)).kind == kind


def test_a_worker_that_is_lost_has_its_name_and_costs_no_retry(new_cluster: NewCluster, tmp_path: Any) -> None:
    gate = Gate(tmp_path / "gate")
    cluster = new_cluster(workers=1, worker={"worker": {"tasks": [*MODULES, "qdistd.tasks"], "path": [HERE]}})
    with cluster.client("admin") as q:
        task = q.submit("count_lines", gate.path)
        gate.reached()
        cluster.workers[0].kill()
        until(lambda: task.state() is not State.LEASED, "the worker is lost")
        cluster.workers[0].start()
        gate.let_go(lines=3)
        assert task.result(DEADLINE) == 3
        view = q.show(task)
    assert [attempt.outcome for attempt in view.attempts] == ["lost", "succeeded"]
    assert view.attempts[0].failure and view.attempts[0].failure.kind == "lost"
    assert (view.losses, view.failures) == (1, 0)
