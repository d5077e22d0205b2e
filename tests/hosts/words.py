"""Tasks for hosts of tests: they say something, each in a way of its own."""

import faulthandler
import logging
import subprocess
import time

log = logging.getLogger("chatty")


def talk() -> str:
    print("printed")
    log.info("informed")
    log.warning("warned")
    log.error("alarmed")
    subprocess.run(["/bin/sh", "-c", "echo from a shell"], check=True)
    return "done"


def crash() -> None:
    print("farewell")
    faulthandler._sigsegv()  # type: ignore[attr-defined]


def fail(words: str) -> None:
    raise ValueError(words)


def tick(seconds: int) -> int:
    for number in range(seconds):
        print(f"tick {number}")
        time.sleep(1)
    return seconds
