"""A service that does nothing but what its first argument says: `python probe.py MOOD [OPTION=VALUE …]`."""

import asyncio
import os
import sys
from pathlib import Path

from qdistd.control import Request
from qdistd.daemon import Options, run
from qdistd.errors import ConfigError, Refused
from qdistd.systemd import notify


class Probe:
    def __init__(self, mood: str) -> None:
        self._mood = mood
        self._ended = asyncio.Event()
        self._reloads = 0
        self._draining = False

    async def start(self) -> None:
        if self._mood == "slow":
            notify(STATUS="starting slowly")
            await asyncio.Event().wait()
        if self._mood == "taken":
            await asyncio.start_server(lambda *_: None, "127.0.0.1", int(os.environ["PORT"]))
        if self._mood == "misconfigured":
            raise ConfigError("master.toml: [master] listen: expected a list of addresses")
        if self._mood == "buggy":
            raise ZeroDivisionError("a bug")

    async def work(self) -> None:
        if self._mood == "broken":
            asyncio.get_running_loop().call_soon(_bug)
        await self._ended.wait()

    async def reload(self, _: Request) -> None:
        self._reloads += 1
        if self._mood == "thoughtful":
            await asyncio.Event().wait()
        if self._mood == "stubborn":
            raise Refused("the file names an address twice")

    def stop(self, hurry: bool) -> float:
        self._draining = True
        if hurry or self._mood != "busy":
            self._ended.set()
        return float(os.environ.get("DRAIN", "60"))

    def hang(self) -> str:
        return "the disk sleeps" if self._mood == "stuck" else ""

    def status(self) -> str:
        return f"{'draining' if self._draining else 'serving'}, {self._reloads} reloads"


def _bug() -> None:
    raise ZeroDivisionError("a bug")


def main(mood: str, *settings: str) -> int:
    paths = {key: Path(value) for key, _, value in (setting.partition("=") for setting in settings)}
    detach = "log" in paths
    options = Options("probe", detach, paths.get("pidfile"), paths.get("log"), paths.get("control"))
    return run(options, lambda _: Probe(mood))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
