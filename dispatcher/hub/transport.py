"""The way to one subscriber's socket."""

from collections.abc import Sequence
from typing import Protocol


class Transport(Protocol):
    """The way to one subscriber's socket."""

    @property
    def name(self) -> str:
        """What it is, for ``/status``."""

    def end_if_silent(self, now: float) -> None:
        """End it if its peer has shown no sign of life for too long, where signs of life are expected."""

    def try_send(self, data: bytes) -> int:
        """Hand bytes to the socket if it takes some at once; returns how many it took.

        0 as well when something is being sent, when nothing may be sent any more, and when there is no way to know:
        `send_all` waits, and tells. What is left of bytes that it took in part has to be sent next.
        """

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Hand all bytes to the socket, in order; returns when the socket has accepted the last one.

        *Backpressure*: waits while the socket is full. *Cancellation*: not safe, a part may have been sent; the
        connection cannot be used afterwards.

        Raises:
            SubscriberGoneError: the connection is closed or broken.
            SubscriberStalledError: it took no byte for too long.
        """
