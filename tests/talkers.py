"""Tasks that say something, each in a way of its own."""

import faulthandler
import logging
import os
import subprocess
import sys
import threading

print("imported")


def count(n: int) -> int:
    print(n)
    return n


def whisper(words: str) -> None:
    """No end of line."""
    sys.stdout.write(words)
    sys.stderr.write(words)


def log(words: str) -> None:
    logging.getLogger("mail").info(words)
    logging.warning("%s!", words)
    try:
        raise ValueError(words)
    except ValueError:
        logging.exception("failed")


class Mute:
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text of me")


def log_what_has_no_text() -> str:
    logging.warning("%s", Mute())
    return "done"


def shell(script: str) -> None:
    subprocess.run(["/bin/sh", "-c", script], check=True)


def mixed(words: str) -> None:
    subprocess.run(["/bin/echo", words], check=True, stdout=sys.stdout)


def fault(words: str) -> None:
    print(words)
    faulthandler._sigsegv()  # type: ignore[attr-defined]


def crowd(threads: int, lines: int) -> bytes:
    """Threads that talk all at once, and a large result in the midst of it."""

    def talk(word: str) -> None:
        for _ in range(lines):
            print(word * 100)

    crowd = [threading.Thread(target=talk, args=(str(number),)) for number in range(threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    return bytes(300_000)


def copy(words: str) -> None:
    """A copy of the child that talks, and ends."""
    pid = os.fork()
    if pid == 0:
        print(words * 1000)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)


def mute() -> str:
    sys.stdout.close()
    return "done"


def raw(words: str) -> None:
    sys.stdout.buffer.write(words.encode() + b"\xff\n")


def flood(lines: int) -> None:
    for number in range(lines):
        print(f"line {number}")
