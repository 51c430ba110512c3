"""The Python client: `subscribe` to a dispatcher with Trio, over SSE or WebSocket, and stay subscribed."""

from dispatcher.client.errors import (
    NotAllowedError,
    RefusedError,
    SubscriptionError,
    UnreachableError,
    WrongAddressError,
    WrongServerError,
)
from dispatcher.client.events import Gap, Record, State
from dispatcher.client.subscribing import subscribe
from dispatcher.client.subscription import Events, Subscription

__all__ = [
    "Events",
    "Gap",
    "NotAllowedError",
    "Record",
    "RefusedError",
    "State",
    "Subscription",
    "SubscriptionError",
    "UnreachableError",
    "WrongAddressError",
    "WrongServerError",
    "subscribe",
]
