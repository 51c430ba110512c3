"""The events of a subscription, and those that its transports receive for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from dispatcher.client.errors import SubscriptionError
from dispatcher.sansio.records import TopicPartition

StateName = Literal[
    "connecting", "live", "catching-up", "rebalancing", "waiting", "standby", "broker-down", "reconnecting", "closed"
]


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record."""

    id: str
    """The event id: the position of the whole stream as of this record, its own partition first.

    If the server sends one position for several records, the others name only their own partition: store
    `Subscription.position`, not this.
    """
    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None
    """Milliseconds since the epoch; None if the record has no timestamp. Some producers use another unit
    (`timestamps`)."""
    key: bytes | None
    value: bytes | None
    """None is a tombstone. If the server decodes the topic, it is JSON, unless there is a `decode_error`."""
    headers: tuple[tuple[str, bytes | None], ...] = ()
    schema: Mapping[str, Any] | None = None
    """``id``, ``type`` and ``name`` of the value's schema, if the server decodes the topic."""
    decode_error: str | None = None
    """Why the server could not decode the value."""

    @property
    def text(self) -> str:
        """The value as text; bytes that are not UTF-8 become U+FFFD, and a tombstone is empty."""
        return (self.value or b"").decode(errors="replace")

    def json(self) -> Any:
        """The value parsed as JSON; None for a tombstone.

        Raises:
            orjson.JSONDecodeError: it is not JSON.
        """
        return None if self.value is None else orjson.loads(self.value)


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets that will not be sent (docs/protocol.md, "SSE"). A subscription reports each gap, and continues."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int
    """The last missing offset."""
    reason: str
    """``expired``, ``truncated`` or ``recreated``, as the protocol defines them."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """Offsets that the position names and that are sent again, because no dispatch of them is committed.

    This happens after a crash, or when an operator has reset the group's offsets. The subscription drops such records.
    """

    topic: str
    partition: int
    from_offset: int
    to_offset: int
    """The last of them."""


@dataclass(frozen=True, slots=True)
class State:
    """The state of the subscription, in words that can be shown to people.

    The server's states have their own names, except ``streaming``, which is ``live`` here. ``connecting`` is the
    first attempt; ``reconnecting`` is every later one and the wait before it; ``closed`` is final.
    """

    name: StateName
    reason: str = ""
    """The reason, if there is one."""
    replica: str | None = None
    """The replica that reported it; None while there is none."""
    assigned: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The replica's partitions, by topic."""
    partitions: Mapping[str, int] = field(default_factory=dict)
    """The number of partitions of each topic, if the replica reports it; those not in `assigned` are on other
    replicas."""
    scope: str | None = None
    """``replica`` or ``topic``, as the replica reports."""
    resumable: bool = True
    """Whether each id names all partitions of the stream; if not, the client's own position does."""
    repeats: tuple[Repeated, ...] = ()
    """What is sent again, in the first state that reports it."""
    retry_in_seconds: float | None = None
    """The time until the next attempt, while waiting for it."""


# The following are internal: transports receive them, and the subscription acts on them.


@dataclass(frozen=True, slots=True)
class Opened:
    """The server has begun a stream."""


@dataclass(frozen=True, slots=True)
class Dated:
    """The server has answered, with a stream or not; this is the time on its clock."""

    server_ms: float


@dataclass(frozen=True, slots=True)
class StateReceived:
    """A state as the server reports it."""

    state: State
    heartbeat_seconds: float | None
    """Maximum time between two signs of life of the server; None if it does not say."""
    id: str = ""
    """The position at which the stream begins, in the first state only; it names no record."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life, or the position of a first state or of a whole message: it only moves the position."""

    id: str
    """A position to resume from; empty while there is none."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """The token of the stream is about to expire; a WebSocket may send another one."""


@dataclass(frozen=True, slots=True)
class Nacked:
    """The server's answer to the refusal of a record."""

    id: str
    is_stored: bool = True
    """Whether its dead letter is stored; if not, the record is left to other clients."""


@dataclass(frozen=True, slots=True)
class RetryTime:
    """How long the server wants clients to wait before they reconnect."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The connection is over; another one may succeed."""

    reason: str
    after_seconds: float | None = None
    """The wait that the server asked for; None leaves it to the backoff."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirect."""

    location: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Reconnecting cannot help."""

    error: SubscriptionError


Outcome = Reconnect | Redirect | Fail
"""How a connection ended: always its last item."""

Received = Dated | Opened | Record | Gap | StateReceived | Heartbeat | RetryTime | Expiring | Nacked | Outcome


def partition_of(item: Record | Gap) -> TopicPartition:
    """The partition of a record or gap."""
    return TopicPartition(item.topic, item.partition)
