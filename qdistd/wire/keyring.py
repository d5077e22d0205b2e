"""Keys and what each may do. Printing one never shows its secret."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from qdistd.protocol import Role


@dataclass(frozen=True, slots=True)
class Key:
    """A shared secret, the roles it carries, and the name people know it by (`label`)."""

    secret: bytes = field(repr=False)
    roles: frozenset[Role]
    label: str = ""

    def may(self, role: Role) -> bool:
        """Whether who holds this key may say what needs `role`."""
        return role is Role.ANY or role in self.roles or Role.ADMIN in self.roles


class Keyring:
    """All keys that are valid at this moment. One secret that stands in several keys carries the roles of all."""

    def __init__(self, keys: Iterable[Key]) -> None:
        merged: dict[bytes, Key] = {}
        for key in keys:
            known = merged.get(key.secret)
            merged[key.secret] = _joined(known, key) if known else key
        self._keys = tuple(merged.values())

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"Keyring({list(self._keys)})"


def _joined(one: Key, other: Key) -> Key:
    labels = dict.fromkeys((*one.label.split(", "), other.label))
    return Key(one.secret, one.roles | other.roles, ", ".join(labels))
