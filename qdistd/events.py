"""The events worth knowing by name: each has a MESSAGE_ID, by which the journal finds it and its catalog explains it.

    log.warning("…", extra=told(Event.TASK_LOST, TASK_ID=…))   ──journal──>  MESSAGE_ID=…  QDIST_TASK_ID=…
    journalctl -x                                              <──catalog──  what it means, and what to do

An id never changes its meaning and is never used again (systemd.journal-fields(7)); `packaging/systemd/qdist.catalog`
has the texts, and a test holds both together.
"""

import enum


class Event(enum.StrEnum):
    """What has happened: its MESSAGE_ID."""

    SERVICE_READY = "20ebd27390944c1abf72ea3ab269ebf9"
    """A master or a worker serves."""
    SERVICE_STOPPING = "1c5e5905ddf5476aaec5477265ae3304"
    """It was told to end."""
    SERVICE_FAILED = "341e8cbdffbe48738830e35c1764cf13"
    """It ends because it cannot go on."""
    RELOADED = "1c12e44796524831bc5b9e44420f7c96"
    """New settings are in force."""
    RELOAD_REFUSED = "c936fe5d1b8a44ae95a14d01936d225a"
    """New settings were refused, and the old ones go on."""
    MASTER_FOUND = "3ef57131c55f4f49b83b8ad1ef7ebb12"
    """A worker has connected to a master."""
    MASTER_LOST = "14bab9168eb7435c8bc121b001e7d8e7"
    """A worker has no master, and tries again."""
    WORKER_REFUSED = "19792caba23e4f32881c911c2c9e775a"
    """No master takes this worker: a matter of keys, as a rule."""
    PEER_REFUSED = "a551ec939e86420c93ab967dcbbf524b"
    """The master has refused a connection."""
    WORKER_HERE = "293ee0cbfd644a6f9c9499f31bd2eb1e"
    """A worker has said hello to the master."""
    WORKER_GONE = "27315971e12e4f9cadeaa4a0d793b9a4"
    """A worker's connection is over."""
    TASK_RETRIED = "4b7d779cbbff4b74bb9998c48f1ef29f"
    """An attempt has failed, and there will be another."""
    TASK_FAILED = "a8fe16c43db04e25a7ceeb082376c6d2"
    """A task has failed for good."""
    TASK_CRASHED = "2381e23b475f4e3ab0f1b1b2a74673b0"
    """The process that ran a task has died under it, and there will be another attempt."""
    TASK_LOST = "d5856fec266e4e29a6f3a091b1478632"
    """A worker has vanished with a task, and there will be another attempt."""
    TASK_QUARANTINED = "315031ad976a4cd5916d55e7b04414e5"
    """A task has ended too many processes, and is set aside."""
    ATTEMPT_FAILED = "1f9fd9838ef24ed5b02e2e41a3b8c1d7"
    """A task has failed on this worker; its master decides what follows."""
    CHILD_DIED = "557c66df6e294084a25b7190331243ef"
    """A worker's child has died."""
    MODULES_BROKEN = "2f34f468ae2640ef8f632e169b461fa5"
    """A worker cannot import modules of tasks."""
    SHARE_LOST = "eb9fcb4aff154ce99f3bbe3763d792c2"
    """A share of a worker is not there, or does not answer."""
    SHARE_FOUND = "42d06e21fdce45b28b901376205c03f2"
    """A share of a worker is well."""
    QUEUE_PAUSED = "3729586e5ba0477780a7b306d832e3dd"
    """A person has paused a queue."""
    QUEUE_RESUMED = "40ef25bf4b2f40ccbdb533a3988d67d2"
    """A queue that was paused goes on."""
    WORKER_DRAINED = "717a6d0e2767424e875ac7620398636c"
    """A person has drained a worker or a host."""
    WORKER_UNDRAINED = "87acced386ea4e668c78376ae23f1f8c"
    """A worker or a host that was drained goes on."""
    OVERLOADED = "5af2b716f14c4b288916a76598b84ced"
    """A master refuses new tasks: a queue is full, or the disk."""
    RECORDS_DROPPED = "01b50a9db8da43efad8f4980bbfbe7da"
    """The journal could not be written fast enough."""
    SUMMARY = "a12425d9ae854723a16c3826ad93b503"
    """What a master has done in the last minute."""


def told(event: Event, **fields: object) -> dict[str, object]:
    """What `extra` of a log record is to be; a field TASK_ID becomes QDIST_TASK_ID in the journal."""
    return {"message_id": event.value, "qdist": fields}
