"""Who is who among workers of one name: the dead leave their leases at once, the living are not disturbed."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from qdistd import protocol as say
from qdistd import systemd
from qdistd.broker import Seat
from qdistd.model import Life, State
from qdistd.protocol import Hello
from qdistd.store import WorkerRow, open_store
from tests.household import Clocks, House
from tests.serving import WORK, serving, task
from tests.wired import run

NOW = Life("machine", "boot", "start")


@pytest.fixture
def house() -> House:
    return House(open_store("sqlite://:memory:"), Clocks())


def hello(house: House, token: bytes, life: Life, host: str = "host") -> Seat:
    with house.change() as broker:
        return broker.hello(
            WorkerRow(token * 16, "w", host, 1, life=life), Hello("worker", "w", queues=["default"], processes=1)
        )


@pytest.mark.parametrize(
    ("later", "over"),
    [
        (NOW, False),
        (Life("machine", "boot", "next start"), True),
        (Life("machine", "next boot", "start"), True),
        (Life("machine", "next boot", ""), True),
        (Life("machine", "boot", ""), False),  # somebody has started it by hand: nothing proves the other one dead
        (Life("twin", "next boot", "next start"), False),
        (Life(), False),
    ],
)
def test_a_life_is_over_when_its_machine_or_its_unit_has_begun_another(later: Life, over: bool) -> None:
    assert NOW.outlived_by(later) is over
    assert not Life().outlived_by(later)


def test_a_worker_whose_unit_was_started_again_leaves_its_leases_at_once(house: House) -> None:
    (one,) = house.submit()
    house.lease(hello(house, b"a", NOW))
    hello(house, b"b", Life("machine", "boot", "next start"))
    assert house.state(one) == State.READY


@pytest.mark.parametrize(
    ("life", "host"),
    [
        (Life("machine", "boot", "next start"), "other host"),
        (Life("twin", "next boot", "next start"), "host"),  # two machines that are called the same
        (NOW, "host"),
        (Life(), "host"),
    ],
)
def test_a_worker_that_lives_keeps_its_leases(house: House, life: Life, host: str) -> None:
    (one,) = house.submit()
    house.lease(hello(house, b"a", NOW))
    hello(house, b"b", life, host)
    assert house.state(one) == State.LEASED


def test_a_silent_worker_of_another_host_keeps_its_leases(house: House) -> None:
    (one,) = house.submit()
    seat = hello(house, b"a", Life())
    house.lease(seat)
    with house.change() as broker:
        broker.gone(seat, ended=False)
    hello(house, b"b", Life(), "other host")
    assert house.state(one) == State.LEASED
    hello(house, b"c", Life())
    assert house.state(one) == State.READY


def test_nothing_is_leased_to_a_connection_whose_worker_is_proven_dead(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            dead, alive, client = await served.link(WORK), await served.link(WORK), await served.link()
            for link, token, start in ((dead, b"a", "first"), (alive, b"b", "second")):
                life = Life("machine", "boot", start)
                await link.call(say.Hello("worker", "w", token=token * 16, queues=["default"], life=life))
                if link is dead:
                    waiting = dead.call(say.Lease(["default"], 1, 30.0))
            await client.call(say.Submit([task(1)]))
            (grant,) = (await alive.call(say.Lease(["default"], 1, 10.0))).grants
            assert grant.attempt == 1
            await asyncio.wait([dead.closed])
            waiting.exception()

    run(scenario)


def test_only_what_systemd_started_itself_has_an_invocation() -> None:
    unit = {"INVOCATION_ID": "abc", "SYSTEMD_EXEC_PID": str(os.getpid())}
    assert systemd.invocation(unit) == "abc"
    assert systemd.invocation(unit | {"SYSTEMD_EXEC_PID": "1"}) == ""
    assert systemd.invocation({"INVOCATION_ID": "abc"}) == ""


def test_machine_and_boot_have_names_that_do_not_give_the_machine_id_away() -> None:
    assert systemd.boot() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    file = Path("/etc/machine-id")
    number = file.read_text().strip() if file.exists() else ""
    assert len(systemd.machine()) == (32 if len(number) == 32 else 0), socket.gethostname()
    assert not number or number not in systemd.machine()
