"""A client of a plain BaseManager server that registers `get_task_queue` and `get_result_queue`: the original script.

    create("get_task_queue")   ─► ident ─► connection, accept_connection ─► get, get, get …      may block in the server
    create("get_result_queue") ─► ident ─► connection, accept_connection ─► put, put, put …      never behind a get

Such a server has no acknowledgement: a `get` that is given up while the server is inside it swallows the next task.
Ask for short waits, and let the last one end, before you close. See Lib/multiprocessing/managers.py, `dispatch`.
"""

import asyncio
import contextlib
import os
import queue
from collections.abc import Iterable
from typing import Any, Self

from qdistd.address import Address
from qdistd.errors import Malformed, Refused, Unavailable
from qdistd.protocol import LARGEST_FRAME
from qdistd.wire import plain
from qdistd.wire.caller import ANSWER_DEADLINE, OPEN_DEADLINE, Caller, dial
from qdistd.wire.handshake import RandomBytes
from qdistd.wire.network import Network, acknowledge_at_once

_LIMITS = plain.Limits(bytes=LARGEST_FRAME)
"""What a reply may cost: the server is not trusted with more than a master is."""

_NAME = "qdist-worker"
"""What the server calls its thread for this connection."""


class StockQueues:
    """Both queues of one server. Made by `StockQueues.open`; unusable after the first `Unavailable`."""

    def __init__(self, tasks: "_Proxy", results: "_Proxy") -> None:
        self._tasks = tasks
        self._results = results

    @classmethod
    async def open(
        cls,
        network: Network,
        address: Address,
        key: bytes,
        deadline: float = OPEN_DEADLINE,
        *,
        randbytes: RandomBytes = os.urandom,
    ) -> Self:
        """Both queues, ready, after at most `deadline` seconds for each connection.

        Unavailable: no server there; WrongKey: it has another key; Refused: it has no such queues.
        """
        with contextlib.ExitStack() as undo:
            tasks = await _Proxy.open(network, address, key, deadline, randbytes, "get_task_queue")
            undo.callback(tasks.close)
            results = await _Proxy.open(network, address, key, deadline, randbytes, "get_result_queue")
            undo.pop_all()
        return cls(tasks, results)

    async def get(self, timeout: float) -> object:
        """The next task; queue.Empty when none comes within `timeout` seconds.

        Malformed: the task is no plain data (the server has forgotten it nevertheless). Unavailable: the connection
        has ended, or the server did not answer.
        """
        return await self._tasks.call("get", (True, timeout), timeout + ANSWER_DEADLINE)

    async def put_result(self, value: object) -> None:
        """Hand a result over. Unavailable: the connection has ended, and the server may or may not have it."""
        await self._results.call("put", (value,), ANSWER_DEADLINE)

    def close(self) -> None:
        """End both connections in order."""
        self._tasks.close()
        self._results.close()


class _Proxy:
    """One object in the server, and the connection on which its methods are called.

    The server's count of references to it is left alone, as by any client that dies: the queue lives as long as the
    server, and after a restart the same ident may belong to somebody else.
    """

    def __init__(self, ident: str, conversation: "_Conversation") -> None:
        self._ident = ident
        self._conversation = conversation
        self._turn = asyncio.Lock()

    @classmethod
    async def open(
        cls, network: Network, address: Address, key: bytes, deadline: float, randbytes: RandomBytes, typeid: str
    ) -> Self:
        def fresh() -> _Conversation:
            return _Conversation(address, key, randbytes)

        maker = await dial(network, address, fresh, deadline)
        created = await maker.ask(None, "create", (typeid,), deadline)
        maker.close()
        conversation = await dial(network, address, fresh, deadline)
        await conversation.ask(None, "accept_connection", (_NAME,), deadline)
        match created:
            case (str(ident), _):
                return cls(ident, conversation)
        conversation.close()
        raise Malformed(f"{address}: create did not give an ident and methods")

    async def call(self, method: str, args: tuple[object, ...], deadline: float) -> object:
        async with self._turn:
            return await self._conversation.ask(self._ident, method, args, deadline)

    def close(self) -> None:
        self._conversation.close()


class _Conversation(Caller):
    """One connection: a question, its answer, the next question."""

    def __init__(self, address: Address, key: bytes, randbytes: RandomBytes) -> None:
        super().__init__(address, key, randbytes, "md5")  # a server on CPython 3.11 knows nothing else
        self._question: asyncio.Future[Any] | None = None

    async def ask(self, ident: str | None, method: str, args: tuple[object, ...], deadline: float) -> Any:
        """What the method returns; what it raises. Without an answer, for whatever reason, the connection ends."""
        if self._over:
            raise Unavailable(f"{self.address}: {self.reason}")
        self._question = self._loop.create_future()
        self._send(plain.encode((ident, method, args, {})))
        try:
            async with asyncio.timeout(deadline):
                return await self._question
        except TimeoutError:
            raise Unavailable(f"{self.address}: no answer to {method!r} within {deadline:g} s") from None
        finally:
            if self._question is not None:
                self.abort(f"{method!r} was given up")

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        if self._tcp:
            acknowledge_at_once(self._tcp)
        super().data_received(data)

    def _greeted(self) -> None:
        self._reader.limit = _LIMITS.bytes
        self._step = self._answered
        self._ready()

    def _answered(self, frame: memoryview) -> None:
        future = self._question
        if future is None or future.done():
            raise Malformed("an answer that nobody waits for")
        self._question = None
        try:
            future.set_result(_result(plain.decode(frame, _LIMITS, plain.REPLY)))
        except (Refused, queue.Empty, queue.Full) as error:
            future.set_exception(error)

    def _asked(self) -> Iterable[asyncio.Future[Any]]:
        future, self._question = self._question, None
        return [future] if future else []


def _result(reply: object) -> object:
    """What a reply gives or raises. Refused: a traceback of the server, of which the last line says it."""
    match reply:
        case ("#RETURN", value):
            return value
        case ("#ERROR", (queue.Empty() | queue.Full()) as error):
            raise error
        case ("#TRACEBACK" | "#UNSERIALIZABLE", str(text)):
            raise Refused(f"the server says: {text.strip().rpartition(chr(10))[2]}")
    raise Malformed("the reply has no shape that a BaseManager server gives it")
