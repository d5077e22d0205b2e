"""Submitting, with the options that hold for it: `Client` itself, and the light views that `options()` makes.

submit · submit_many · map · starmap  ──name, payload, options──>  Handle  ──>  Background
batch · group · chain                 ──────── the same ────────>  Load    ──>  Background, at the end of the block
"""

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Literal, NoReturn, ParamSpec, Self, TypeVar, Unpack, overload

from msgspec.structs import replace

from qdistd.call import decode_call, encode_call, name_of
from qdistd.client import options
from qdistd.client.background import SURELY_SMALL, Background
from qdistd.client.batch import Held, Load
from qdistd.client.handle import Handle
from qdistd.client.options import Choices, Options
from qdistd.client.task import Call, TaskFunction
from qdistd.client.together import Group
from qdistd.errors import Refused
from qdistd.model import Task, id_of_key
from qdistd.shares import LABEL, MARK, NAME, names_in

P = ParamSpec("P")
R = TypeVar("R")

WINDOW = 1000
"""Tasks that `map` has outstanding: enough for the batches of every stage, little enough to forget about."""

SOONEST = 0.001
"""Seconds to its expiry of a task whose moment has passed already: 0 would mean never."""

LONGEST_NAME = 200
"""Characters in the name of a task, as `model.Name` has it."""


class Submitter:
    """Submits tasks. A task is a name that the workers know, or a function that they can import."""

    def __init__(self, background: Background, choices: Choices, defaults: Choices) -> None:
        self._background = background
        self._choices = choices
        self._defaults = defaults
        self._options = options.read({**defaults, **choices}) if choices or defaults else options.DEFAULTS
        self._decorated: weakref.WeakKeyDictionary[TaskFunction[..., Any], Options] = weakref.WeakKeyDictionary()
        self._new_id = background.session.new_id

    def options(self, **choices: Unpack[Choices]) -> "Submitter":
        """The same client with other options for what is submitted through it; see `options.Choices`.

        They stand above those of `@task`, which stand above the `[options]` of client.toml. Refused for an option that
        does not exist or a value that it cannot have.
        """
        merged: Choices = {**self._choices, **choices}
        return self._view(merged)

    def _view(self, choices: Choices) -> "Submitter":
        return Submitter(self._background, choices, self._defaults)

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
    def submit_many(
        self, task: str, arguments: Iterable[tuple[Any, ...]], *, atomic: bool = False
    ) -> list[Handle[Any]]: ...
    @overload
    def submit_many(
        self, task: Callable[..., R], arguments: Iterable[tuple[Any, ...]], *, atomic: bool = False
    ) -> list[Handle[R]]: ...
    def submit_many(
        self, task: str | Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, atomic: bool = False
    ) -> list[Handle[Any]]:
        """Hand over one task for each tuple of arguments; see `submit`. `atomic`: all or none, see `batch`."""
        if atomic:
            with self._transaction() as batch:
                return batch.submit_many(task, arguments)
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
        submitted run all the same. An overloaded master is waited for, up to the client's timeout.
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
        chosen = chosen._replace(patient=True)
        ahead: deque[Handle[Any]] = deque()
        for args in arguments:
            ahead.append(self._send(name, _encode(args), chosen))
            while ahead and (len(ahead) >= window or ahead[0].done()):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    # -- together

    def batch(self) -> "Batch":
        """A transaction, for use with `with`: what is submitted through it is stored as a whole, or not at all.

            with q.batch() as batch:
                first = batch.submit("square", 7)
                batch.options(after=[first], take="args").submit("square")

        Up to 1000 tasks; nothing is sent before the end of the block, and nothing at all when an exception ends it.
        The end of the block waits for the acknowledgement. When the master refuses one task it stores none, and the
        block raises that refusal, which names it. Unavailable or TimeoutError: nobody knows yet whether they are
        stored; they are sent again when a master is there, and `batch.flush()` waits for that. Each is one task then,
        however often it was sent.
        """
        return Batch(self._background, self._choices, self._defaults, Load(self._background))

    def group(self, calls: Iterable[Call], then: Call | None = None) -> Group:
        """Submit calls together, all or none: a group of handles, with all the results when all have ended.

        `calls`: made by `qdistd.bind`, or by `bind` of a task, up to 1000. `then`: one more call, which gets the list
        of their results as its first argument; `if_failed` of its options says what happens when one has none
        ("cancel"; with "run" it finds None in its place). Raises as `batch`; within a batch it is submitted with that.
        """
        _check_many(self._options.key)
        with self._transaction() as batch:
            handles = tuple(batch.call(call) for call in calls)
            last = None if then is None else batch.call_after(handles, then, "list")
        return Group(handles, last)

    def chain(self, *calls: Call) -> Handle[Any]:
        """Submit calls together, all or none, each to be run with the result of the one before as its first argument.

        The handle of the last one; its `parents` lead back to the first. When one fails the following ones are
        cancelled; `if_failed` of their options can say otherwise. Raises as `batch`; within a batch it is submitted
        with that.
        """
        _check_many(self._options.key)
        if not calls:
            raise Refused("a chain of nothing: expected one call or more, made by qdistd.bind")
        with self._transaction() as batch:
            handle = batch.call(calls[0])
            for call in calls[1:]:
                handle = batch.call_after((handle,), call, "args")
        return handle

    def _transaction(self) -> "AbstractContextManager[Batch]":
        return self.batch()

    # -- one task

    def _send(self, name: str, payload: bytes, chosen: Options) -> Handle[Any]:
        if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
            raise Refused(f"{name!r} is no name of a task: expected 1 to {LONGEST_NAME} printable characters")
        large = len(payload) > SURELY_SMALL
        if large:
            self._background.check_size(name, payload)
        task_id = id_of_key(chosen.key) if chosen.key else self._new_id()
        task = Task(task_id, name, payload, *chosen.fields)
        if chosen.until or MARK in payload:
            task = _completed(task, chosen)
        return self._hand_over(task, chosen, large)

    def _hand_over(self, task: Task, chosen: Options, large: bool) -> Handle[Any]:
        handle: Handle[Any] = Handle(self._background, task.id, task, chosen.watch, chosen.patient)
        self._background.hand_over(handle, large=large)
        return handle

    def _resolve(self, task: str | Callable[..., Any]) -> tuple[str, Options]:
        """The name of a task and its options: a decorated one brings its own, and those chosen here stand above."""
        if isinstance(task, str):
            return task, self._options
        if not isinstance(task, TaskFunction):
            return name_of(task), self._options
        if not self._choices and not self._defaults:
            return task.name, task.checked
        known = self._decorated.get(task)
        if known is None:
            known = self._decorated[task] = options.read({**self._defaults, **task.choices, **self._choices})
        return task.name, known

    def _resolve_for_many(self, task: str | Callable[..., Any]) -> tuple[str, Options]:
        name, chosen = self._resolve(task)
        _check_many(chosen.key)
        return name, chosen


