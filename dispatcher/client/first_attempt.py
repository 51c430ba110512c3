"""The time at which a subscription began: a client without a position asks for records from there.

The first connection may have been silent, for example behind a proxy that buffers, although records were dispatched to
it.
"""

SINCE_MARGIN_MS = 60_000.0
"""How much earlier than the first attempt the requested records begin while only the client's own clock is known."""

DATED_MARGIN_MS = 5000.0
"""The same once the server's clock is known: the clocks of brokers and producers may differ from it a little."""


class FirstAttempt:
    """The time of the first attempt, on the server's clock as soon as that is known.

    Args:
        now_ms: Its time on the client's clock, in milliseconds since the epoch.
    """

    def __init__(self, now_ms: float) -> None:
        self._at_ms = now_ms
        self._ahead_ms = -SINCE_MARGIN_MS
        """What is added to a time on the client's clock."""

    def server_said(self, server_ms: float, now_ms: float) -> None:
        """A response had the ``Date`` ``server_ms`` when the client's clock showed ``now_ms``."""
        self._ahead_ms = server_ms - now_ms - DATED_MARGIN_MS

    @property
    def since_ms(self) -> int:
        """The value for ``since``: the first attempt, less a margin."""
        return max(0, round(self._at_ms + self._ahead_ms))
