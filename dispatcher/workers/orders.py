"""The orders that a worker gets at its start over its standard input, which then ties it to its parent.

The parent holds the other end as long as it lives. When the input ends, the parent is gone, whatever ended it, and the
worker stops as on SIGTERM. ``PR_SET_PDEATHSIG`` would also fire when only the thread that started the worker ends.
"""

import base64
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass

from dispatcher.settings import Settings

STOP = b"stop\n"
"""The parent is stopping this worker itself: the end of the input is then no reason to stop again."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What one worker needs to start.

    They contain secrets, which neither a command line nor an environment would keep.
    """

    name: str
    settings: Settings
    """The worker's own settings, see `plan.settings_of`."""
    sockets: tuple[int, ...]
    """Descriptors of its listening sockets."""
    channel: int
    """The descriptor of the worker's end of the channel."""
    is_embedded: bool = False
    """Whether the broker runs in the parent, which then looks up offsets by time."""

    def encode(self) -> bytes:
        """Encode as one line."""
        return base64.b64encode(pickle.dumps(self)) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "Orders":
        """Decode what `encode` wrote. The line comes from the process that started this one."""
        orders = pickle.loads(base64.b64decode(line))  # noqa: S301
        assert isinstance(orders, cls)  # noqa: S101 - the two are one version of one program
        return orders


def encode_settings(settings: Settings) -> str:
    """Encode changed settings for a message."""
    return base64.b64encode(pickle.dumps(settings)).decode()


def decode_settings(text: str) -> Settings:
    """Decode what `encode_settings` wrote."""
    settings = pickle.loads(base64.b64decode(text))  # noqa: S301 - as above
    assert isinstance(settings, Settings)  # noqa: S101
    return settings


def read_lines(descriptor: int) -> Iterator[bytes]:
    """Yield the lines of a pipe until its other end is closed; a last line without a line end is ignored.

    Does not use `sys.stdin`: a thread that waits in its buffer holds a lock that the interpreter needs at exit.
    """
    received = b""
    while chunk := os.read(descriptor, 65536):
        *lines, received = (received + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
