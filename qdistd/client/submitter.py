"""Submitting, with the options that hold for it: `Client` itself, and the light views that `options()` makes.

submit · submit_many · map · starmap  ──name, payload, options──>  Handle  ──>  Background
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from qdistd.call import encode_call, name_of
from qdistd.client import options
from qdistd.client.background import SURELY_SMALL, Background
from qdistd.client.handle import Handle
from qdistd.client.options import Choices, Options
from qdistd.client.task import TaskFunction
from qdistd.errors import Refused
from qdistd.model import Task, id_of_key

P = ParamSpec("P")
R = TypeVar("R")

WINDOW = 1000
"""Tasks that `map` has outstanding: enough for the batches of every stage, little enough to forget about."""

LONGEST_NAME = 200
"""Characters in the name of a task, as `model.Name` has it."""


class Submitter:
    """Submits tasks. A task is a name that the workers know, or a function that they can import."""

    def __init__(self, background: Background, choices: Choices, checked: Options) -> None:
        self._background = background
        self._choices = choices
        self._options = checked
        self._new_id = background.session.new_id

    def options(self, **choices: Unpack[Choices]) -> "Submitter":
        """The same client with other options for what is submitted through it; see `options.Choices`.

        Refused for an option that does not exist or a value that it cannot have.
        """
        merged: Choices = {**self._choices, **choices}
        return Submitter(self._background, merged, options.read(merged))

    @overload
    def submit(self, task: str, /, *args: Any, **kwargs: Any) -> Handle[Any]: ...
    @overload
    def submit(self, task: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]: ...
    def submit(self, task: str | Callable[..., Any], /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Hand over one task; `args` and `kwargs` are all its own. Returns at once, before the task is stored.

        From the acknowledgement on a task is never lost: `flush`, the end of the `with` block, or a result tell of
        it. A plain loop of submits is as fast as a batch. Blocks only while 20,000 tasks are unacknowledged.
        Raises Refused for what is not plain data (NotAllowed, WrongKey… when the master has turned us away),
        TooLarge for a payload over the master's limit, Unavailable or TimeoutError when blocked for too long.
        """
        if task.__class__ is str:
            return self._send(task, encode_call(args, kwargs), self._options)
        name, chosen = self._resolve(task)
        return self._send(name, encode_call(args, kwargs), chosen)

    @overload
    def submit_many(self, task: str, arguments: Iterable[tuple[Any, ...]]) -> list[Handle[Any]]: ...
    @overload
    def submit_many(self, task: Callable[..., R], arguments: Iterable[tuple[Any, ...]]) -> list[Handle[R]]: ...
    def submit_many(self, task: str | Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Handle[Any]]:
        """Hand over one task for each tuple of arguments; see `submit`."""
        name, chosen = self._resolve_for_many(task)
        return [self._send(name, _encode(args), chosen) for args in arguments]

    @overload
    def map(self, task: str, items: Iterable[Any], *, window: int = WINDOW) -> Iterator[Any]: ...
    @overload
    def map(self, task: Callable[..., R], items: Iterable[Any], *, window: int = WINDOW) -> Iterator[R]: ...
    def map(self, task: str | Callable[..., Any], items: Iterable[Any], *, window: int = WINDOW) -> Iterator[Any]:
        """The results for `items`, one argument each, in their order.

        Lazy like the builtin: at most `window` tasks are submitted ahead of the result that is asked for, so the
        input may be endless. The first error is raised in its place and ends the iteration; tasks that are already
        submitted run all the same.
        """
        return self.starmap(task, ((item,) for item in items), window=window)

    @overload
    def starmap(self, task: str, arguments: Iterable[tuple[Any, ...]], *, window: int = WINDOW) -> Iterator[Any]: ...
    @overload
    def starmap(
        self, task: Callable[..., R], arguments: Iterable[tuple[Any, ...]], *, window: int = WINDOW
    ) -> Iterator[R]: ...
    def starmap(
        self, task: str | Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, window: int = WINDOW
    ) -> Iterator[Any]:
        """As `map`, with a tuple of arguments for each task."""
        if window < 1:
            raise Refused(f"window: {window} tasks ahead are none; expected 1 or more")
        name, chosen = self._resolve_for_many(task)
        return self._stream(name, chosen, arguments, window)

    def _stream(self, name: str, chosen: Options, arguments: Iterable[tuple[Any, ...]], window: int) -> Iterator[Any]:
        ahead: deque[Handle[Any]] = deque()
        for args in arguments:
            ahead.append(self._send(name, _encode(args), chosen))
            while ahead and (len(ahead) >= window or ahead[0].done()):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _send(self, name: str, payload: bytes, chosen: Options) -> Handle[Any]:
        if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
            raise Refused(f"{name!r} is no name of a task: expected 1 to {LONGEST_NAME} printable characters")
        background, large = self._background, len(payload) > SURELY_SMALL
        if large:
            background.check_size(name, payload)
        task_id = id_of_key(chosen.key) if chosen.key else self._new_id()
        handle: Handle[Any] = Handle(background, task_id, Task(task_id, name, payload, *chosen.fields), chosen.watch)
        background.hand_over(handle, large=large)
        return handle

    def _resolve(self, task: str | Callable[..., Any]) -> tuple[str, Options]:
        """The name of a task and its options: a decorated one brings its own, and those chosen here stand above."""
        if isinstance(task, str):
            return task, self._options
        if not isinstance(task, TaskFunction):
            return name_of(task), self._options
        if not self._choices:
            return task.name, task.checked
        return task.name, options.read({**task.choices, **self._choices})

    def _resolve_for_many(self, task: str | Callable[..., Any]) -> tuple[str, Options]:
        name, chosen = self._resolve(task)
        if chosen.key:
            raise Refused(f"key: {chosen.key!r} stands for one task; submit these one by one, each with its own")
        return name, chosen


def _encode(args: tuple[Any, ...]) -> bytes:
    if type(args) is not tuple:
        raise Refused(f"expected a tuple of arguments for each task, not {args!r}: write ({args!r},)")
    return encode_call(args, {})
