"""One conversation with the masters, for as long as it is wanted.

    submit ──append──> Outbox ──Submit──> master
                                             │ Accepted: on its disk
    waiter <──ended── Watchlist <──Finished──┘ (one Wait is parked while anything is watched)

Several requests are on the wire at a time. The first two go out at once; while they are under way tasks gather, and
whatever has gathered goes with the next answer, or as soon as it is worth a request of its own: a lone task is not
kept waiting, and a stream of them travels in batches. When the link breaks everything unacknowledged is sent again,
everything unfinished is asked for again. What an overloaded master refuses goes out again after a pause, for those who
are patient.

No threads, no clock, no socket of its own: the simulation runs this very class. Everything but `outbox.waiting` and
`hungry` belongs to the event loop.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from qdistd.address import Address
from qdistd.client.connector import Connector
from qdistd.client.outbox import Batch, Entry, Outbox, Refusals
from qdistd.client.watchlist import Watchlist
from qdistd.errors import InternalError, NotFound, Overloaded, QdistError, Refused, Unavailable, again, from_wire
from qdistd.model import IdMaker
from qdistd.neighbours import hold_back
from qdistd.protocol import LARGEST_BATCH, Accepted, Finished, Hello, Refusal, Submit, Wait, Welcome
from qdistd.wire.link import Link
from qdistd.wire.network import Network

EAGER_REQUESTS = 2
"""Requests that go out however small they are: one is being committed while the next arrives."""

MOST_REQUESTS = 8
"""Requests under way at most: keeps the line full, and what a broken link repeats small."""

WORTH_SENDING = 250
"""Tasks that make a request of their own while others are under way: its overhead is then under 1 % of the work."""

WAIT_SECONDS = 20.0
"""How long a `Wait` is parked: well under `protocol.LONGEST_POLL`, so that a silent master is found out soon."""

Unstored = tuple[Entry, QdistError]
"""A task that the master has not taken, and why."""

GOODBYE = 1.0
"""Seconds for an orderly end of the connection."""

FIRST_REST = 0.1
"""Seconds before a submit that found no room is repeated. The pause doubles up to what the master has asked for: it
guesses at the long run, and a queue of short tasks has room again within moments."""

SPREAD = 1.5
"""The pause is drawn between that and this many times that: clients that were turned away together shall not come
back together."""


class Session:
    """Gets tasks to a master and their results back, over as many connections as that takes."""

    def __init__(
        self,
        network: Network,
        addresses: Sequence[Address],
        key: bytes,
        *,
        hello: Hello,
        wall: Callable[[], float],
        rng: random.Random,
        patience: float = 0.0,
        acknowledged: Callable[[], None] = lambda: None,
    ) -> None:
        self.new_id = IdMaker(wall, rng.randbytes)
        self.outbox = Outbox()
        self.refusals = Refusals()
        self.hungry = True
        """Whether an appended task moves only after a call of `pump`."""
        self.welcome: Welcome | None = None
        """What the master said last about its limits."""
        self.broken: QdistError | None = None
        """Why this session is over."""
        self.down_since: float | None = None
        """Loop time since which there is no link; None while there is one."""
        self._connector = Connector(network, addresses, key, hello=hello, rng=rng)
        self._rng = rng
        self._patience = patience
        self._acknowledged = acknowledged
        self._watchlist = Watchlist()
        self._waits = 0
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None

    # -- the life of the connection

    async def run(self) -> None:
        """Keep a link until `close`, or until a master says that it will never take us."""
        self._task = asyncio.current_task()
        self.down_since = asyncio.get_running_loop().time()
        try:
            while self.broken is None:
                link, self.welcome = await self._connector.connect()
                self._begin(link)
                await asyncio.wait([link.closed])
                self._lose()
        except Refused as error:
            self.stop(error)
        finally:
            self.stop(InternalError("the session of this client ended by a bug of qdist"))
            await self._hang_up()

    def close(self) -> None:
        """End it. What is unacknowledged or unfinished hears that the client is closed."""
        self.stop(Refused("this client is closed; a new one gets the results of its tasks by their ids"))
        if self._task is not None:
            self._task.cancel()

    def stop(self, error: QdistError) -> None:
        """Nothing more will come: everybody who waits hears why. The first reason stays."""
        if self.broken is not None:
            return
        self.broken = error
        self._fail_waiting()
        for entry in self._watchlist.clear():
            entry.failed(error)
        self._up.set()
        self._acknowledged()
        if self._link is not None:
            self._link.close()

    def _fail_waiting(self) -> None:
        assert self.broken is not None
        for entry in self.outbox.clear():
            self.refusals.add(entry, self.broken)
        self.hungry = True

    async def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
            await asyncio.wait([link.closed], timeout=GOODBYE)

    def _begin(self, link: Link) -> None:
        self._link = link
        self.down_since = None
        self._watchlist.ask_again()
        self._up.set()
        self.pump()

    def _lose(self) -> None:
        self._link = None
        self._up.clear()
        self.down_since = asyncio.get_running_loop().time()
        self._waits = 0
        self.outbox.ground()

    # -- out: tasks

    def pump(self) -> None:
        """Send what may be sent. After an `append` it is wanted if `hungry`, or for every `WORTH_SENDING` tasks."""
        while True:
            self.hungry = False
            if self.broken is not None:
                self._fail_waiting()
                return
            self._cut(1 if self._eager() else WORTH_SENDING)
            self._send()
            if not self._eager():
                break
            self.hungry = True  # first say so, then look again: an append in between is not overlooked
            if not self.outbox.waiting:
                break
        self._listen()

    def _eager(self) -> bool:
        return self._link is not None and self.outbox.requests < EAGER_REQUESTS

    def _cut(self, least: int) -> None:
        for batch in self.outbox.cut(least):
            if batch.watch:
                for entry in batch.entries:
                    self._watchlist.add(entry)

    def _send(self) -> None:
        link = self._link
        if link is None:
            return
        for batch in self.outbox.fly(MOST_REQUESTS):
            submit = Submit(batch.tasks, batch.watch, batch.parcel is not None)
            held_back = hold_back(submit, self.welcome.version) if self.welcome else []
            link.call(submit).add_done_callback(partial(self._answered, link, batch, held_back))

    def _answered(self, link: Link, batch: Batch, held_back: list[Refusal], answer: asyncio.Future[Any]) -> None:
        error = _error_of(answer)
        if link is not self._link or isinstance(error, Unavailable):
            return  # the link broke: the next one carries this batch again
        if error is None:
            refused = self._accept(batch, answer.result(), held_back)
        else:
            refused = [(entry, error) for entry in batch.entries]
        later = self._postpone(batch, refused) if refused else []
        self.outbox.land(batch, later)
        if len(refused) > len(later):
            self._refuse(batch, refused, set(later))
        self._acknowledged()
        self.pump()

    def _accept(self, batch: Batch, accepted: Accepted, held_back: list[Refusal]) -> list[Unstored]:
        """Take note of what is stored. What is not, and why."""
        refusals = held_back + accepted.refused
        refused = _pair(batch, refusals) if refusals else []
        if refused and batch.parcel is not None:
            return refused
        left = {entry for entry, _ in refused}
        if accepted.merged:
            self._merge(batch, {merged.id: merged.into for merged in accepted.merged})
        for entry in batch.entries:
            if entry in left:
                continue
            entry.task = None
            if entry.watch is not batch.watch:
                self._watchlist.ask(entry)
        return refused

    def _merge(self, batch: Batch, into: dict[bytes, bytes]) -> None:
        """These are other tasks, which have to be named to be watched."""
        for entry in batch.entries:
            if entry.task_id in into:
                if batch.watch:
                    self._watchlist.remove(entry)
                entry.merged, entry.task_id = True, into[entry.task_id]
                if batch.watch:
                    self._watchlist.ask(entry)

    def _postpone(self, batch: Batch, refused: Sequence[Unstored]) -> list[Entry]:
        """What shall go out again a little later. A parcel does so whole, or not at all."""
        busy = self._busy(batch, refused)
        loop = asyncio.get_running_loop()
        if batch.until is None:
            batch.until = loop.time() + self._patience
        left = batch.until - loop.time()
        if not busy or left <= 0 or (batch.parcel is not None and len(busy) < len(refused)):
            return []
        pause = min(FIRST_REST * 2**batch.tries, max(*busy.values(), FIRST_REST)) * self._rng.uniform(1, SPREAD)
        batch.tries += 1
        loop.call_later(min(pause, left), self._resume, batch)
        return list(busy) if batch.parcel is None else batch.entries

    def _busy(self, batch: Batch, refused: Sequence[Unstored]) -> dict[Entry, float]:
        """What there is no room for, or comes after something that has yet to come; the pause that the master wants."""
        others = (other for other in self.outbox.unanswered() if other is not batch)
        coming = {entry.task_id for other in others for entry in other.entries}
        busy: dict[Entry, float] = {}
        for entry, error in refused:
            early = isinstance(error, NotFound) and entry.task and not coming.isdisjoint(entry.task.after)
            if entry.patient and (early or isinstance(error, Overloaded)):
                busy[entry] = error.after if isinstance(error, Overloaded) else 0.0
                coming.add(entry.task_id)
        return busy

    def _resume(self, batch: Batch) -> None:
        self.outbox.resume(batch)
        self.pump()

    def _refuse(self, batch: Batch, refused: Sequence[Unstored], later: set[Entry]) -> None:
        if batch.parcel is not None:
            for entry in batch.entries:
                self._watchlist.remove(entry)
            self.refusals.add(batch.parcel, _of_all(batch, *refused[0]))
            return
        for entry, error in refused:
            if entry not in later:
                self._watchlist.remove(entry)
                self.refusals.add(entry, error)

    async def stored(self, entry: Entry | None = None) -> None:
        """Return when the master has answered for everything appended before; or for one entry alone."""
        self._cut(1)
        self._send()
        batches = self.outbox.unanswered()
        waiting = [batch.done() for batch in batches if entry is None or batch.has(entry)]
        if waiting:
            await asyncio.wait(waiting)

    async def flush(self) -> None:
        """As `stored`; then raise the first refusal that nobody has heard of."""
        await self.stored()
        self.refusals.check()

    # -- back: results

    def watch(self, entry: Entry) -> None:
        """Hear of the end of a task that was submitted without `watch`, or by somebody else."""
        if self.broken is not None:
            entry.failed(self.broken)
        elif not entry.watch:
            entry.watch = True
            if entry.task is None:
                self._watchlist.ask(entry)
            self.pump()

    def _listen(self) -> None:
        link, watchlist = self._link, self._watchlist
        while link is not None and (not self._waits if not watchlist.fresh else self._waits < EAGER_REQUESTS):
            if not watchlist:
                return
            ids = watchlist.take(LARGEST_BATCH)
            self._waits += 1
            answer = link.call(Wait(ids, 0.0 if watchlist.fresh else WAIT_SECONDS))
            answer.add_done_callback(partial(self._heard, link))

    def _heard(self, link: Link, answer: asyncio.Future[Any]) -> None:
        error = _error_of(answer)
        if link is not self._link or isinstance(error, Unavailable):
            return
        self._waits -= 1
        if error is None:
            self._hand_out(answer.result())
            self.pump()
        elif isinstance(error, Refused):
            self.stop(error)
        else:
            link.abort(f"the master could not answer a wait: {error}")

    def _hand_out(self, finished: Finished) -> None:
        for result in finished.results:
            self._watchlist.ended(result)
        for task_id in finished.unknown:
            self._watchlist.missing(task_id)

    # -- anything else

    async def ask(self, question: Any) -> Any:
        """The answer to any question of the protocol, asked again on the next link when one breaks."""
        while True:
            link = await self._linked()
            try:
                return await link.call(question)
            except Unavailable:
                await asyncio.wait([link.closed])

    async def ask_about(self, entry: Entry, question: Callable[[bytes], Any]) -> Any:
        """As `ask`, once the master has the task. `question` makes it of the id, which is certain only then."""
        if entry.task is not None:
            await self.stored(entry)
        return await self.ask(question(entry.task_id))

    async def greeted(self) -> Welcome:
        """The limits of the master, as soon as one is known."""
        await self._linked()
        assert self.welcome is not None
        return self.welcome

    async def _linked(self) -> Link:
        while self._link is None or self.broken is not None:
            if self.broken is not None:
                raise again(self.broken)
            await self._up.wait()
        return self._link

    def unavailable(self) -> Unavailable:
        """What to say to somebody who has waited too long for a master."""
        return self._connector.unavailable()


def _error_of(answer: asyncio.Future[Any]) -> QdistError | None:
    """How a call of a link failed: the future of one fails with a `QdistError` or not at all."""
    error = answer.exception()
    assert error is None or isinstance(error, QdistError)
    return error


def _pair(batch: Batch, refused: Sequence[Refusal]) -> list[Unstored]:
    """In the order of the batch; of a parcel in that of the master, who says first what is wrong with it."""
    errors = {refusal.id: from_wire(refusal.code, refusal.message, refusal.after) for refusal in refused}
    pairs = [(entry, errors[entry.task_id]) for entry in batch.entries if entry.task_id in errors]
    if batch.parcel is not None:
        said = list(errors)
        pairs.sort(key=lambda pair: said.index(pair[0].task_id))
    return pairs


def _of_all(batch: Batch, entry: Entry, error: QdistError) -> QdistError:
    """What the refusal of one task says to all that were to be stored with it."""
    number = batch.entries.index(entry)
    return again(
        error,
        f"{error} (task {number + 1} of {len(batch.tasks)}, {batch.tasks[number].name!r}; none of them is stored)",
    )
