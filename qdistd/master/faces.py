"""The two queues that a plain `multiprocessing.managers` client sees.

    get_task_queue()    put ─> task with mailbox      get ─> lease to this connection
    get_result_queue()  put ─> settles that lease     get ─> takes the oldest result out of the mailbox

A lease of a connection is settled by its next result, or by its next `get` (no result), or it goes back to the queue
when the connection ends first. Everything a stock client sends has been through the strict decoder of `wire.plain`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from qdistd.broker import Broker, Seat
from qdistd.call import encode_failure
from qdistd.errors import QdistError, Refused
from qdistd.master.inputs import call_of
from qdistd.master.lobby import Lobby, Parked
from qdistd.master.writer import Job, Writer
from qdistd.model import Failure, Grant, IdMaker, Outcome, Result, Settlement, Task
from qdistd.protocol import Role
from qdistd.store import Store, WorkerRow
from qdistd.wire import plain
from qdistd.wire.server import Peer

TASKS = "get_task_queue"
RESULTS = "get_result_queue"

EXPOSED = ("empty", "full", "get", "get_nowait", "put", "put_nowait", "qsize")
"""What a `queue.Queue` offers, less `join`, `task_done` and 3.13's `shutdown`: no client may close the queue."""

ROLE_OF_USE: dict[tuple[str, str], Role] = {
    (TASKS, "put"): Role.SUBMIT,
    (TASKS, "get"): Role.WORK,
    (RESULTS, "put"): Role.WORK,
    (RESULTS, "get"): Role.SUBMIT,
}


class Compat(msgspec.Struct, frozen=True):
    """Where tasks of stock clients go: the queue, and the name of the task that runs on the value."""

    queue: str = "default"
    task: str = "square"
    limits: plain.Limits = plain.Limits()
    """What a payload or a result of qdist's own clients may cost to show to a stock one."""


class Call(NamedTuple):
    """The arguments of a queue method, put in order."""

    value: object
    block: bool
    timeout: float | None


