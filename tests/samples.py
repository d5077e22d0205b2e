"""Where the tasks of the tests are."""

from pathlib import Path

HERE = str(Path(__file__).parent)

MODULES = ("task_samples", "life_samples")
