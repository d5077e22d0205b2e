"""Results on their way to the master: kept until it says that it has them.

pool ──add──> waiting ──batch──> master ──settle──> gone
                 └─ master away, or silent for a second ──keep──> Spool   (still waiting, now on the disk as well)
"""

import logging
from collections.abc import Collection, Iterable

import msgspec

from qdistd.call import encode_failure
from qdistd.model import Failure, Held, Outcome, Settlement, id_text
from qdistd.protocol import LARGEST_BATCH
from qdistd.worker.identity import Identity
from qdistd.worker.spool import Spool

PATIENCE = 1.0
"""Seconds a result may wait in memory alone: a master that is well answers within milliseconds."""

RETRY_SPOOL = 5.0
"""Seconds before the next try to write to a disk that refused."""

LARGEST_REPORT = 2 * 1024 * 1024
"""Bytes of results after which a batch is full: far under a frame, whatever the last result adds."""

Key = tuple[bytes, int]


class Outbox:
    """`identity`: the incarnation that leases now. What an earlier one left in the spool goes first."""

    def __init__(self, spool: Spool, identity: Identity, log: logging.Logger) -> None:
        self._spool = spool
        self._identity = identity
        self._log = log
        self._waiting: dict[Key, Settlement] = {(item.id, item.attempt): item for item in spool.unsent()}
        self._fresh: dict[Key, float] = {}
        """Those that are in memory alone, oldest first, and the loop time by which they should be on the disk."""

    def __len__(self) -> int:
        return len(self._waiting)

    def held(self) -> list[Held]:
        """What the master must not give to somebody else."""
        return [Held(task_id, attempt) for task_id, attempt in self._waiting]

    def add(self, settlement: Settlement, now: float) -> None:
        """Take a result in at loop time `now`."""
        key = settlement.id, settlement.attempt
        self._waiting[key] = settlement
        self._fresh[key] = now + PATIENCE

    def batch(self) -> list[Settlement]:
        """What goes into the next report: as much as fits. It stays here until it is settled."""
        batch: list[Settlement] = []
        size = 0
        for settlement in self._waiting.values():
            if size >= LARGEST_REPORT or len(batch) == LARGEST_BATCH:
                break
            batch.append(settlement)
            size += len(settlement.value) + len(settlement.output)
        return batch

    def settle(self, batch: Iterable[Settlement], stale: Collection[bytes] = ()) -> None:
        """The master has these, or wants none of them (`stale`: ids)."""
        kept: list[Settlement] = []
        for settlement in batch:
            key = settlement.id, settlement.attempt
            if self._fresh.pop(key, None) is None:
                kept.append(settlement)
            self._waiting.pop(key, None)
            if settlement.id in stale:
                self._drop(settlement)
        if kept:
            self._spool.forget(kept)

    def keep(self, now: float) -> None:
        """Write everything that is in memory alone to the disk."""
        if not self._fresh:
            return
        if self._spool.save(self._signed(self._waiting[key]) for key in self._fresh):
            self._fresh.clear()
        else:
            self._fresh = dict.fromkeys(self._fresh, now + RETRY_SPOOL)

    def clear(self) -> None:
        """No master will ever want any of these."""
        self._spool.forget(self._waiting.values())
        self._waiting.clear()
        self._fresh.clear()

    def bequeath(self, now: float) -> list[Settlement]:
        """Results that could not be written to the disk; all others are there."""
        self.keep(now)
        return [self._waiting[key] for key in self._fresh]

    def due(self) -> float:
        """Loop time by which `keep` should be called even though there is a master."""
        return next(iter(self._fresh.values()), float("inf"))

    def _signed(self, settlement: Settlement) -> Settlement:
        """With the token under which the task was leased, so that a later incarnation can deliver it."""
        return settlement if settlement.token else msgspec.structs.replace(settlement, token=self._identity.token)

    def _drop(self, settlement: Settlement) -> None:
        name = id_text(settlement.id)
        text = "task %s: the master does not want the end of attempt %d (%s): the task was given away meanwhile"
        extra = {"qdist": {"TASK_ID": name, "ATTEMPT": settlement.attempt}}
        self._log.info(text, name, settlement.attempt, settlement.outcome.word, extra=extra)


def fitting(settlement: Settlement, limit: int) -> Settlement:
    """The settlement, or a failure in its place where the master takes no result of that size (bytes)."""
    if settlement.outcome is not Outcome.SUCCEEDED or len(settlement.value) <= limit:
        return settlement
    sentence = (
        f"the result has {len(settlement.value):,} bytes, the master takes {limit:,}:"
        " write a file on shared storage and return its path"
    )
    value = encode_failure(Failure("too-large", sentence))
    return msgspec.structs.replace(settlement, outcome=Outcome.FAILED, value=value)