class Batch(Submitter):
    """A transaction, see `Submitter.batch`; its `options` are views of the same one."""

    def __init__(self, background: Background, choices: Choices, defaults: Choices, load: Load) -> None:
        super().__init__(background, choices, defaults)
        self._load = load

    def __len__(self) -> int:
        return len(self._load)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._load.send()
        else:
            self._load.drop()

    def flush(self, timeout: float | None = None) -> None:
        """Wait for the acknowledgement once more, where the end of the block could not: raises as that does."""
        self._load.flush(timeout)

    def batch(self) -> NoReturn:
        """Refused: a batch is one transaction."""
        raise Refused("a batch is one transaction and has none within it: submit through it, or through the client")

    def starmap(self, *_: Any, **__: Any) -> NoReturn:
        """Refused, and `map` as well: they wait for results."""
        raise Refused("map waits for results, and a batch is submitted at the end of its block: use submit_many")

    def call(self, call: Call, **more: Unpack[Choices]) -> Handle[Any]:
        """Submit a call with its own options, and with `more` above these."""
        _check_call(call)
        choices: Choices = {**call.choices, **more}
        view = self.options(**choices) if choices else self
        return view.submit(call.task, *call.args, **call.kwargs)

    def call_after(self, parents: tuple[Handle[Any], ...], call: Call, take: Literal["args", "list"]) -> Handle[Any]:
        """Submit a call that gets the results of `parents` before its own arguments."""
        _check_call(call)
        for name in ("after", "take"):
            if name in call.choices:
                raise Refused(f"{name}: what a call of a group or a chain comes after is settled by its place in it")
        if not parents:  # a group of nothing: its list of results is known
            return self.call(call._replace(args=([], *call.args)))
        handle = self.call(call, after=parents, take=take)
        if isinstance(handle, Held):
            handle.come_after(parents)
        return handle

    def _view(self, choices: Choices) -> "Batch":
        return Batch(self._background, choices, self._defaults, self._load)

    def _hand_over(self, task: Task, chosen: Options, _: bool) -> Handle[Any]:
        return self._load.add(task, watch=chosen.watch, patient=chosen.patient)

    def _transaction(self) -> "AbstractContextManager[Batch]":
        return nullcontext(self)


def _check_call(call: Any) -> None:
    if not isinstance(call, Call):
        raise Refused(f"{call!r} is no call: write qdistd.bind({call!r}, …), or bind of a task")


def _check_many(key: str) -> None:
    if key:
        raise Refused(f"key: {key!r} stands for one task; submit these one by one, each with its own")


def _completed(task: Task, chosen: Options) -> Task:
    """With what is certain only now: how long it is until a named moment, and the shares that its arguments name."""
    expires = max(chosen.until - time.time(), SOONEST) if chosen.until else task.expires
    names = names_in(decode_call(task.payload)) if MARK in task.payload else set()
    for name in names:
        if not NAME.fullmatch(name):
            raise Refused(f"share://{name}/…: {name!r} is no name of a share; expected letters, digits and _ . -")
    return replace(task, expires=expires, requires=tuple(sorted({*task.requires, *(LABEL + name for name in names)})))


def _encode(args: tuple[Any, ...]) -> bytes:
    if type(args) is not tuple:
        raise Refused(f"expected a tuple of arguments for each task, not {args!r}: write ({args!r},)")
    return encode_call(args, {})
