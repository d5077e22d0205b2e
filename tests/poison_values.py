"""Tasks that give, or raise, what cannot be sent, or explodes when it is looked at. See `poison_samples`."""

import sys
import time
from collections.abc import Callable
from typing import Any

import qdistd
from qdistd.child.stage import STAGE

# -- values that are none


def give_a_function() -> object:
    return lambda: 0


def give_something_without_bottom() -> object:
    value: list[Any] = []
    for _ in range(1_000_000):
        value = [value]
    return value


def give_oneself() -> object:
    value: list[Any] = []
    value.append(value)
    return value


def give_a_huge_number() -> int:
    return 10**10_000


class Rude(type):
    """A class that cannot even be asked for its name."""

    def __getattribute__(cls, name: str) -> Any:
        if name.startswith("__") and sys._getframe(1).f_globals.get("__name__", "").startswith(("qdistd", "traceback")):
            raise SystemExit(f"no {name} for you")
        return super().__getattribute__(name)


class Unnamed(metaclass=Rude):
    """No plain data."""


def give_something_rude() -> object:
    return Unnamed()


class Liar(str):
    """A text that is none."""

    def encode(self, *_: object) -> bytes:  # type: ignore[override]
        raise SystemExit("no bytes of me")

    def __getitem__(self, _: object) -> str:
        raise SystemExit("no part of me")


# -- exceptions that explode


class RudeError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise SystemExit("no text of me")

    __repr__ = __str__


class UnnamedError(Exception, metaclass=Rude):
    """Has no name."""


class LyingError(Exception):
    """Has a text that has no bytes."""

    def __str__(self) -> str:
        return Liar("a lie")


class NotedError(Exception):
    """Has notes that explode."""

    @property
    def __notes__(self) -> list[str]:
        raise SystemExit("no notes of me")


class LongError(Exception):
    """Has more text than memory."""

    def __str__(self) -> str:
        return "x" * (1 << 30)


def raise_rude() -> None:
    raise RudeError


def raise_unnamed() -> None:
    raise UnnamedError("what is my name?")


def raise_lie() -> None:
    raise LyingError


def raise_noted() -> None:
    raise NotedError("see my notes")


def raise_long() -> None:
    raise LongError


def raise_anonymous() -> None:
    raise type("Anonymous", (Exception,), {"__module__": 7, "__qualname__": "x" * 100_000})("from nowhere")


def raise_nested() -> None:
    error: Exception = ValueError("the innermost")
    for _ in range(3000):
        error = ExceptionGroup("a group", [error])
    raise error


def raise_chain() -> None:
    last: Exception | None = None
    for number in range(10_000):
        error = ValueError(f"link {number}")
        error.__cause__ = last
        last = error
    assert last
    raise last


def raise_circle() -> None:
    error, other = ValueError("round"), ValueError("and round")
    error.__cause__, other.__cause__ = other, error
    raise error


def interrupt() -> None:
    raise KeyboardInterrupt


def exit_politely() -> None:
    sys.exit("good bye")


def recurse() -> None:
    recurse()


# -- words of ours, taken in vain


class RudeRetry(qdistd.Retry):
    """Wants to wait for something that is no time."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(f"no {name} of me")


class RudeReject(qdistd.Reject):
    """Says that it is another class."""

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise SystemExit("no class of me")

    __str__ = RudeError.__str__


class RudeCancel(qdistd.Cancelled):
    """Nobody has cancelled it."""


def retry_rudely(after: Any) -> None:
    error = RudeRetry()
    vars(BaseException)["__dict__"].__get__(error)["after"] = after
    raise error


def reject_rudely() -> None:
    raise RudeReject("no more")


def cancel_rudely() -> None:
    raise RudeCancel("who?")


def report_rudely() -> list[str]:
    """What came of reports that are none."""
    return [
        _tried(lambda: qdistd.progress(float("nan"))),
        _tried(lambda: qdistd.progress(1, 1, "\ud800" * 100_000)),
        _tried(lambda: qdistd.progress(1, 1, Liar("a lie"))),
        _tried(lambda: qdistd.partial(Unnamed())),
        _tried(lambda: qdistd.partial(b"x" * (1 << 20))),
    ]


def _tried(report: Callable[[], None]) -> str:
    try:
        report()
    except (qdistd.Refused, SystemExit) as error:
        return type(error).__name__
    return "taken"


# -- forgeries


def forge(wall: float, rss: int, value: bytes) -> None:
    """A result of our own making, in the words of our child."""
    assert STAGE.conveyor and STAGE.task
    STAGE.conveyor.put(STAGE.task.ticket, 0, value, wall, wall, wall, rss)
    time.sleep(1000.0)
