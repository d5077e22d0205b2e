"""The floor plan holds: imports only go down, nothing outgrows its room, and the top of the repository stays tidy."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
HOUSE = TOP / "qdistd"

FLOORS = (
    ("calendar", "cgroup", "durable", "errors", "events", "metrics", "model", "systemd", "tasks", "zones"),
    ("address", "call", "control", "detach", "logs", "pulse", "shares", "succession", "upkeep", "views"),
    ("child", "lifecycle", "store", "config", "protocol", "daemon"),
    ("broker", "neighbours", "pool", "wire"),
    ("client", "master", "worker"),
    ("__init__", "cli", "programs"),
    ("__main__",),
)
"""Every room of the house, from the ground up. A room may use those below its floor and itself, nothing beside it."""

NEVER = {"broker": {"wire"}, "store": {"lifecycle"}, "pool": {"wire"}, "client": {"broker"}, "worker": {"broker"}}

PLACES = {"qdistd", "etc", "packaging", "tests", "pyproject.toml", "README.md", "LICENSE"}

UNPICKLERS = re.compile(r"\bpickle\.loads?\(|\bpickle\.Unpickler\(")

LONGEST = 400


def floor_of(room: str) -> int:
    found = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"qdistd/{room} has no floor: give it one in FLOORS"
    return found[0]


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def rooms_used(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            rooms = [f"qdistd.{alias.name}" for alias in node.names]
            names = rooms if node.module == "qdistd" else [str(node.module)]
        for name in names:
            if name.split(".")[0] == "qdistd":
                yield [*name.split("."), "__init__"][1]


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((TOP / folder).rglob("*.py"))]


def test_imports_only_go_down() -> None:
    for path in sources("qdistd"):
        room = room_of(path)
        for used in set(rooms_used(path)) - {room}:
            assert floor_of(used) < floor_of(room), f"{path} imports qdistd.{used}, which is not below it"
            assert used not in NEVER.get(room, ()), f"{path}: {room} must never know of {used}"


def test_no_file_outgrows_its_room() -> None:
    long = {path: len(path.read_text().splitlines()) for path in sources("qdistd", "tests", "packaging")}
    assert {str(path): lines for path, lines in long.items() if lines > LONGEST} == {}


def test_only_the_child_and_the_calls_unpickle() -> None:
    for path in sources("qdistd"):
        assert not UNPICKLERS.search(path.read_text()) or room_of(path) in ("call", "child"), path


def test_the_top_of_the_repository_is_tidy() -> None:
    made = {"build", "dist"}
    found = {path.name for path in TOP.iterdir() if path.name[0] != "." and path.suffix != ".egg-info"}
    assert found - made <= PLACES
