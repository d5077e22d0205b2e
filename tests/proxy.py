"""A stretch of network between two programs, in the process of the test, that can fail in three ways.

with Proxy(cluster.address) as wire:     wire.address leads to the cluster
    wire.silence()                       nothing gets through, either way; nobody is told
    wire.speak()                         what was sent meanwhile arrives, as TCP would send it again
    wire.reset()                         every connection is reset; the next one works
    wire.refuse()                        the same, and new ones are refused, until `accept`
"""

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

from cluster import reserve_port

NO_LINGER = struct.pack("ii", 1, 0)
"""SO_LINGER that makes the end of a connection a reset."""


class Proxy:
    """Forwards every connection to `address`."""

    def __init__(self, address: str) -> None:
        self._holder = reserve_port()
        self.address = f"127.0.0.1:{self._holder.getsockname()[1]}"
        host, port = address.split(":")
        self._target = (host, int(port))
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    def __enter__(self) -> Self:
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.speak()
        self.refuse()
        self._holder.close()

    def silence(self) -> None:
        """Hold back every byte from now on."""
        self._flowing.clear()

    def speak(self) -> None:
        """Let everything through again."""
        self._flowing.set()

    def reset(self) -> None:
        """Reset every connection, on both sides."""
        for sock in list(self._sockets):
            self._reset(sock)

    def refuse(self) -> None:
        """Be gone, as a host without a listener."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()
        self.reset()

    def accept(self) -> None:
        """Be there again, at the same address."""
        host, port = self._holder.getsockname()
        self._listener = socket.create_server((host, port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    self._reset(near)
                    continue
                self._sockets |= {near, far}
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self._flowing.wait()
                sink.sendall(data)
            self._flowing.wait()
            if source in self._sockets:  # it has ended by itself: we have not reset it
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._flowing.wait()
            self._reset(sink)

    def _reset(self, sock: socket.socket) -> None:
        self._sockets.discard(sock)
        with contextlib.suppress(OSError):  # it is gone already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            sock.shutdown(socket.SHUT_RD)  # wakes the thread that reads; the reset goes out with the close
            sock.close()
