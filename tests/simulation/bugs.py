"""Bugs to plant: each spoils one part of a cluster the way a hasty change might. The simulation must find them all.

`spoil(kind, part)` is called for the cluster and for every master, worker and session as it is made.
"""

import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec

FLUSH_EVERY = 0.5
"""Virtual seconds between two real syncs of a store that acknowledges before it has synced."""


def acknowledge_before_the_disk_has_it(kind: str, part: Any) -> None:
    """As with `synchronous=NORMAL`: a crash takes the last moments of acknowledged work with it."""
    if kind != "cluster":
        return
    database, world = part.store._db, part.world
    disk = sqlite3.connect(":memory:")

    def sync() -> None:
        if not database.in_transaction:
            database.backup(disk)
        world.at(world.now + FLUSH_EVERY, sync)

    def crash(rollback: Callable[[], None] = part.store.rollback) -> None:
        rollback()
        disk.backup(database)
        rollback()

    part.store.rollback = crash
    sync()


def accept_results_of_any_attempt(kind: str, part: Any) -> None:
    """No fence: whoever reports first after a lease was lost settles the task."""
    if kind != "master":
        return
    broker = part._broker
    honest = broker.report

    def report(seat: Any, settled: list[Any]) -> list[bytes]:
        stale = []
        for settlement in settled:
            holder = next((other for other in broker._seats if settlement.id in other.claims), None)
            if holder is None:
                stale.append(settlement.id)
                continue
            forged = {"attempt": holder.claims[settlement.id].attempt, "token": b""}
            honest(holder, [msgspec.structs.replace(settlement, **forged)])
        honest(seat, [])
        return stale

    broker.report = report


def measure_leases_by_the_wall_clock(kind: str, part: Any) -> None:
    """A step of the clock back by a day makes a lease last a day longer."""
    if kind == "master":
        part._broker._monotonic = part._wall


def make_new_ids_when_sending_again(kind: str, part: Any) -> None:
    """One submit whose answer was lost becomes two tasks."""
    if kind != "session":
        return
    ground = part.outbox.ground

    def ground_with_new_ids() -> None:
        for batch in part.outbox._flying:
            batch.tasks[:] = [msgspec.structs.replace(task, id=part.new_id()) for task in batch.tasks]
        ground()

    part.outbox.ground = ground_with_new_ids


def never_end_a_lease(kind: str, part: Any) -> None:
    """The worker is gone for good, and its tasks with it."""
    if kind == "master":
        part._broker._seats.expired = lambda now: []
        part._broker.gone = lambda seat, *, ended: None
        part._broker._seats.earlier = lambda row: []


def forget_what_was_leased_over_a_restart(kind: str, part: Any) -> None:
    """Leased tasks stay leased to nobody."""
    if kind == "master":
        part._store.claims = list if part._wall() else part._store.claims


def leave_grants_that_never_arrived(kind: str, part: Any) -> None:
    """An answer lost with its connection: the worker does not know what it holds, the master renews it for ever."""
    if kind != "master":
        return
    broker = part._broker
    honest = broker._drop_claims

    def drop(seat: Any, keep: Any, outcome: Any, why: str) -> None:
        if why != "the worker never received it":
            honest(seat, keep, outcome, why)

    broker._drop_claims = drop


def lose_unsent_results_with_the_connection(kind: str, part: Any) -> None:
    """A finished result is dropped when the link breaks, though hello still claims to hold its task."""
    if kind != "worker":
        return
    outbox = part._hands.outbox
    claimed: list[Any] = []
    honest_keep, honest_held = outbox.keep, outbox.held

    def keep(now: float) -> None:
        honest_keep(now)
        if part._conversation is None:
            claimed.extend(honest_held())
            outbox._waiting.clear()
            outbox._fresh.clear()

    outbox.keep = keep
    outbox.held = lambda: [*honest_held(), *claimed]


def forget_to_ask_again_after_a_reconnect(kind: str, part: Any) -> None:
    """The new connection never hears of tasks that the old one watched."""
    if kind == "session":
        part._watchlist.ask_again = lambda: None


def forget_retries_that_wait(kind: str, part: Any) -> None:
    """What is scheduled is never made ready."""
    if kind == "master":
        part._broker._promote = lambda: None


def run_a_grant_again_after_a_reconnect(kind: str, part: Any) -> None:
    """The worker believes its grants die with the connection, and begins them anew."""
    if kind != "worker":
        return
    hands = part._hands
    pool, taken = hands.pool, []
    honest_take, honest_held = hands.take, hands.held

    def take(grants: Any) -> None:
        taken.extend(grants)
        honest_take(grants)

    def held() -> Any:
        holds = honest_held()
        known = {(hold.id, hold.attempt) for hold in holds}
        pool.give([grant for grant in taken[-1:] if (grant.id, grant.attempt) in known])
        return holds

    hands.take, hands.held = take, held


def let_tasks_overtake_what_they_come_after(kind: str, part: Any) -> None:
    """Every task is ready when it comes, whatever it was to wait for."""
    if kind == "master":
        part._broker.door._needs = lambda task: (tuple((needs, True) for needs in task.after), None)


def forget_who_has_a_place(kind: str, part: Any) -> None:
    """The places of a concurrency key are never counted."""
    if kind == "master":
        part._store.bonds.holding = lambda queue, key: 0


def count_what_runs_for_each_worker_alone(kind: str, part: Any) -> None:
    """As if a limit of a queue were one of every worker."""
    if kind == "master":
        part._broker.flow.room = lambda queue, idle: 2


PLANTED: tuple[Callable[[str, Any], None], ...] = (
    acknowledge_before_the_disk_has_it,
    accept_results_of_any_attempt,
    measure_leases_by_the_wall_clock,
    make_new_ids_when_sending_again,
    never_end_a_lease,
    forget_what_was_leased_over_a_restart,
    leave_grants_that_never_arrived,
    lose_unsent_results_with_the_connection,
    forget_to_ask_again_after_a_reconnect,
    forget_retries_that_wait,
    run_a_grant_again_after_a_reconnect,
    let_tasks_overtake_what_they_come_after,
    forget_who_has_a_place,
    count_what_runs_for_each_worker_alone,
)
