"""What a worker says of the place where it stands: its labels, and the folders that it shares with other hosts."""

# ruff: noqa: RUF009 - `setting` makes dataclass fields, which ruff cannot see
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from qdistd.config.kinds import FOLDER, LONGEST_NAME, Duration, Flag, Several, Text, echo
from qdistd.config.rows import required, setting
from qdistd.shares import LABEL, NAME

_LABEL = re.compile(r"[^\s,=]+(=[^\s,]+)?")


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text) or len(text) > LONGEST_NAME:
        raise ValueError(f"{echo(text)} is no label")
    if text.startswith(LABEL):
        raise ValueError(f"{echo(text)} is the label that [[share]] gives while the share is well")
    return text


def _share(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(f"{echo(text)} is no name of a share")
    return text


def _probe(text: str) -> str:
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{echo(text)} is no path below the share")
    return text


LABELS = Several(Text(f'labels such as "gpu" or "site=berlin" (up to {LONGEST_NAME} characters, no spaces)', _label))
SHARE = Text('a name of letters, digits and _ . - such as "data"', _share)
PROBE = Text('"." or a relative path such as ".probe"', _probe)


@dataclass(frozen=True)
class Share:
    """A folder that other hosts have as well, maybe somewhere else."""

    name: str = required(SHARE, "data", "The name of the share, the same on all hosts.")
    path: Path = required(FOLDER, "/mnt/data", "The folder where this host has it.")
    probe: str = setting(
        PROBE,
        ".",
        "What is looked at to see whether the share is well: a file or a folder below path that must be there and "
        'readable. A file that only the server has, such as ".probe", tells a share from the empty folder where it '
        'is not mounted; ".": the folder itself.',
    )
    mount: bool = setting(Flag(), False, "Whether something must be mounted at path.")
    timeout: float = setting(
        Duration("100 ms", "10m"),
        "5s",
        "Duration: how long a look may take. Then the share is stale: a mount whose server is gone never answers.",
    )
    interval: float = setting(
        Duration("100 ms", "1d"), "10s", "Duration: how often to look, from the beginning of one look to the next."
    )

    @property
    def file(self) -> Path:
        """What is looked at."""
        return self.path / self.probe
