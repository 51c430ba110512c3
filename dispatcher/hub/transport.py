"""The way to one subscriber's socket."""

from collections.abc import Sequence
from typing import Protocol


class Transport(Protocol):
    """The one outlet of a connection: it owns the bytes that its socket has taken in part only."""

    @property
    def name(self) -> str:
        """What it is, for ``/status``."""

    @property
    def ended(self) -> bool:
        """Whether it accepts nothing any more: its last bytes have gone out, or it has broken."""

    def end_if_silent(self, now: float) -> None:
        """End it if its peer has vanished, or has shown no sign of life for too long, where signs are expected."""

    def try_send(self, data: bytes) -> int:
        """Hand bytes to the socket if it takes some at once; returns how many it took.

        0 as well when something is being sent, when nothing may be sent any more, and when there is no way to know:
        `send_all` waits, and tells. Once a part was taken, the transport keeps the rest and takes nothing more until
        `send_all` has sent it.
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
