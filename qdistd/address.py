"""Where a master listens: `host:port`, `[IPv6]:port`, or `unix:/path`."""

import ipaddress
from typing import NamedTuple

from qdistd.errors import Refused

EXPECTED = 'expected "host:port", "[IPv6 address]:port" or "unix:/path/of/socket"'


class Address(NamedTuple):
    """One address. Either `host` and `port` are set, or `path` is. `str()` gives the text back."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """The address that a person wrote. Refused, naming the text, where it is none."""
        if text.startswith("unix:"):
            if not text.startswith("unix:/"):
                raise Refused(f"{text!r} is not an address: a Unix socket needs an absolute path ({EXPECTED})")
            if not text.isprintable():
                raise Refused(f"{text!r} is not an address: its path cannot be printed")
            return cls(path=text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        if not colon or not host:
            raise Refused(f"{text!r} is not an address: {EXPECTED}")
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise Refused(f"{text!r} is not an address: {port!r} is no port from 0 to 65535")
        return cls(host=_host(text, host), port=int(port))

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _may_be_a_name(host: str) -> bool:
    """Whether the resolver can be asked about it at all."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return host.isprintable()


def _host(text: str, host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1]
    if not _may_be_a_name(host):
        raise Refused(f"{text!r} is not an address: {host!r} cannot be the name of a host")
    if ":" in host:
        raise Refused(f"{text!r} is not an address: write an IPv6 address in brackets, [{host}]")
    return host
