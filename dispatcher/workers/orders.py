"""What a worker is given at its start, over its standard input, which then ties it to its parent.

The parent holds the other end for as long as it lives. So when the input ends, the parent is gone, however it ended,
and the worker stops as on SIGTERM. ``PR_SET_PDEATHSIG`` would also fire when the thread that started it ends.
"""

import base64
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass

from dispatcher.settings import Settings

STOP = b"stop\n"
"""The parent stops this worker itself: what follows is no reason to stop again."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What one worker needs to start.

    Secrets are among the settings: neither the command line nor the environment would keep them.
    """

    name: str
    settings: Settings
    """Its own, see `plan.settings_of`."""
    sockets: tuple[int, ...]
    """Descriptors of its listening sockets."""
    channel: int
    """The descriptor of its end of the channel."""
    is_embedded: bool = False
    """Whether the broker runs in the parent, which knows the times of records."""

    def encode(self) -> bytes:
        """One line."""
        return base64.b64encode(pickle.dumps(self)) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "Orders":
        """The opposite. The line comes from the process that has started this one."""
        orders = pickle.loads(base64.b64decode(line))  # noqa: S301
        assert isinstance(orders, cls)  # noqa: S101 - the two are one version of one program
        return orders


def encode_settings(settings: Settings) -> str:
    """Settings that have changed, as a message holds them."""
    return base64.b64encode(pickle.dumps(settings)).decode()


def decode_settings(text: str) -> Settings:
    """The opposite."""
    settings = pickle.loads(base64.b64decode(text))  # noqa: S301 - as above
    assert isinstance(settings, Settings)  # noqa: S101
    return settings


def read_lines(descriptor: int) -> Iterator[bytes]:
    """The lines of a pipe, until its other end is closed; what has no end of line is none.

    Without `sys.stdin`: a thread that waits in its buffer holds a lock that the end of the interpreter needs.
    """
    received = b""
    while chunk := os.read(descriptor, 65536):
        *lines, received = (received + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
