"""Who a worker is to its master."""

from collections.abc import Callable

TOKEN_BYTES = 16
"""Of the secret name of an incarnation: nobody guesses it, and no other one ever has it."""


class Identity:
    """`token`: the secret name under which tasks are leased. `epoch`: the time line of the store that has leased them.

    A store that was restored from a backup has another epoch: what was leased before is void, and so is the token.
    """

    def __init__(self, randbytes: Callable[[int], bytes], token: bytes = b"", epoch: bytes = b"") -> None:
        self._randbytes = randbytes
        self.token = token or randbytes(TOKEN_BYTES)
        self.epoch = epoch

    def knows(self, epoch: bytes) -> bool:
        """Whether what we hold is of this epoch. A master of an older version says none."""
        return not (epoch and self.epoch) or epoch == self.epoch

    def renew(self) -> None:
        """Be another incarnation, which holds nothing yet."""
        self.token, self.epoch = self._randbytes(TOKEN_BYTES), b""
