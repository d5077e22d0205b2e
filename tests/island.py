"""A network of its own, for programs that a test starts in it: they see only each other, over loopback.

    with Island() as island:
        Daemon("worker", island.command(…), folder)
        island.cut(5000)         packets of this port vanish, either way; nobody is told
        island.heal()

As root or not: whoever is not root is root in a user namespace. Unix sockets in the file system lead in and out.
"""

import os
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

CUT = """
table inet cut {{
    chain input {{
        type filter hook input priority 0; policy accept;
        tcp dport {port} drop
        tcp sport {port} drop
    }}
}}
"""


class Island:
    """A network namespace. It lasts for the `with`."""

    def __enter__(self) -> Self:
        alien = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        holder = ["unshare", *alien, "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"]
        self._holder = subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout
        assert self._holder.stdout.readline() == b"up\n", "no network namespace can be made here"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.communicate()

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command that runs `arguments` in this network, in the very process that is started."""
        alien = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self._holder.pid), *alien, "--net", *arguments]

    def cut(self, port: int) -> None:
        """Have every packet to and from this port vanish."""
        self._nft("-f", "-", rules=CUT.format(port=port))

    def heal(self) -> None:
        """Let everything through again."""
        self._nft("delete", "table", "inet", "cut")

    def _nft(self, *arguments: str, rules: str = "") -> None:
        subprocess.run(self.command(["nft", *arguments]), input=rules, text=True, check=True)
