"""Addresses: what may be written, and what is refused before anybody asks the resolver about it."""

import pytest

from qdistd.address import Address
from qdistd.errors import Refused


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:5000", Address("localhost", 5000)),
        ("10.0.0.1:0", Address("10.0.0.1", 0)),
        ("[fe80::1%eth0]:5000", Address("fe80::1%eth0", 5000)),
        ("münchen.example:5000", Address("münchen.example", 5000)),
        ("unix:/run/qdist.sock", Address(path="/run/qdist.sock")),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "a..b:5000",
        f"{'x' * 64}:5000",
        "a\0b:5000",
        "unix:/a\0b",
        "unix:a",
        "somewhere",
        ":5000",
        "a:x",
        "a:65536",
        "::1:5",
    ],
)
def test_what_cannot_be_an_address_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="is not an address"):
        Address.parse(text)
