"""Bounds how often a client can make the process log: each kind of line has a budget.

Lines that are left out are counted, and the next line of that kind says how many there were.
"""

import logging
import threading
import time
from collections.abc import MutableMapping
from typing import Any

import structlog

from dispatcher.sansio.budgets import Budget

BURST = 5
PER_SECOND = 0.1
"""Lines of one kind: `BURST` at once, and after that one every ten seconds."""

CLIENT_EVENTS = frozenset(
    {
        "client broke the protocol",
        "connection failed",
        "handshake failed",
        "request failed",
        "request refused",
        "subscriber did not answer pings",
        "subscriber stalled",
        "subscriber vanished",
    }
)
"""Events that a client can cause, by their names. Everything that Hypercorn logs counts as one, too."""

FOREIGN = "hypercorn"


class ClientLines:
    """Lets lines pass within their budgets. *Thread*: any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._budgets: dict[str, Budget] = {}
        self._left_out: dict[str, int] = {}

    def left_out_before(self, kind: str) -> int | None:
        """The number of lines of a kind that were left out since its last one; None if this one is left out, too."""
        now = time.monotonic()
        with self._lock:
            budget = self._budgets.get(kind)
            if budget is None:
                budget = self._budgets[kind] = Budget(BURST, PER_SECOND, now)
            if budget.try_spend(1, now):
                return self._left_out.pop(kind, 0)
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return None

    def __call__(self, _logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Drop a line that exceeds its budget (a structlog processor).

        Raises:
            structlog.DropEvent: the line exceeds it.
        """
        kind = event.get("event")
        if kind in CLIENT_EVENTS:
            left_out = self.left_out_before(str(kind))
            if left_out is None:
                raise structlog.DropEvent
            if left_out:
                event["left_out"] = left_out
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line of another library passes (a filter of `logging`)."""
        return not record.name.startswith(FOREIGN) or self.left_out_before(FOREIGN) is not None
