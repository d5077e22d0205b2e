"""The closed list of what qdist raises on purpose.

Yours   `Refused` and its kin: the request breaks a rule; the message names the thing, what was expected, what to do.
Theirs  `Overloaded`, `Unavailable`: come back later, nothing is wrong with the request.
Tasks'  `Retry`, `Reject` are raised by a task, `SoftTimeout`, `Cancelled` are raised in it (see `qdistd.child`).
Ours    `InternalError`: a bug of qdist, with an id that stands in the log beside its traceback.

`code` is the word that travels over the wire; `from_wire` gives the same class back on the other side.
"""


class QdistError(Exception):
    """Root of everything qdist raises on purpose. `str()` is one sentence for a person."""

    code = "error"


class Refused(QdistError):
    """The request breaks a rule and would break it again."""

    code = "refused"


class ConfigError(Refused):
    """A configuration file (or a key file) cannot be used. The message starts with the file and the key."""

    code = "config"


class NotFound(Refused):
    """There is no such task, queue, worker or function."""

    code = "not-found"


class NotAllowed(Refused):
    """The key shown does not carry the role that this call needs."""

    code = "not-allowed"


class TooLarge(Refused):
    """A payload or a result is over its limit. Send the path of the file instead of its content."""

    code = "too-large"


class WrongKey(Refused):
    """The other side does not hold the key that this side holds."""

    code = "wrong-key"


class Malformed(Refused):
    """Bytes that are not what the protocol says they should be."""

    code = "malformed"


class TaskFailed(QdistError):
    """A task has ended without a result. `failure` says why (`qdistd.model.Failure`)."""

    code = "task-failed"

    def __init__(self, message: str, failure: object = None) -> None:
        super().__init__(message)
        self.failure = failure


class TaskCancelled(TaskFailed):
    """The task was cancelled before it had a result."""

    code = "task-cancelled"


class TaskQuarantined(TaskFailed):
    """The task killed its process too often and was set aside; `qdist retry` brings it back."""

    code = "task-quarantined"


class Overloaded(QdistError):
    """The master cannot take more just now (queue limit, disk space). Try again in `after` seconds."""

    code = "overloaded"

    def __init__(self, message: str, after: float = 1.0) -> None:
        super().__init__(message)
        self.after = after


class Unavailable(QdistError):
    """No master answers. The message names every address that was tried and why it failed."""

    code = "unavailable"


class InternalError(QdistError):
    """A bug of qdist. The message carries an id; the traceback stands beside that id in the log."""

    code = "internal"


LONGEST_PAUSE = 10 * 366 * 86400.0
"""Seconds that a task may be put off at most, as in `model.Seconds`."""


class Retry(QdistError):
    """Raised by a task: try again in `after` seconds, or as its backoff says. Costs one of its retries.

    Refused where `after` is no number of seconds from 0 to ten years.
    """

    code = "retry"
    after: float | None = None

    def __init__(self, after: float | None = None, message: str = "") -> None:
        if after is not None and not (isinstance(after, int | float) and 0 <= after <= LONGEST_PAUSE):
            raise Refused(f"Retry(after={after!r}) will not do; expected seconds from 0 to {LONGEST_PAUSE:.0f}")
        super().__init__(message or f"the task wants another try{'' if after is None else f' in {after:g} seconds'}")
        self.after = after


class Reject(QdistError):
    """Raised by a task: it has failed for good, whatever retries it has left."""

    code = "rejected"


class SoftTimeout(QdistError):
    """Raised in a task when its soft time limit is over. It has until the hard one to come to an end."""

    code = "soft-timeout"


class Cancelled(BaseException):
    """Raised in a task that is to end now: it was cancelled, or its worker stops. Catch it to tidy up, briefly."""


_BY_CODE: dict[str, type[QdistError]] = {
    kind.code: kind
    for kind in (
        *(Refused, NotFound, NotAllowed, TooLarge, WrongKey, Malformed),
        *(Overloaded, Unavailable, InternalError),
    )
}


def from_wire(code: str, message: str, after: float = 0.0) -> QdistError:
    """The error that a reply names. A code of a newer version becomes a plain `QdistError`.

    `after`: when it may be worth trying again, in seconds; 0 where that is not known.
    """
    if code == Overloaded.code and after > 0:
        return Overloaded(message, after)
    return _BY_CODE.get(code, QdistError)(message)


def again(error: QdistError, message: str = "") -> QdistError:
    """The same error to be raised once more, perhaps with more to say: a traceback belongs to one raise."""
    return from_wire(error.code, message or str(error), getattr(error, "after", 0.0))
