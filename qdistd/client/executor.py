"""`Executor`: the interface of `concurrent.futures`, with tasks that outlive the program.

submit(fn) ──> Handle ──ended──> set_running, set_result      TaskFuture.cancel ──Cancel──> master
"""

import concurrent.futures
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, Unpack

from qdistd.client.client import Client
from qdistd.client.handle import Handle, wait
from qdistd.client.options import Choices
from qdistd.errors import QdistError

P = ParamSpec("P")
R = TypeVar("R")


class TaskFuture(concurrent.futures.Future[R]):
    """A future whose work is a task. Its callbacks run in the client's own thread and must not wait there."""

    def __init__(self, handle: Handle[R]) -> None:
        super().__init__()
        self.handle = handle

    def cancel(self) -> bool:
        """Cancel the task, unless it has ended. A running one is stopped by its worker within moments."""
        if not super().cancel():
            return False
        self.handle.cancel_soon()
        return True

    def result(self, timeout: float | None = None) -> R:
        """What the task returned; raises as `Handle.result` does, and CancelledError after `cancel`."""
        if not self.done():
            self.handle.wait(timeout)
        return super().result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise for the end of the task, or None."""
        if not self.done():
            self.handle.wait(timeout)
        return super().exception()

    def settle(self) -> None:
        """The task has ended. The one place where this future starts to run, so that it cannot happen twice."""
        if not self.set_running_or_notify_cancel():
            return
        try:
            self.set_result(self.handle.result())
        except QdistError as error:
            self.set_exception(error)


class Executor(concurrent.futures.Executor):
    """Runs functions on the workers. Functions go by name: the workers must be able to import them.

    `client`: the one to use (it stays open); else one is made from the configuration and closed by `shutdown`.
    `choices`: how the tasks are run, as in `Client.options`; they are `patient` unless told otherwise. `map` needs no
    `chunksize`: calls travel in batches anyway. The tasks go on when the program ends; their futures do not, but
    `Client.result(future.handle.id)` does.
    """

    def __init__(self, client: Client | None = None, **choices: Unpack[Choices]) -> None:
        self._own = client is None
        self._client = Client() if client is None else client
        chosen: Choices = {"patient": True, **choices}
        self._submitter = self._client.options(**chosen)
        self._unfinished: dict[Handle[Any], TaskFuture[Any]] = {}
        self._over = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[R]:
        """Hand over one call; raises as `Client.submit` does, and RuntimeError after `shutdown`."""
        if self._over:
            raise RuntimeError("cannot schedule new futures after shutdown")
        handle = self._submitter.submit(fn, *args, **kwargs)
        future = self._unfinished[handle] = TaskFuture(handle)
        handle.add_watcher(self._settle)
        return future

    def _settle(self, handle: Handle[Any]) -> None:
        self._unfinished.pop(handle).settle()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. `wait`: until all futures are done; Unavailable when no master answers any more.

        Without `wait` the futures go on in the background, as long as somebody holds them.
        """
        self._over = True
        if cancel_futures:
            for future in list(self._unfinished.values()):
                future.cancel()
        if wait:
            self._finish()

    def _finish(self) -> None:
        try:
            wait(list(self._unfinished))
        finally:
            if self._own:
                self._client.close()
