"""`python -m tests.hosts`: boots a cluster of three hosts and a shell beside them. They are gone when it ends."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from tests.hosts import images
from tests.hosts.cluster import HostCluster
from tests.hosts.lab import Lab

GREETING = """
The hosts are there: {hosts}. Their names are commands here:
    m systemctl status qdist-master          w1 journalctl -fu qdist-worker@1          m bash
The address of this shell is {address}. `exit` takes everything away.
"""


def main() -> None:
    """Boot the cluster, run a shell in its network, and take all away."""
    bookworm, trixie = (images.installed(suite) for suite in images.SUITES)
    with Lab() as lab, tempfile.TemporaryDirectory() as commands:
        HostCluster(lab, bookworm, trixie, bookworm)
        for host in lab.hosts.values():
            command = Path(commands) / host.name
            command.write_text(f'#!/bin/sh\nexec {shlex.join(host.command([]))} "$@"\n')
            command.chmod(0o755)
        print(GREETING.format(hosts=", ".join(lab.hosts), address=lab.address))
        env = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}"}
        subprocess.run(lab.command(os.environ.get("SHELL", "bash")), env=env)


main()
