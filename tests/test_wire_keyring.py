"""Keys carry roles and keep their secrets."""

from qdistd.protocol import Role
from qdistd.wire.keyring import Key, Keyring

SECRET = b"the secret of this test"


def test_printing_a_key_shows_no_secret() -> None:
    key = Key(SECRET, frozenset({Role.WORK}), "work.key")
    for text in (repr(key), str(key), f"{key}", repr(Keyring([key])), repr([key])):
        assert "secret of" not in text
    assert "work.key" in repr(Keyring([key]))


def test_one_secret_under_two_roles_carries_both() -> None:
    keys = Keyring(
        [
            Key(SECRET, frozenset({Role.WORK}), "a.key"),
            Key(b"other", frozenset({Role.ADMIN}), "b.key"),
            Key(SECRET, frozenset({Role.SUBMIT}), "a.key"),
            Key(SECRET, frozenset({Role.SUBMIT}), "c.key"),
        ]
    )
    assert len(keys) == 2
    assert next(iter(keys)) == Key(SECRET, frozenset({Role.WORK, Role.SUBMIT}), "a.key, c.key")


def test_a_key_may_say_what_its_roles_say_and_an_admin_everything() -> None:
    worker, admin = (Key(SECRET, frozenset({role})) for role in (Role.WORK, Role.ADMIN))
    assert [worker.may(role) for role in Role] == [role in (Role.WORK, Role.ANY) for role in Role]
    assert all(admin.may(role) for role in Role)
