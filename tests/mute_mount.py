"""A mounted file system whose server can fall silent: whoever waits for it then, SIGKILL does not end.

    with Mount(folder, {".probe": b"", "x.log": b"a\\n"}) as mount:
        mount.fall_silent()      from now on requests are read and not answered: whoever waits for one hangs
        mount.speak()            all of them are answered

It speaks the protocol of FUSE, as much as one folder of small files takes (include/uapi/linux/fuse.h). As root only.
The process of the test must never look into the mount by itself while it is silent.
"""

import errno
import os
import stat
import struct
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

IN, OUT = struct.Struct("=IIQQIIIHH"), struct.Struct("=IiQ")
ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
LARGEST = 1 << 17
"""Bytes of a buffer for requests: more than the kernel asks for."""

LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH = 1, 2, 3, 14, 15, 17, 18, 25
INIT, OPENDIR, READDIR, RELEASEDIR, ACCESS, INTERRUPT, FORGET_MANY = 26, 27, 28, 29, 34, 36, 42
SILENT = (FORGET, FORGET_MANY, INTERRUPT)
"""Requests that have no answer, ever."""


class Mount:
    """A folder of files at `path`, of this host or of the one that `namespace` is of. It lasts for the `with`."""

    def __init__(self, path: Path, files: Mapping[str, bytes], namespace: int = 0) -> None:
        self.path = path
        self._enter = ["nsenter", "--target", str(namespace), "--mount", "--pid"] if namespace else []
        self._names = list(files)
        self._files = list(files.values())
        self._silent = False
        self._unanswered: list[tuple[int, bytes]] = []
        self._turn = threading.Lock()
        self._asked = threading.Condition(self._turn)

    def __enter__(self) -> Self:
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40755,user_id=0,group_id=0,allow_other"
        self._run("mkdir", "--parents", str(self.path))
        self._run("mount", "-i", "-t", "fuse", "-o", options, "mute", str(self.path))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.speak()
        self._run("umount", "--lazy", str(self.path), check=False)  # the test may have done so
        self._thread.join()
        os.close(self._device)

    def _run(self, *command: str, check: bool = True) -> None:
        subprocess.run([*self._enter, *command], check=check, pass_fds=[self._device])

    def fall_silent(self) -> None:
        """Answer nothing from now on."""
        with self._turn:
            self._silent = True

    def wait_until_somebody_hangs(self, seconds: float) -> None:
        """Return when somebody waits for an answer."""
        with self._turn:
            assert self._asked.wait_for(lambda: self._unanswered, seconds), "nobody has asked for anything"

    @property
    def hanging(self) -> int:
        """How many wait for an answer."""
        with self._turn:
            return len(self._unanswered)

    def speak(self) -> None:
        """Answer everything, also what was asked in silence."""
        with self._turn:
            self._silent = False
            for unique, answer in self._unanswered:
                self._answer(unique, answer)
            self._unanswered.clear()

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, LARGEST)
            except OSError as error:
                if error.errno == errno.ENODEV:  # it is not mounted any more
                    return
                if error.errno != errno.ENOENT:  # nobody waits for this one any more
                    raise
                continue
            self._hear(request)

    def _hear(self, request: bytes) -> None:
        _, verb, unique, node, *_ = IN.unpack_from(request)
        if verb in SILENT:
            return
        answer = self._outcome(verb, node, request[IN.size :])
        with self._turn:
            if self._silent:
                self._unanswered.append((unique, answer))
                self._asked.notify_all()
            else:
                self._answer(unique, answer)

    def _answer(self, unique: int, answer: bytes) -> None:
        """`answer`: the error (0: none), then what belongs to it."""
        try:
            os.write(
                self._device, OUT.pack(len(answer) + OUT.size - 4, -int.from_bytes(answer[:4]), unique) + answer[4:]
            )
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def _outcome(self, verb: int, node: int, body: bytes) -> bytes:
        try:
            return bytes(4) + self._done(verb, node, body)
        except OSError as error:
            return int(error.errno or errno.EIO).to_bytes(4)

    def _done(self, verb: int, node: int, body: bytes) -> bytes:
        if verb == INIT:
            return struct.pack("=IIIIHHIIHHI7I", 7, 31, LARGEST // 2, 0, 16, 12, LARGEST // 2, 1, 0, 0, 0, *[0] * 7)
        if verb == LOOKUP:
            return struct.pack("=QQQQII", self._node(body), 0, 0, 0, 0, 0) + self._attributes(self._node(body))
        if verb == GETATTR:
            return struct.pack("=QII", 0, 0, 0) + self._attributes(node)
        if verb in (OPEN, OPENDIR):
            return struct.pack("=QII", 0, 1, 0)  # 1: ask us for every byte, and keep none
        if verb == READ:
            _, start, size = struct.unpack_from("=QQI", body)
            return self._files[node - 2][start : start + size]
        if verb == STATFS:
            return struct.pack("=QQQQQIIII6I", 1, 0, 0, 1, 0, 4096, 255, 4096, 0, *[0] * 6)
        if verb in (READDIR, RELEASE, RELEASEDIR, FLUSH, ACCESS):
            return b""
        raise OSError(errno.ENOSYS, "")

    def _node(self, body: bytes) -> int:
        """The number of a file: 1 is the folder."""
        name = body.rstrip(b"\0").decode()
        if name not in self._names:
            raise OSError(errno.ENOENT, name)
        return self._names.index(name) + 2

    def _attributes(self, node: int) -> bytes:
        size, mode = (0, stat.S_IFDIR | 0o755) if node == 1 else (len(self._files[node - 2]), stat.S_IFREG | 0o644)
        return ATTRIBUTES.pack(node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
