"""Probes of the network: sockets of all kinds, names, TLS."""

import os
import select
import socket
import ssl
import tempfile
import threading


def _echo(family: int, address: object) -> None:
    with socket.socket(family) as server:
        server.bind(address)  # type: ignore[arg-type]
        server.listen()
        with socket.socket(family) as client:
            client.settimeout(10)
            client.connect(server.getsockname())
            with server.accept()[0] as peer:
                peer.sendall(b"x")
            assert client.recv(1) == b"x"


def tcp_on_ipv4() -> None:
    _echo(socket.AF_INET, ("127.0.0.1", 0))


def tcp_on_ipv6() -> None:
    _echo(socket.AF_INET6, ("::1", 0))


def unix_socket() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _echo(socket.AF_UNIX, f"{folder}/socket")


def abstract_unix_socket() -> None:
    _echo(socket.AF_UNIX, f"\0probe-{os.getpid()}-{threading.get_ident()}")


def udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.sendto(b"x", one.getsockname())
        assert one.recv(1) == b"x"


def names_of_interfaces() -> None:
    assert socket.if_nameindex()


def addresses_of_names() -> None:
    assert socket.getaddrinfo("localhost", 80)


def tls_context() -> None:
    assert ssl.create_default_context()


def socketpair_and_epoll() -> None:
    one, other = socket.socketpair()
    with one, other, select.epoll() as poll:
        poll.register(other, select.EPOLLIN)
        one.send(b"x")
        assert poll.poll(10)
