"""What the log hears of children: a line for what nobody had asked for, and none for the rest."""

import logging

from qdistd.child.frames import Ready
from qdistd.events import Event, told
from qdistd.model import Outcome, Settlement, id_text
from qdistd.pool.complaints import complain
from qdistd.pool.deaths import Burial
from qdistd.pool.nursery import faults_of


class Chronicle:
    """Writes to `log`."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._mentioned = Ready({})
        """What the last child could not import, so that it is logged once and not for each child."""

    def stands(self, ready: Ready) -> None:
        """A child stands, with these modules or without them."""
        if ready != self._mentioned and ready.broken:
            text, extra = "tasks of these modules will fail, as they cannot be imported: %s", told(Event.MODULES_BROKEN)
            self._log.error(text, faults_of(ready), extra=extra)
        self._mentioned = ready

    def failed(self, name: str, settlement: Settlement) -> None:
        """A task has failed here."""
        complain(self._log, name, settlement)

    def died(self, pid: int, burial: Burial, *, expected: bool) -> bool:
        """A child has died, and somebody had `expected` that. Whether it died for nothing: under no task."""
        crashed = [settlement for _, settlement in burial.ended if settlement.outcome is Outcome.CRASHED]
        words = burial.death.words
        for settlement in crashed:
            text = id_text(settlement.id)
            extra = told(Event.CHILD_DIED, TASK_ID=text, ATTEMPT=settlement.attempt)
            self._log.warning("child %d %s while it ran task %s", pid, words, text, extra=extra)
        if expected or crashed:
            return False
        self._log.warning("child %d, which had no task, %s", pid, words, extra=told(Event.CHILD_DIED))
        return True
