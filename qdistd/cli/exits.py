"""The exit codes of `qdist`. They are stable: scripts rely on them."""

import enum

from qdistd.errors import (
    ConfigError,
    InternalError,
    NotAllowed,
    Overloaded,
    QdistError,
    Unavailable,
    WrongKey,
)


class Exit(enum.IntEnum):
    """Those from 64 to 78 are the ones of sysexits.h, as for the daemons; 124, 130 and 141 are those of the shell."""

    OK = 0
    FAILED = 1
    """A task failed, or something that was asked for could not be had: the line on stderr says what."""
    USAGE = 64
    """The command line is wrong."""
    BUG = 70
    """A bug of qdist, here or in the master."""
    LATER = 75
    """No master answers, or it cannot take more just now. Nothing is wrong with the request: try again later."""
    NOT_ALLOWED = 77
    """The key is not one of the master's, or may not do this."""
    CONFIG = 78
    """A configuration file or a key file cannot be used."""
    TIMEOUT = 124
    """It has not happened within --timeout; as timeout(1)."""
    INTERRUPTED = 130
    """Ctrl-C."""
    BROKEN_PIPE = 141
    """Whoever read our output went away."""


_CODES: tuple[tuple[tuple[type[BaseException], ...], Exit], ...] = (
    ((ConfigError,), Exit.CONFIG),
    ((NotAllowed, WrongKey), Exit.NOT_ALLOWED),
    ((Unavailable, Overloaded), Exit.LATER),
    ((InternalError,), Exit.BUG),
    ((QdistError,), Exit.FAILED),
    ((KeyboardInterrupt,), Exit.INTERRUPTED),
    ((BrokenPipeError,), Exit.BROKEN_PIPE),
    ((TimeoutError,), Exit.TIMEOUT),
    ((OSError,), Exit.FAILED),
)
"""The first row that fits counts."""


def code_of(error: BaseException) -> Exit:
    """The exit code that an error means. What nobody foresaw is a bug."""
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), Exit.BUG)
