"""The way to one subscriber's socket."""

from collections.abc import Sequence
from typing import Protocol


class Transport(Protocol):
    """The only outlet of a connection: it holds the rest of a write that its socket took in part."""

    @property
    def name(self) -> str:
        """Its kind, for ``/status``."""

    @property
    def ended(self) -> bool:
        """Whether it refuses all bytes, because its last ones were sent, or because it is broken."""

    def end_if_silent(self, now: float) -> None:
        """End it if its peer has vanished or, where signs of life are expected, has shown none for too long."""

    def try_send(self, data: bytes) -> int:
        """Hand bytes to the socket if it takes any at once; returns how many it took.

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
            SubscriberStalledError: it took no bytes for too long.
        """
