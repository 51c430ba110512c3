"""What a subscription hands out, and what its transports hear for it."""

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

    Where the server gives one position for several records, the others have their own partition alone: store
    `Subscription.position`, not this.
    """
    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None
    """Milliseconds since the epoch, None when the record has none; some producers write another unit (`timestamps`)."""
    key: bytes | None
    value: bytes | None
    """None is a tombstone. Of a topic that the server decodes it is JSON, unless there is a `decode_error`."""
    headers: tuple[tuple[str, bytes | None], ...] = ()
    schema: Mapping[str, Any] | None = None
    """Of a topic that the server decodes: ``id``, ``type`` and ``name`` of the value's schema."""
    decode_error: str | None = None
    """Why the server could not decode the value."""

    @property
    def text(self) -> str:
        """The value as text; what is not UTF-8 shows as U+FFFD, a tombstone is empty."""
        return (self.value or b"").decode(errors="replace")

    def json(self) -> Any:
        """The value read as JSON; None for a tombstone.

        Raises:
            orjson.JSONDecodeError: it is not JSON.
        """
        return None if self.value is None else orjson.loads(self.value)


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets that will not come (docs/protocol.md, "SSE"); never silent, and never a reason to stop."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int
    """The last one that is missing."""
    reason: str
    """``expired``, ``truncated`` or ``recreated``: what each means is in the protocol."""


@dataclass(frozen=True, slots=True)
class State:
    """How the subscription does, in words that people can be shown.

    The server's states go by their own names, but for ``streaming``, which is ``live`` here. ``connecting`` is the
    first attempt; ``reconnecting`` is every later one and the wait before it; ``closed`` is for good.
    """

    name: StateName
    reason: str = ""
    """Why, where there is something to say."""
    replica: str | None = None
    """The replica that said so, None while there is none."""
    assigned: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Partitions of the replica by topic."""
    partitions: Mapping[str, int] = field(default_factory=dict)
    """How many partitions each topic has, where the replica says so; more than `assigned` are elsewhere."""
    scope: str | None = None
    """``replica`` or ``topic``, as the replica says."""
    resumable: bool = True
    """Whether each id names all partitions of the stream; where not, the client's own position does."""
    retry_in_seconds: float | None = None
    """How long until the next attempt, while waiting for it."""


# What follows stays inside: transports hear it and the subscription acts on it.


@dataclass(frozen=True, slots=True)
class Opened:
    """The server has agreed to stream."""


@dataclass(frozen=True, slots=True)
class Dated:
    """The server has answered, stream or not, and this is the time by its clock."""

    server_ms: float


@dataclass(frozen=True, slots=True)
class StateReceived:
    """A state as the server reports it."""

    state: State
    heartbeat_seconds: float | None
    """How often the server gives a sign of life at least, None when it does not say."""
    id: str = ""
    """The position at which the stream begins, with the first state alone; it names no record."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life, or the position of a first state or of a whole message: it moves the position alone."""

    id: str
    """A position to resume from, empty while there is none."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """The token of the stream is about to end; a WebSocket may send another one."""


@dataclass(frozen=True, slots=True)
class Nacked:
    """The server is done with a record that was refused."""

    id: str


@dataclass(frozen=True, slots=True)
class RetryTime:
    """How long the server wants clients to wait before they come back."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The connection is over; another one may do better."""

    reason: str
    after_seconds: float | None = None
    """When the server said so; None leaves it to the backoff."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirect."""

    location: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Coming back cannot help."""

    error: SubscriptionError


Outcome = Reconnect | Redirect | Fail
"""How a connection ended: the last thing that is heard of it."""

Received = Dated | Opened | Record | Gap | StateReceived | Heartbeat | RetryTime | Expiring | Nacked | Outcome


def partition_of(item: Record | Gap) -> TopicPartition:
    """Where it belongs."""
    return TopicPartition(item.topic, item.partition)