class Visitor:
    """The state of one stock connection."""

    def __init__(self, peer: Peer, token: bytes) -> None:
        self.peer = peer
        self.row = WorkerRow(token, f"stock@{peer.address}", stock=True)
        self.seat: Seat | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.parked: Parked | None = None
        self.open = True

    def settled(self) -> None:
        """The blocking call has been answered."""
        self.parked = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Faces:
    """Serves the stock connections."""

    def __init__(
        self,
        *,
        broker: Broker,
        store: Store,
        lobby: Lobby,
        loop: asyncio.AbstractEventLoop,
        new_id: IdMaker,
        randbytes: Callable[[int], bytes],
        compat: Callable[[], Compat],
        log: logging.Logger,
    ) -> None:
        self.writer: Writer
        self._broker = broker
        self._store = store
        self._lobby = lobby
        self._loop = loop
        self._new_id = new_id
        self._randbytes = randbytes
        self._compat = compat
        self._log = log
        self._visitors: dict[Peer, Visitor] = {}
        self._collectors: deque[Visitor] = deque()
        self._manager: dict[str, Callable[..., object]] = {
            "dummy": lambda: None,
            "create": _create,
            "get_methods": lambda _token: set(EXPOSED),
            "incref": lambda _ident: None,
            "decref": lambda _ident: None,
            "accept_connection": lambda _name: None,
        }

    # -- connections

    def ask(self, peer: Peer, ident: str | None, method: str, args: tuple[Any, ...], kwds: dict[str, Any]) -> None:
        """One request of a stock client."""
        try:
            if ident is None:
                peer.stock_return(self._manage(method, args, kwds))
            else:
                self._call(peer, ident, method, args, kwds)
        except (QdistError, TypeError) as error:  # TypeError: arguments that do not fit the method
            peer.stock_error(str(error))

    def closed(self, peer: Peer) -> None:
        """A stock connection is over: what it holds goes back."""
        visitor = self._visitors.pop(peer, None)
        if visitor is None:
            return
        visitor.open = False
        if visitor.parked is not None:
            self._lobby.leave(visitor.parked)
        self._collect_no_more(visitor)
        self._do(lambda: self._leave(visitor))  # after what it has asked already: that may yet lease a task

    def _leave(self, visitor: Visitor) -> None:
        if visitor.seat is not None:
            self._broker.gone(visitor.seat, ended=True)

    def announce(self, results: Sequence[Result]) -> None:
        """Tasks have ended: some of their results may be for the collectors."""
        if results:
            for visitor in list(self._collectors)[: len(results)]:
                self._take(visitor)

    def _manage(self, method: str, args: tuple[Any, ...], kwds: dict[str, Any]) -> object:
        action = self._manager.get(method)
        if action is None:
            raise Refused(f"qdist does not offer {method!r} to plain clients")
        return action(*args, **kwds)

    def _call(self, peer: Peer, ident: str, method: str, args: tuple[Any, ...], kwds: dict[str, Any]) -> None:
        if ident not in (TASKS, RESULTS):
            raise Refused(f"there is no queue {ident!r}; there are {TASKS} and {RESULTS}")
        visitor = self._visitors.get(peer) or self._visitors.setdefault(peer, Visitor(peer, self._randbytes(16)))
        if method in ("__str__", "__repr__"):
            peer.stock_return(f"<qdist {ident.removeprefix('get_')} of {self._compat().queue!r}>")
        elif method in ("qsize", "empty", "full"):
            self._count(visitor, ident, method)
        elif method in ("put", "put_nowait", "get", "get_nowait"):
            self._use(visitor, ident, method, args, kwds)
        else:
            raise Refused(f"qdist offers no {method!r} on this queue; it offers {', '.join(EXPOSED)}")

    def _use(self, visitor: Visitor, ident: str, method: str, args: tuple[Any, ...], kwds: dict[str, Any]) -> None:
        verb = method.removesuffix("_nowait")
        role = ROLE_OF_USE[ident, verb]
        if not visitor.peer.may(role):
            raise Refused(f"{ident}().{verb} needs a key with the role {role.value}")
        call = (_put_call if verb == "put" else _get_call)(*args, **kwds)
        if method.endswith("_nowait"):
            call = call._replace(block=False)
        use = {
            (TASKS, "put"): self._put_task,
            (TASKS, "get"): self._get_task,
            (RESULTS, "put"): self._put_result,
            (RESULTS, "get"): self._get_result,
        }
        use[ident, verb](visitor, call)

    def _count(self, visitor: Visitor, ident: str, method: str) -> None:
        def run() -> int:
            return self._store.ready(self._compat().queue) if ident == TASKS else self._store.mailbox()

        def answer(size: int) -> None:
            visitor.peer.stock_return({"qsize": size, "empty": size == 0, "full": False}[method])

        self._put(visitor, run, answer)

    # -- tasks

    def _put_task(self, visitor: Visitor, call: Call) -> None:
        compat = self._compat()
        payload = plain.encode(((call.value,), {}))
        task = Task(self._new_id(), compat.task, payload, compat.queue, mailbox=True)

        def run() -> None:
            for refusal in self._broker.submit([task]):
                raise Refused(refusal.message)

        self._put(visitor, run, visitor.peer.stock_return)

    def _get_task(self, visitor: Visitor, call: Call) -> None:
        queues = [self._compat().queue]

        def run() -> list[Grant]:
            seat = visitor.seat = self._broker.sit(visitor.row)
            self._settle_held(seat)
            return self._broker.lease(seat, queues, 1, 1)

        def answer(grants: list[Grant]) -> None:
            seat = visitor.seat
            if grants or not call.block or seat is None or not visitor.open:
                self._hand_task(visitor, grants)
            elif self._broker.open(seat, queues[0], 1) > 0:
                self._get_task(visitor, call)  # work came later in the transaction that found none
            else:
                visitor.parked = Parked(seat, queues, 1, arrived)
                self._lobby.park(visitor.parked)
                self._set_timer(visitor, call.timeout, lambda: self._time_out(visitor))

        def arrived(grants: list[Grant]) -> None:
            visitor.settled()
            if grants or not visitor.open:
                self._hand_task(visitor, grants)
            else:
                self._get_task(visitor, call)  # what was to come was rolled back, or was damaged

        self._put(visitor, run, answer)

    def _settle_held(self, seat: Seat) -> None:
        """A `get` after a `get`: the task before has no result to give."""
        self._broker.unmail(seat)
        nothing = plain.encode(None)
        self._broker.report(
            seat,
            [Settlement(claim.id, claim.attempt, Outcome.SUCCEEDED, nothing) for claim in seat.claims.values()],
        )

    def _hand_task(self, visitor: Visitor, grants: list[Grant]) -> None:
        if not visitor.open:
            return  # `closed` has sent back whatever was leased
        visitor.settled()
        if not grants:
            visitor.peer.stock_error("Empty")
            return
        try:
            args, kwargs = call_of(grants[0], self._compat().limits)
        except QdistError as error:
            self._fail_task(visitor, grants[0], f"the arguments of {grants[0].name!r} are not plain data: {error}")
            return
        visitor.peer.stock_return(args[0] if len(args) == 1 and not kwargs else (args, kwargs))

    def _fail_task(self, visitor: Visitor, grant: Grant, why: str) -> None:
        """The next `get` would settle as done what this client was never shown."""
        failure = encode_failure(Failure("undecodable", why))

        def run() -> None:
            self._broker.report(
                self._broker.sit(visitor.row), [Settlement(grant.id, grant.attempt, Outcome.FAILED, failure)]
            )

        self._put(visitor, run, lambda _: visitor.peer.stock_error(why))

    def _time_out(self, visitor: Visitor) -> None:
        parked = visitor.parked
        if parked is not None and not self._lobby.has_served(parked):
            self._lobby.leave(parked)
            self._hand_task(visitor, [])

    # -- results

    def _put_result(self, visitor: Visitor, call: Call) -> None:
        value = plain.encode(call.value)

        def run() -> None:
            seat = visitor.seat = self._broker.sit(visitor.row)
            if not seat.claims:
                self._lease_placeholder(seat)
            claim = next(iter(seat.claims.values()))
            self._broker.report(seat, [Settlement(claim.id, claim.attempt, Outcome.SUCCEEDED, value)])

        self._put(visitor, run, visitor.peer.stock_return)

    def _lease_placeholder(self, seat: Seat) -> None:
        """A result for which this connection holds no task becomes a task of its own, done at once."""
        compat = self._compat()
        loose = f"{compat.queue}/results"
        self._broker.submit([Task(self._new_id(), compat.task, b"", loose, mailbox=True)])
        self._broker.lease(seat, [loose], 1)

    def _get_result(self, visitor: Visitor, call: Call) -> None:
        def answer(taken: tuple[bytes, bytes] | None) -> None:
            if taken is not None or not call.block or not visitor.open:
                self._hand_result(visitor, taken)
                return
            self._collectors.append(visitor)
            self._set_timer(visitor, call.timeout, lambda: self._hand_result(visitor, None))

        self._put(visitor, self._store.take, answer)

    def _take(self, visitor: Visitor) -> None:
        def answer(taken: tuple[bytes, bytes] | None) -> None:
            if visitor in self._collectors:
                if taken is not None:
                    self._hand_result(visitor, taken)
            elif taken is not None:
                self._give_back(taken[0])

        def fail(error: QdistError) -> None:
            if visitor in self._collectors:
                self._collect_no_more(visitor)
                visitor.peer.stock_error(str(error))

        self.writer.put(Job(self._store.take, answer, fail))

    def _collect_no_more(self, visitor: Visitor) -> None:
        if visitor in self._collectors:
            self._collectors.remove(visitor)
        visitor.settled()

    def _hand_result(self, visitor: Visitor, taken: tuple[bytes, bytes] | None) -> None:
        self._collect_no_more(visitor)
        if taken is None:
            visitor.peer.stock_error("Empty")
        elif visitor.open:
            self._return_value(visitor, taken[1])
        else:
            self._give_back(taken[0])

    def _give_back(self, task_id: bytes) -> None:
        """Whoever asked for this result is gone or has given up: it is the next collector's."""
        self._do(lambda: self._store.untake(task_id))
        if self._collectors:
            self._take(self._collectors[0])

    def _return_value(self, visitor: Visitor, value: bytes) -> None:
        try:
            visitor.peer.stock_return(plain.decode(value, self._compat().limits))
        except QdistError as error:
            visitor.peer.stock_error(f"the result is not plain data: {error}")

    # -- helpers

    def _set_timer(self, visitor: Visitor, timeout: float | None, expire: Callable[[], None]) -> None:
        if timeout is not None:
            visitor.timer = self._loop.call_later(max(0.0, timeout), expire)

    def _do(self, run: Callable[[], Any]) -> None:
        self.writer.put(Job(run, lambda _: None, lambda _: None))

    def _put(self, visitor: Visitor, run: Callable[[], Any], answer: Callable[[Any], None]) -> None:
        self.writer.put(Job(run, answer, lambda error: visitor.peer.stock_error(str(error))))


def _create(typeid: str) -> tuple[str, tuple[str, ...]]:
    if typeid not in (TASKS, RESULTS):
        raise Refused(f"qdist offers plain clients {TASKS} and {RESULTS}, not {typeid!r}")
    return typeid, EXPOSED


def _put_call(item: object, block: bool = True, timeout: float | None = None) -> Call:
    return Call(item, block, timeout)


def _get_call(block: bool = True, timeout: float | None = None) -> Call:
    if timeout is not None and not isinstance(timeout, int | float):
        raise Refused(f"a timeout is a number of seconds, not {timeout!r}")
    return Call(None, bool(block), timeout)
