"""The network of a lab: a bridge in a network namespace of its own, a cable to each host, and the faults a cable has.

      namespace of the lab                         namespace of host m
    ┌──────────────────────────┐                 ┌─────────────────────┐
    │ br0 10.99.0.1 ── port p2 │─── a cable ─────│ host0 10.99.0.2     │
    │                  port p3 │───┐             └─────────────────────┘
    │ nft: what vanishes       │   └──────────── host0 10.99.0.3 (w1)
    └──────────────────────────┘

Nothing of it shows in the network of this machine.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

SUBNET4, SUBNET6 = "10.99.0.", "fd99::"

NAMESPACES = Path("/run/netns")

Fault = Literal["both", "out", "in", "link"]
"""`both`: packets vanish, and nobody is told. `out`, `in`: only those from the host, or to it. `link`: no carrier."""

RULES = """
table bridge faults {
    set silent { type ifname; }
    set deaf { type ifname; }
    chain forward {
        type filter hook forward priority 0;
        iifname @silent drop
        oifname @deaf drop
    }
    chain input {
        type filter hook input priority 0;
        iifname @silent drop
    }
    chain output {
        type filter hook output priority 0;
        oifname @deaf drop
    }
}
"""

SETS = {"both": ("silent", "deaf"), "out": ("silent",), "in": ("deaf",)}


class Network:
    """A bridge, as long as it is not closed. `name` names its namespace and starts the names of its hosts' ones."""

    def __init__(self, name: str) -> None:
        self.name = name
        _do("ip", "netns", "add", name)
        _do("ip", "-n", name, "link", "set", "lo", "up")
        bridge = "forward_delay 0 stp_state 0 mcast_snooping 0"
        _do("ip", "-n", name, "link", "add", "br0", "type", "bridge", *bridge.split())
        _do("ip", "-n", name, "addr", "add", f"{SUBNET4}1/24", "dev", "br0")
        _do("ip", "-n", name, "addr", "add", f"{SUBNET6}1/64", "dev", "br0", "nodad")
        _do("ip", "-n", name, "link", "set", "br0", "up")
        self._nft(RULES)

    def close(self) -> None:
        """Take all namespaces away."""
        remove_namespaces(self.name)

    def plug(self, host: str, number: int) -> str:
        """Make the namespace of a host and its cable; the path of the namespace."""
        space, port = f"{self.name}.{host}", f"p{number}"
        _do("ip", "netns", "add", space)
        _do("ip", "-n", self.name, "link", "add", port, "type", "veth", "peer", "name", "host0", "netns", space)
        _do("ip", "-n", self.name, "link", "set", port, "master", "br0", "up")
        _do("ip", "-n", space, "link", "set", "lo", "up")
        _do("ip", "-n", space, "link", "set", "host0", "address", f"02:99:00:00:00:{number:02x}")
        _do("ip", "-n", space, "addr", "add", f"{SUBNET4}{number}/24", "dev", "host0")
        _do("ip", "-n", space, "addr", "add", f"{SUBNET6}{number}/64", "dev", "host0", "nodad")
        _do("ip", "-n", space, "link", "set", "host0", "up")
        _do("ip", "-n", space, "route", "add", "default", "via", f"{SUBNET4}1")
        return str(NAMESPACES / space)

    def unplug(self, host: str, number: int) -> None:
        """Take the cable and the namespace away, with all connections in it. The faults of the cable stay."""
        _do("ip", "-n", self.name, "link", "delete", f"p{number}")
        _do("ip", "netns", "delete", f"{self.name}.{host}")

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command that runs `arguments` in the namespace of the lab, in the very process that is started."""
        return ["nsenter", f"--net={NAMESPACES / self.name}", *arguments]

    def cut(self, number: int, fault: Fault) -> None:
        """Give the cable of a host this fault."""
        if fault == "link":
            _do("ip", "-n", self.name, "link", "set", f"p{number}", "down")
        for name in SETS.get(fault, ()):
            self._nft(f"add element bridge faults {name} {{ p{number} }}")

    def heal(self, number: int) -> None:
        """Take all faults from the cable of a host."""
        _do("ip", "-n", self.name, "link", "set", f"p{number}", "up")
        for name in SETS["both"]:
            # what is added first is surely there to be deleted
            self._nft(f"add element bridge faults {name} {{ p{number} }}")
            self._nft(f"delete element bridge faults {name} {{ p{number} }}")

    def reset(self, host: str, port: int, peer: str) -> None:
        """Reset connections of a host from and to this TCP port, all or those with the address `peer`."""
        which = f"state established ( sport = :{port} or dport = :{port} )" + (f" dst {peer}" if peer else "")
        _do("nsenter", f"--net={NAMESPACES / self.name}.{host}", "ss", "--kill", "--tcp", *which.split())

    def _nft(self, rules: str) -> None:
        _do(*self.command(["nft", "-f", "-"]), stdin=rules)


def remove_namespaces(name: str) -> None:
    """Take away the namespace of this lab and those of its hosts."""
    for space in [*NAMESPACES.glob(f"{name}.*"), *NAMESPACES.glob(name)]:
        _do("ip", "netns", "delete", space.name)


def _do(*command: str, stdin: str = "") -> None:
    env = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=env)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{stdin}"
