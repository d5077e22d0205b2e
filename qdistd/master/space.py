"""Whether there is room for new tasks on the disk of the store."""

import os
from collections.abc import Callable
from pathlib import Path

LOOK_EVERY = 0.5
"""Seconds between two looks: cheap, and soon enough to notice that somebody has made room."""


class Space:
    """Says what is short, or nothing. `least`: bytes that must be free on the file system of `folder`."""

    def __init__(self, folder: Path | None, least: Callable[[], int], monotonic: Callable[[], float]) -> None:
        self._folder = folder
        self._least = least
        self._monotonic = monotonic
        self._looked = float("-inf")
        self._words = ""

    def __call__(self) -> str:
        """`the disk of the store has 12 MiB free, [limits] free is 256 MiB`, or an empty text."""
        now = self._monotonic()
        if now >= self._looked + LOOK_EVERY:
            self._looked = now
            self._words = self._look()
        return self._words

    def _look(self) -> str:
        least = self._least()
        if self._folder is None or not least:
            return ""
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize
        if free >= least:
            return ""
        return f"the disk of the store has {free >> 20:,} MiB free, the limit of [limits] free is {least >> 20:,} MiB"
