"""Group commit: every request that waits at this moment shares one transaction and one fsync.

    put ─> inbox ─┬─ begin, run each job, serve the parked leases, seal ─> commit (elsewhere) ─> answer each job
                  └─ meanwhile the inbox fills again <───────────────────────────┘

A job that breaks a rule fails alone. A job that breaks the code rolls the transaction back, and its neighbours are
run again, each in a transaction of its own, and without the parked leases if it was these that broke it. A commit that
fails ends the process, as nothing may be promised after it, unless it only found no space.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from qdistd.broker import Broker, News
from qdistd.errors import InternalError, Overloaded, QdistError
from qdistd.master.commits import Commits
from qdistd.master.lobby import Lobby
from qdistd.model import Result
from qdistd.store import Store, StoreBroken, StoreFull

STALL = 3.0
"""Seconds without an end of the transaction under way that count as no progress: a disk that still works is quicker."""

LARGEST_TRANSACTION = 2000
"""Tasks moved in one transaction, about 30 ms of work: bounds how long a request waits for its neighbours."""


class Job(NamedTuple):
    """`run` inside the transaction, then `answer` with what it returned, or `fail`; `weight`: tasks it moves."""

    run: Callable[[], Any]
    answer: Callable[[Any], None]
    fail: Callable[[QdistError], None]
    weight: int = 1


Answer = Callable[[], None]


class Writer:
    """Owns the store: nobody else begins or commits."""

    def __init__(
        self,
        broker: Broker,
        store: Store,
        *,
        loop: asyncio.AbstractEventLoop,
        commits: Commits,
        lobby: Lobby,
        announce: Callable[[list[Result], News], None],
        broken: Callable[[BaseException], None],
        log: logging.Logger,
    ) -> None:
        self._broker = broker
        self._store = store
        self._loop = loop
        self._commits = commits
        self._lobby = lobby
        self._announce = announce
        self._broken = broken
        self._log = log
        self._inbox: deque[Job] = deque()
        self._busy = False
        self._stopped = False
        self._drained: asyncio.Future[None] | None = None
        self._moved = float("inf")
        """Loop time of the last step; infinite while there is nothing to do."""
        self.commits = 0

    def put(self, job: Job) -> None:
        """Have a job run with the next transaction."""
        self._inbox.append(job)
        self._wake()

    def hangs(self) -> bool:
        """Whether there is work and nothing moves: a commit does not return, or nobody takes up what was put."""
        return self._loop.time() > self._moved + STALL

    async def drain(self) -> None:
        """Return when everything that was put before has been committed and answered, whatever comes meanwhile."""
        if not self._stopped:
            self._drained = self._loop.create_future()
            self.put(Job(lambda: None, lambda _: self._let_go(), lambda _: self._let_go()))
            await self._drained

    def stop(self) -> None:
        """Begin no further transaction."""
        self._stopped = True

    def _end(self, error: BaseException) -> None:
        """The store can promise nothing more, so neither can we: no answer, no further transaction."""
        self.stop()
        self._let_go()
        self._broken(error)

    def _wake(self) -> None:
        if not self._busy:
            self._busy = True
            self._moved = self._loop.time()
            self._loop.call_soon(self._transact)  # after whatever else the loop has read in this round

    def _transact(self) -> None:
        self._moved = self._loop.time()
        if self._stopped or not self._inbox:
            self._busy = False
            self._moved = float("inf")
        else:
            self._try(self._take_batch())

    def _let_go(self) -> None:
        """Whoever waits in `drain` need not wait any longer."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _take_batch(self) -> list[Job]:
        batch = [self._inbox.popleft()]
        weight = batch[0].weight
        while self._inbox and weight + self._inbox[0].weight <= LARGEST_TRANSACTION:
            batch.append(self._inbox.popleft())
            weight += batch[-1].weight
        return batch

    def _try(self, batch: list[Job], *, serve: bool = True) -> None:
        try:
            self._store.begin()
            answers = [self._run(job) for job in batch]
            if serve:
                answers += self._lobby.serve()
            changed = self._store.seal()
        except StoreBroken as error:
            self._end(error)
        except Exception as error:  # noqa: BLE001 - the gateway's door: a bug must not take the master down
            self._undo(batch, error, served=serve)
        else:
            self._commit(batch, answers, changed, served=serve)

    def _run(self, job: Job) -> Answer:
        try:
            done = job.run()
        except QdistError as error:
            refusal = error  # the name of an except clause ends with it
            return lambda: job.fail(refusal)
        return lambda: job.answer(done)

    def _undo(self, batch: list[Job], error: Exception, *, served: bool) -> None:
        """Forget the transaction. Of several jobs each is tried alone, a single one without those who wait for work."""
        self._store.rollback()
        self._broker.recover()
        self._lobby.undo()
        if len(batch) > 1:
            for job in batch[1:][::-1]:
                self._inbox.appendleft(job)
            self._try(batch[:1])
        elif served:
            self._try(batch, serve=False)
        else:
            batch[0].fail(self._explain(error))
            self._loop.call_soon(self._transact)

    def _explain(self, error: Exception) -> QdistError:
        if isinstance(error, StoreFull):
            return Overloaded(f"{error}; free some and try again")
        number = f"{id(error):x}-{self.commits}"
        self._log.error("internal error %s", number, exc_info=error)
        return InternalError(f"qdist has a bug; its log has the details under internal error {number}")

    def _deliver(self, answers: list[Answer]) -> None:
        for answer in answers:
            try:
                answer()
            except Exception as error:  # noqa: BLE001 - the gateway's door: one answer must not stop the others
                self._explain(error)

    def _commit(self, batch: list[Job], answers: list[Answer], changed: bool, *, served: bool) -> None:
        results, news = self._broker.take_finished(), self._broker.take_news()

        def committed(error: BaseException | None) -> None:
            if self._stopped:
                return
            if isinstance(error, StoreFull):
                self._undo(batch, error, served=served)
            elif error is not None:
                self._end(error)
            else:
                self._deliver([*answers, lambda: self._announce(results, news)])
                self._loop.call_soon(self._transact)  # whatever has come meanwhile goes into the next transaction

        if changed:
            self.commits += 1
            self._commits(self._store.commit, committed)
        else:
            self._store.commit()
            committed(None)
