"""Exceptions of a user's code as text: bounded, sendable, and made without trusting the exception."""

import traceback

from qdistd.call import type_name
from qdistd.model import Failure

LONGEST_MESSAGE = 2_000
"""Characters of an exception's own text that are kept."""

LONGEST_TRACEBACK = 16 * 1024
"""Characters of a traceback that are kept: its end, where the cause stands."""

OURS = ("qdistd.child.runner", "qdistd.child.stage")
"""Modules that stand between a child and a user's function."""


def failure_of(error: BaseException, kind: str = "exception") -> Failure:
    """What `error`, caught around a call of a user's function, says about that call."""
    return Failure(kind, message_of(error), type_name(type(error)), _traceback_of(error))


def message_of(error: BaseException) -> str:
    """The exception's own text."""
    try:
        return _sendable(str.__str__(str(error))[:LONGEST_MESSAGE])[:LONGEST_MESSAGE]
    except BaseException as another:  # noqa: BLE001 - the door: __str__ is user's code too
        return f"(its text cannot be made: {type_name(type(another))})"


def _traceback_of(error: BaseException) -> str:
    """The text that Python prints, without our own frames, which called the user's function."""
    try:
        frames = error.__traceback__
        while frames and frames.tb_frame.f_globals.get("__name__") in OURS:
            frames = frames.tb_next
        text = _sendable("".join(traceback.format_exception(type(error), error, frames)))
    except BaseException as another:  # noqa: BLE001 - the door: formatting runs what the exception brings along
        return f"(its traceback cannot be made: {type_name(type(another))})"
    return text if len(text) <= LONGEST_TRACEBACK else f"…{text[1 - LONGEST_TRACEBACK :]}"


def _sendable(text: str) -> str:
    """Lone surrogates, as in names of files that are no UTF-8, become visible escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
