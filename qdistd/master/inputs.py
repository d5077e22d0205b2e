"""Calls for those who know nothing of inputs: stock clients, and workers of the version before.

    payload + inputs ──opened here──> one call, with the results that it takes among its arguments

For everybody else they stay closed: their children put them together.
"""

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from qdistd.call import encode_failure
from qdistd.errors import QdistError, Refused
from qdistd.model import Failure, Grant, Outcome, Settlement
from qdistd.store import LARGEST_LEASE
from qdistd.wire import plain

_LIMITS = plain.Limits(bytes=LARGEST_LEASE)
"""Of a call, and of each result that it takes."""


def call_of(grant: Grant, limits: plain.Limits) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The whole call. QdistError where it, or a result that it takes, is no plain data within the limits."""
    call = plain.decode(grant.payload, limits)
    if not (isinstance(call, tuple) and len(call) == 2 and isinstance(call[0], tuple) and isinstance(call[1], dict)):
        raise Refused("the payload is no call")
    args, kwargs = call
    if not grant.take:
        return args, kwargs
    values = [plain.decode(value, limits) if value else None for value in grant.inputs]
    return ((values, *args) if grant.take == "list" else (*values, *args)), kwargs


def closed(grants: Iterable[Grant]) -> tuple[list[Grant], list[Settlement]]:
    """The grants with their inputs among the arguments; and how those end with which that cannot be."""
    fit: list[Grant] = []
    unfit: list[Settlement] = []
    for grant in grants:
        try:
            fit.append(_closed(grant) if grant.take else grant)
        except QdistError as error:
            why = Failure("undecodable", f"its worker is of an older version, and cannot be given its inputs: {error}")
            unfit.append(Settlement(grant.id, grant.attempt, Outcome.FAILED, encode_failure(why)))
    return fit, unfit


def _closed(grant: Grant) -> Grant:
    return replace(grant, payload=plain.encode(call_of(grant, _LIMITS)), inputs=(), take="")
