"""The settings of acknowledgements: how much may be outstanding, and how long to wait for the client."""

from pydantic import BaseModel, ByteSize, Field

from dispatcher.setting_values import MIB, Seconds, Size

MAX_DRAIN_SECONDS = 5
"""A rebalance waits for every member, so none may keep the others waiting for long."""


class AckSettings(BaseModel):
    """The settings of `ack=client`."""

    ack_timeout_seconds: Seconds = Field(
        default=30,
        gt=0,
        description="A stream with `ack=client` ends with 4408 if records wait for its acknowledgements and it has "
        "made no progress for this long. The client reconnects and gets them again.",
    )
    ack_window_bytes: Size = Field(
        default=ByteSize(1 * MIB),
        description="Bytes that may be sent but not acknowledged yet on one stream with `ack=client`; a client may ask "
        "for fewer. One record always fits.",
    )
    ack_drain_seconds: Seconds = Field(
        default=1,
        le=MAX_DRAIN_SECONDS,
        description='How long a revoked partition of a topic with `commit_on = "acked"` is held for acknowledgements '
        "of what was sent, and how long a stop waits for them. Less than `shutdown_seconds`.",
    )
