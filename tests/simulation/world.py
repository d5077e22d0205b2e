"""Virtual time, and processes that can be killed.

    World   one heap of callbacks; time jumps from one to the next, nothing sleeps
      └── Process   an event loop as asyncio sees it; once killed, none of its callbacks ever runs again

Everything asyncio of the code under test runs on a `Process`: its tasks, futures and timers. There are no threads and
no sockets, and all randomness comes from `World.rng`, so a seed replays to the last byte.
"""

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import random
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any

AT_ONCE = 50_000
"""Callbacks at one moment of virtual time: far more than a thawed process has to catch up with."""


MOST_FINALLYS = 5
"""`finally` clauses that wait, one inside the other, in a coroutine that is buried."""


class Handle:
    """A callback that will run, unless it is cancelled or its process is killed."""

    __slots__ = ("_args", "_callback", "_context", "_process", "_when", "dead")

    def __init__(
        self, process: "Process", when: float, callback: Callable[..., object], args: tuple[Any, ...], context: Any
    ) -> None:
        self._process = process
        self._when = when
        self._callback = callback
        self._args = args
        self._context = context
        self.dead = False

    def cancel(self) -> None:
        self.dead = True

    def cancelled(self) -> bool:
        return self.dead

    def __repr__(self) -> str:
        return f"{self._process.name}: {self._callback}"

    def when(self) -> float:
        return self._when

    def run(self) -> None:
        if self.dead or not self._process.alive:
            return
        if self._process.frozen_until > self._process.world.now:
            self._process.backlog.append(self)
            return
        events._set_running_loop(self._process)
        try:
            self._context.run(self._callback, *self._args)
        finally:
            events._set_running_loop(None)


class World:
    """The clock, the heap, the dice."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.errors: list[str] = []
        self.spinning = False
        self._at_once = 0
        self.processes: list[Process] = []
        self._heap: list[tuple[float, int, Handle]] = []
        self._count = itertools.count()
        self.outside = Process(self, "world")

    def at(self, when: float, callback: Callable[..., object], *args: object) -> Handle:
        """Run something that belongs to no process, such as a fault."""
        return self.outside.call_at(when, callback, *args)

    def push(self, handle: Handle) -> Handle:
        heapq.heappush(self._heap, (handle.when(), next(self._count), handle))
        return handle

    def _notice_spinning(self, when: float, handle: Handle) -> None:
        """A process that does things for ever at one moment would burn a processor, and time would stand still."""
        self._at_once = 0 if when > self.now else self._at_once + 1
        if self._at_once > AT_ONCE:
            self.spinning = True
            self.errors.append(f"SPINNING at {self.now}: {handle}")

    def run_until(self, done: Callable[[], bool], deadline: float) -> None:
        """Let time pass until `done` or until `deadline`."""
        while not (done() or self.spinning) and self._heap and self._heap[0][0] <= deadline:
            when, _, handle = heapq.heappop(self._heap)
            self._notice_spinning(when, handle)
            self.now = max(self.now, when)
            handle.run()
        if not done():
            self.now = max(self.now, deadline)


class Process(asyncio.AbstractEventLoop):
    """The event loop of one simulated process."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        world.processes.append(self)
        self.alive = True
        self.tasks: list[asyncio.Task[Any]] = []
        self.frozen_until = 0.0
        self.backlog: list[Handle] = []

    def start(self, main: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin the main coroutine of this process. It must not fail."""
        task: asyncio.Task[Any] = self.create_task(main)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.world.errors.append(f"{self.name} ended: {task.exception()!r}")

    def kill(self) -> None:
        """kill -9: not one instruction more."""
        self.alive = False

    def bury(self) -> None:
        """Close what a killed process left behind, so that no `finally` of it runs later, in another world."""
        self.alive = False
        events._set_running_loop(self)
        for coroutine in [task.get_coro() for task in self.tasks] * MOST_FINALLYS:
            with contextlib.suppress(RuntimeError):  # it waits in a `finally`: there is nothing left to wait for
                coroutine.close()  # type: ignore[union-attr] # it is a coroutine: `create_task` took no other
        events._set_running_loop(None)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT so much later: everything that is due meanwhile happens then, in its order."""
        self.frozen_until = max(self.frozen_until, self.world.now + seconds)
        self.world.at(self.frozen_until, self._thaw)

    def _thaw(self) -> None:
        if self.frozen_until > self.world.now:
            return
        backlog, self.backlog = self.backlog, []
        for handle in backlog:
            handle.run()

    # -- what asyncio asks of a loop

    def time(self) -> float:
        return self.world.now

    def call_soon(self, callback: Callable[..., object], *args: object, context: Any = None) -> Any:
        return self.call_at(self.world.now, callback, *args, context=context)

    def call_later(self, delay: float, callback: Callable[..., object], *args: object, context: Any = None) -> Any:
        return self.call_at(self.world.now + max(0.0, delay), callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: object, context: Any = None) -> Any:
        context = context if context is not None else contextvars.copy_context()
        return self.world.push(Handle(self, max(when, self.world.now), callback, args, context))

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object, context: Any = None) -> Any:
        return self.call_soon(callback, *args, context=context)

    def create_future(self) -> Any:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> Any:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined] # a killed process leaves its tasks behind
        self.tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.alive:
            self.world.errors.append(f"{self.name}: {context.get('message')} {context.get('exception')!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return not self.alive
