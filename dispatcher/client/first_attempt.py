"""When a subscription began: from there a client without a position asks for records.

The first connection may be silent, as behind a proxy that holds a stream back, and yet records were dispatched to it.
"""

SINCE_MARGIN_MS = 60_000.0
"""How much earlier than the first attempt records are asked for while only the client's own clock is known."""

DATED_MARGIN_MS = 5000.0
"""The same once the server's clock is known: the clocks of brokers and producers may differ from it a little."""


class FirstAttempt:
    """The time of the first attempt, by the clock of the server as soon as that is known.

    Args:
        now_ms: When it is made, by the client's clock, in milliseconds since the epoch.
    """

    def __init__(self, now_ms: float) -> None:
        self._at_ms = now_ms
        self._ahead_ms = -SINCE_MARGIN_MS
        """What is added to a time of the client's clock."""

    def server_said(self, server_ms: float, now_ms: float) -> None:
        """A response had a ``Date``: ``server_ms``, when the client's clock said ``now_ms``."""
        self._ahead_ms = server_ms - now_ms - DATED_MARGIN_MS

    @property
    def since_ms(self) -> int:
        """For ``since``: the first attempt, and a margin earlier."""
        return max(0, round(self._at_ms + self._ahead_ms))
