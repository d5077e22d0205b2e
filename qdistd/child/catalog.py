"""Which functions may run here: those of the modules that `[worker] tasks` names, and no others.

    "square"                     the first of the modules that has such a function, or a task of that name
    "pkg.mod.func"  "pkg.mod:func"   `func` of `pkg.mod`, which must be one of the modules

A function is run when its name is public and it was defined in that module, or when it is a `qdistd.task`. What a
module has merely imported is not exposed by it: `from os import system` gives nobody a shell.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from qdistd.call import type_name
from qdistd.child.failures import message_of
from qdistd.errors import NotAllowed, NotFound

KEY = "[worker] tasks"
"""What an administrator changes to allow more."""

Function = Callable[..., Any]


class Catalog:
    """Imports `modules`, in this order. One that fails is noted in `broken` (name → reason) and does no more harm."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.broken: dict[str, str] = {}
        self._names = tuple(modules)
        self._modules: dict[str, ModuleType] = {}
        self._found: dict[str, Function] = {}
        for name in modules:
            self._load(name)

    def find(self, name: str) -> Function:
        """The function that a task names. NotFound or NotAllowed, saying what is there and what to change."""
        function = self._found.get(name)
        if function is None:
            function = self._found[name] = self._look_up(name)
        return function

    def _load(self, name: str) -> None:
        try:
            module = importlib.import_module(name)
            self._found.update(_tasks_with_names(module))
        except BaseException as error:  # noqa: BLE001 - the door: a module is user's code and may do anything
            self.broken[name] = f"{type_name(type(error))}: {message_of(error)}"
        else:
            self._modules[name] = module

    def _look_up(self, name: str) -> Function:
        module_name, _, function_name = name.replace(":", ".").rpartition(".")
        if not module_name:
            return self._anywhere(name)
        if module_name in self.broken:
            raise NotFound(f"{name}: module {module_name} cannot be imported here: {self.broken[module_name]}")
        if module_name not in self._modules:
            raise NotAllowed(f"{name}: {module_name} is not allowed here. {self._allowed()}")
        return _function(self._modules[module_name], function_name)

    def _anywhere(self, name: str) -> Function:
        refusal: Exception | None = None
        for module in self._modules.values():
            try:
                return _function(module, name)
            except NotAllowed as error:
                refusal = refusal or error
            except NotFound:
                pass
        raise refusal or NotFound(f"{name}: no module here has such a function. {self._allowed()}")

    def _allowed(self) -> str:
        broken = "".join(f". {name} cannot be imported: {why}" for name, why in self.broken.items())
        return f"Tasks may come from {', '.join(self._names)} (change {KEY} in the worker's configuration){broken}"


def _tasks_with_names(module: ModuleType) -> Iterator[tuple[str, Function]]:
    """The tasks to which their decorator gave a name of its own."""
    for value in vars(module).values():
        name = _task_name(value)
        if name and callable(value):
            yield name, value


def _task_name(value: object) -> str | None:
    """The name that a decorator gave, "" where it gave none; None for what is no task.

    Asks nothing of the value itself: a module may hold proxies, as `flask.current_app`, that raise when they are asked.
    """
    name = inspect.getattr_static(value, "__qdist_task__", None)
    return name if isinstance(name, str) else None


def _function(module: ModuleType, name: str) -> Function:
    where = f"{module.__name__}.{name}"
    if name.startswith("_"):
        raise NotAllowed(f"{where} is private: names of tasks do not start with an underscore")
    value = vars(module).get(name)
    if value is None:
        raise NotFound(f"{where}: {module.__name__} has no such function")
    if not callable(value):
        raise NotAllowed(f"{where} is {type(value).__name__}, not a function")
    if not _belongs(value, module):
        raise NotAllowed(f"{where} was only imported there: name it by the module that defines it")
    function: Function = value
    return function


def _belongs(value: Function, module: ModuleType) -> bool:
    if _task_name(value) is not None:
        return True
    # Much of the standard library is defined in a twin written in C: operator.add in _operator.
    return getattr(value, "__module__", None) in (module.__name__, f"_{module.__name__}")
