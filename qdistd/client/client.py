"""`Client`: the blocking face of a session, for programs with threads of their own or none."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from qdistd.address import Address
from qdistd.client.background import Background
from qdistd.client.options import Choices
from qdistd.client.questions import Questions
from qdistd.client.submitter import Submitter
from qdistd.config import ClientConfig, load_client, own_key, read_key
from qdistd.config.keys import SHORTEST_KEY
from qdistd.errors import QdistError, Refused


class Client(Submitter, Questions):
    """Submits tasks and collects their results.

        with qdistd.Client() as q:
            print(q.submit("square", 7).result(timeout=10))

    `masters`: one address or several ("host:port", "unix:/path"), tried in this order. `key`: the key itself as
    bytes, or the path of its file. What is not given comes from the configuration: the file `config`, else
    `$QDIST_CONFIG`, `~/.config/qdist/client.toml` or `/etc/qdist/client.toml`; `$QDIST_MASTER` stands above its
    addresses, and its `[options]` hold for every task that does not choose otherwise. `timeout`: seconds that any call
    waits for a master that does not answer, before it raises Unavailable. `patient`: whether submits that find the
    master overloaded are repeated until it takes them, as long as that (`Choices` can say otherwise).
    Raises ConfigError (a Refused) for a configuration or a key file that cannot be used; it does not wait for a master.

    Any number of threads may use one client; a forked process makes its own. The connection is made and kept by a
    thread in the background and comes back by itself; what was on its way then is sent again.
    """

    def __init__(
        self,
        masters: str | Sequence[str] | None = None,
        key: bytes | str | PathLike[str] | None = None,
        *,
        config: str | PathLike[str] | None = None,
        timeout: float | None = None,
        patient: bool = False,
    ) -> None:
        given = masters is not None and key is not None and config is None
        settings = ClientConfig() if given else load_client(None if config is None else Path(config))
        addresses = settings.masters if masters is None else _addresses(masters)
        secret = own_key(settings) if key is None else _secret(key, settings.weak, addresses)
        defaults = cast(Choices, settings.options.choices() | ({"patient": True} if patient else {}))
        super().__init__(Background(addresses, secret, settings.timeout if timeout is None else timeout), {}, defaults)

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything submitted before is on the master's disk: from here on none of it is ever lost.

        Raises the refusal of a task that the master did not store (once; not for those whose handle has told it),
        and TimeoutError or Unavailable when that is not settled within `timeout` seconds (None: the client's own).
        """
        self._background.flush(timeout)

    def close(self) -> None:
        """Flush, then end the connection. Handles keep the results they have; the others raise Refused from now on.

        Raises as `flush` does, and ends the connection all the same. May be called twice.
        """
        if not self._background.alive:
            return
        try:
            self.flush()
        finally:
            self._background.close()

    @property
    def closed(self) -> bool:
        """Whether this client is over: it was closed, or a master has turned it away for good."""
        return self._background.session.broken is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except (QdistError, TimeoutError) as late:  # the first error is the one to tell of
            error.add_note(f"qdist: the tasks submitted before that are not all stored: {late}")

    def __repr__(self) -> str:
        return f"<qdistd.Client {', '.join(map(str, self._background.addresses))}>"


def _addresses(masters: str | Sequence[str]) -> Sequence[Address]:
    return [Address.parse(text) for text in ([masters] if isinstance(masters, str) else masters)]


def _secret(key: bytes | str | PathLike[str], weak: bool, addresses: Sequence[Address]) -> bytes:
    if not isinstance(key, bytes):
        return read_key(Path(key), weak=weak)
    if len(key) < SHORTEST_KEY and not all(address.local for address in addresses):
        raise Refused(f"key: {len(key)} bytes are for masters on this host; expected {SHORTEST_KEY} or more")
    return key
