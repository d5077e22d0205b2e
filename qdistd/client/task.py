"""The decorator `task`: a plain function that can also be submitted.

    @task(queue="mail", retries=5)         send("a@b.c")           runs here
    def send(to: str) -> str: ...          send.submit("a@b.c")    runs on some worker
                                           send.bind("a@b.c")      a call to be made later, in a group or a chain

Workers import the modules of their tasks, so this one stays light: a client is loaded and made by the first submit.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar, Unpack, overload

from qdistd.call import name_of
from qdistd.client import options as chosen
from qdistd.client.options import Choices

if TYPE_CHECKING:
    from qdistd.client.client import Client
    from qdistd.client.handle import Handle

P = ParamSpec("P")
R = TypeVar("R")


class TaskFunction(Generic[P, R]):
    """A function with a name that workers know, and with options that hold wherever it is submitted."""

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[P, R], name: str, choices: Choices) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self.__qdist_task__ = name
        """The name given to the decorator, or nothing: then it goes by its module and its own name."""
        self.choices = choices
        self.checked = chosen.read(choices)

    @property
    def name(self) -> str:
        """The name under which workers run it. Refused for a function that they could not import."""
        return self.__qdist_task__ or name_of(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now."""
        return self._function(*args, **kwargs)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> "Handle[R]":
        """Hand over one call, through the client that the whole process shares; see `Client.submit`."""
        return _SHARED.client().submit(self, *args, **kwargs)

    def map(self, items: Iterable[Any]) -> "Iterator[R]":
        """The results for `items`, one argument each, in their order; see `Client.map`."""
        return _SHARED.client().map(self, items)

    def bind(self, *args: Any, **kwargs: Any) -> "Call":
        """One call that is not made yet, for `Client.group` and `Client.chain`."""
        return Call(self, args, kwargs, {})

    def options(self, **choices: Unpack[Choices]) -> "TaskFunction[P, R]":
        """The same task with other options: `send.options(delay=60).submit(…)`."""
        return TaskFunction(self._function, self.name, {**self.choices, **choices})

    def __repr__(self) -> str:
        return f"<qdistd.task {self.__module__}.{self.__qualname__}>"


class Call(NamedTuple):
    """One call that is not made yet: a task, what it is called with, and options of its own."""

    task: str | Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    choices: Choices

    def options(self, **choices: Unpack[Choices]) -> "Call":
        """The same call with other options; they stand above all others. Refused as in `Client.options`."""
        merged: Choices = {**self.choices, **choices}
        chosen.read(merged)
        return self._replace(choices=merged)


def bind(task: str | Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call:
    """One call that is not made yet, of a task by its name or of a function that workers can import.

    For `Client.group` and `Client.chain`, where a call may get the results of others before its own arguments.
    """
    return Call(task, args, kwargs, {})


@overload
def task(function: Callable[P, R], /) -> TaskFunction[P, R]: ...
@overload
def task(*, name: str = "", **choices: Unpack[Choices]) -> Callable[[Callable[P, R]], TaskFunction[P, R]]: ...
def task(function: Callable[..., Any] | None = None, /, *, name: str = "", **choices: Unpack[Choices]) -> Any:
    """Make a function a task: `@task`, or `@task(queue="mail", retries=5, timeout=30, name="send")`.

    The function stays what it is, and gains `.submit(…)`, `.map(…)` and `.options(…)`. The options are those of
    `Client.options`. Refused for an option that does not exist or a value that it cannot have.
    """
    if function is not None:
        return TaskFunction(function, name, {})
    return lambda function: TaskFunction(function, name, choices)


class _Shared:
    """The client that the decorated functions of a process share: made when first wanted, ended with the program."""

    def __init__(self) -> None:
        self._clients: dict[int, Client] = {}

    def client(self) -> "Client":
        """The client of this process. A forked one gets its own, and so does one whose client is over."""
        client = self._clients.get(os.getpid())
        return client if client is not None and not client.closed else self._make(client)

    def _make(self, former: "Client | None") -> "Client":
        from qdistd.client.client import Client  # only a submit needs it

        made = Client()
        if former is not None:
            self._clients.pop(os.getpid(), None)
        client = self._clients.setdefault(os.getpid(), made)
        if client is not made:  # another thread was faster
            made.close()
        return client


_SHARED = _Shared()
