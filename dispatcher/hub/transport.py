"""The way to one subscriber's socket."""

from collections.abc import Sequence
from typing import Protocol


class Transport(Protocol):
    """The one outlet of a connection: it owns writes that its socket has taken only in part."""

    @property
    def name(self) -> str:
        """What it is, for ``/status``."""

    @property
    def ended(self) -> bool:
        """Whether it refuses all bytes: its last ones were sent, or it has broken."""

    def end_if_silent(self, now: float) -> None:
        """End it if its peer has vanished, or has shown no sign of life for too long, where signs are expected."""

    def try_send(self, data: bytes) -> int:
        """Hand bytes to the socket if it takes some at once; returns how many it took.

        Also 0 while another send is under way, when sending is no longer allowed, and when the answer is unknown:
        `send_all` waits and reports. Once the socket took a part, the transport keeps the rest and takes no more bytes
        until `send_all` has sent it.
        """

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Hand all bytes to the socket, in order, after what `try_send` has kept.

        Returns when the socket has accepted the last one; without buffers, when it has accepted what was kept.

        *Backpressure*: waits while the socket is full. *Cancellation*: not safe, a part may have been sent; the
        connection cannot be used afterwards.

        Raises:
            SubscriberGoneError: the connection is closed or broken.
            SubscriberStalledError: it took no byte for too long.
        """
