"""Looks at a share, as a program of its own: `look.py PATH PROBE WHETHER-MOUNTED SECONDS`. It imports nothing of ours.

Its exit status tells how that went: 0, the number of an error of the system, or `UNMOUNTED`. It may hang, with the
dead server of a mount, in a way that not even SIGKILL ends; where the kernel lets it, it ends after `SECONDS` by
itself, also when nobody is left to end it.
"""

import errno
import os
import signal
import stat
import sys

UNMOUNTED = 200
"""Above all numbers of errors."""


def look(path: str, probe: str, *, mounted: bool) -> int:
    """What is wrong with the share at `path`; 0: nothing. `mounted`: something must be mounted there."""
    try:
        os.statvfs(path)  # asks the server of a mount, who may have died long after the attributes were cached
        if mounted and os.fsencode(os.path.realpath(path)) not in _mounts():
            return UNMOUNTED
        _touch(probe)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _touch(probe: str) -> None:
    descriptor = os.open(probe, os.O_RDONLY)
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            with os.scandir(descriptor) as entries:
                next(entries, None)
        else:
            os.read(descriptor, 1)
    finally:
        os.close(descriptor)


def _mounts() -> set[bytes]:
    """Where something is mounted, see proc(5). What autofs only promises does not count."""
    with open("/proc/self/mountinfo", "rb") as file:  # noqa: PTH123 - pathlib takes as long to import as all the rest
        lines = [line.split() for line in file]
    found = [words[4] for words in lines if words[words.index(b"-") + 1] != b"autofs"]
    return {point.decode("unicode_escape").encode("latin-1") for point in found}


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[4]))
    sys.exit(look(sys.argv[1], sys.argv[2], mounted=sys.argv[3] == "yes"))
