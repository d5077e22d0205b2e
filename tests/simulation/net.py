"""A network in memory, with the faults of a real one.

    Wire   one connection: two ends, each with a queue of bytes on their way

Bytes arrive in order after a random delay, or are cut into pieces. A partition holds bytes back: what is healed in
time goes on, after `USER_TIMEOUT` both ends break as TCP's do. `reset` breaks both ends at once. A killed process
ends its connections with FIN, which arrives like any other bytes, or not at all.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from qdistd.address import Address
from qdistd.wire.network import USER_TIMEOUT
from tests.simulation.world import Process, World

FIN = b""

RESEND = 0.1
"""Seconds between two tries of TCP to get bytes through a partition."""


class End(asyncio.Transport):
    """One end of a connection, as the protocol in its process sees it."""

    def __init__(self, wire: "Wire", process: Process) -> None:
        super().__init__()
        self.wire = wire
        self.process = process
        self.protocol: Any = None
        self.closing = False
        self.broken = False
        self.peer: End

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": (self.peer.process.name, 0)}.get(name, default)

    def is_closing(self) -> bool:
        return self.closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        raise NotImplementedError("the simulation has no back-pressure by the reader")

    def write(self, data: Any) -> None:
        if not self.closing and self.process.alive:
            self.wire.send(self, bytes(data))

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.wire.send(self, FIN)
            self.lose(None)

    def abort(self) -> None:
        if not self.closing:
            self.closing = True
            self.wire.send_reset(self)
            self.lose(None)

    def lose(self, error: Exception | None) -> None:
        """Tell the protocol, once, that its connection is over."""
        if not self.broken:
            self.broken = self.closing = True
            if self.protocol is not None:
                self.process.call_soon(self.protocol.connection_lost, error)

    def arrive(self, data: bytes) -> None:
        if self.broken or self.closing:
            return
        if data is FIN:
            self.closing = True
            self.protocol.eof_received()
            self.lose(None)
        else:
            self.protocol.data_received(data)


class Wire:
    """A connection between two processes."""

    def __init__(self, net: "Net", client: Process, server: Process) -> None:
        self.net = net
        self.ends = End(self, client), End(self, server)
        self.ends[0].peer, self.ends[1].peer = self.ends[1], self.ends[0]
        self._ready = dict.fromkeys(self.ends, 0.0)
        self._under_way: dict[End, deque[tuple[float, float, bytes]]] = {end: deque() for end in self.ends}

    def send(self, sender: End, data: bytes) -> None:
        """Put bytes on their way, sometimes in two pieces."""
        rng = self.net.world.rng
        if len(data) > 1 and rng.random() < self.net.tear:
            cut = rng.randrange(1, len(data))
            self.send(sender, data[:cut])
            data = data[cut:]
        when = max(self._ready[sender], self.net.world.now + self.net.delay())
        self._ready[sender] = when
        self._under_way[sender].append((when, self.net.world.now, data))
        self.net.world.at(when, self._pump, sender)

    def _pump(self, sender: End) -> None:
        """Deliver what is due, in its order. A partition holds back everything behind the first held piece."""
        under_way, now = self._under_way[sender], self.net.world.now
        receiver = sender.peer
        while under_way and under_way[0][0] <= now and not receiver.broken:
            if self.net.cut(sender.process.name, receiver.process.name):
                if now - under_way[0][1] > USER_TIMEOUT / 1000:
                    self.time_out()
                else:
                    self.net.world.at(now + RESEND, self._pump, sender)
                return
            _, _, data = under_way.popleft()
            receiver.process.call_soon(receiver.arrive, data)

    def send_reset(self, sender: End) -> None:
        """RST on its way; lost in a partition, where the other end finds out by itself."""
        self.net.world.at(self.net.world.now + self.net.delay(), self._deliver_reset, sender.peer)

    def _deliver_reset(self, receiver: End) -> None:
        if not self.net.cut(receiver.peer.process.name, receiver.process.name):
            receiver.lose(ConnectionResetError("reset"))

    def reset(self) -> None:
        """A middlebox resets the connection: both ends, whatever was under way."""
        for end in self.ends:
            end.lose(ConnectionResetError("reset by the network"))

    def time_out(self) -> None:
        """Neither end has heard of the other for too long."""
        for end in self.ends:
            end.lose(TimeoutError("timed out"))

    def process_died(self, process: Process) -> None:
        """The kernel of a killed process says FIN for it."""
        for end in self.ends:
            if end.process is process and not end.closing:
                end.closing = end.broken = True
                self.send(end, FIN)


class Door:
    """A listening address."""

    def __init__(self, net: "Net", address: Address, process: Process, factory: Callable[[], Any]) -> None:
        self.net = net
        self.address = address
        self.process = process
        self.factory = factory

    def close(self, *, keep: bool = False) -> None:
        if self.net.doors.get(self.address) is self:
            del self.net.doors[self.address]

    async def settled(self) -> None:
        """Who connects meets the protocol at once."""

    def alive(self) -> bool:
        return True


class Net:
    """All connections of a world."""

    def __init__(self, world: World, *, delay: tuple[float, float] = (0.0002, 0.02), tear: float = 0.1) -> None:
        self.world = world
        self.doors: dict[Address, Door] = {}
        self.wires: list[Wire] = []
        self.tear = tear
        self._delay = delay
        self._cuts: set[tuple[str, str]] = set()

    def delay(self) -> float:
        return self.world.rng.uniform(*self._delay)

    def cut(self, sender: str, receiver: str) -> bool:
        return (sender, receiver) in self._cuts

    def partition(self, one: str, other: str, *, both: bool = True) -> None:
        """Drop what `one` sends to `other`, and the way back if `both`; found out by keepalive after a while."""
        self._cuts |= {(one, other), (other, one)} if both else {(one, other)}
        self.world.at(self.world.now + USER_TIMEOUT / 1000, self._keepalive)

    def heal(self) -> None:
        self._cuts.clear()

    def _keepalive(self) -> None:
        for wire in self.wires:
            names = wire.ends[0].process.name, wire.ends[1].process.name
            if self.cut(*names) or self.cut(*names[::-1]):
                wire.time_out()

    def reset_all(self, name: str) -> None:
        """Reset every connection of a process."""
        for wire in self.wires:
            if name in (wire.ends[0].process.name, wire.ends[1].process.name):
                wire.reset()

    def kill(self, process: Process) -> None:
        """kill -9 of a process: no more instructions, FIN on its connections, its doors shut."""
        process.kill()
        for door in list(self.doors.values()):
            if door.process is process:
                door.close()
        for wire in self.wires:
            wire.process_died(process)
        self.wires = [wire for wire in self.wires if not all(end.broken for end in wire.ends)]

    def of(self, process: Process) -> "View":
        """The network as this process sees it."""
        return View(self, process)


class View:
    """`qdistd.wire.network.Network` for one process."""

    def __init__(self, net: Net, process: Process) -> None:
        self._net = net
        self._process = process

    async def connect(self, address: Address, factory: Callable[[], Any]) -> Any:
        await asyncio.sleep(self._net.delay())
        door = self._net.doors.get(address)
        if door is not None and self._cut(door.process):
            await asyncio.sleep(USER_TIMEOUT / 1000)
            raise TimeoutError(f"{address} does not answer")
        if door is None or not door.process.alive:
            raise ConnectionRefusedError(f"nobody listens at {address}")
        return self._join(door, factory())

    def _cut(self, server: Process) -> bool:
        return self._net.cut(self._process.name, server.name) or self._net.cut(server.name, self._process.name)

    def _join(self, door: Door, protocol: Any) -> Any:
        wire = Wire(self._net, self._process, door.process)
        self._net.wires.append(wire)
        client, server = wire.ends
        client.protocol = protocol
        protocol.connection_made(client)
        door.process.call_soon(self._accept, door, server)
        return protocol

    @staticmethod
    def _accept(door: Door, server: End) -> None:
        if server.broken:
            return
        server.protocol = door.factory()
        server.protocol.connection_made(server)

    async def listen(self, address: Address, factory: Callable[[], Any], *, sock: Any = None) -> Door:
        if address in self._net.doors:
            raise OSError(f"{address} is taken")
        door = self._net.doors[address] = Door(self._net, address, self._process, factory)
        return door
