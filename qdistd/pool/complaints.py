"""What the journal of a worker says of a task that has failed there."""

import logging

from qdistd.call import decode_failure
from qdistd.events import Event, told
from qdistd.model import Settlement, id_text


def complain(log: logging.Logger, name: str, settlement: Settlement) -> None:
    """Log the failure of a task with its traceback, where its code can be mended; less of a wish for another try."""
    failure = decode_failure(settlement.value)
    task_id, seconds = id_text(settlement.id), settlement.wall
    extra = told(
        Event.ATTEMPT_FAILED,
        TASK_ID=task_id,
        TASK=name,
        ATTEMPT=settlement.attempt,
        CAUSE=failure.kind,
        ERROR_TYPE=failure.type,
    )
    if failure.kind == "retry":
        log.info("task %s %s ended after %.3g s: %s", name, task_id, seconds, failure.message, extra=extra)
        return
    reason = failure.traceback.rstrip() or failure.message
    log.warning("task %s %s failed after %.3g s: %s", name, task_id, seconds, reason, extra=extra)
