"""The interface to the dead-letter topic: what the hub hands over when a client refuses a record."""

from collections.abc import Callable
from typing import Protocol

from dispatcher.sansio.records import Record, TopicPartition


class DeadLetters(Protocol):
    """Takes records that clients have refused. *Thread*: Trio's; nothing awaits."""

    @property
    def has_room(self) -> bool:
        """Whether few enough letters are waiting to be stored to add another."""

    def takes(self, topic: str) -> bool:
        """Whether records of this topic have a dead-letter topic."""

    def remembers(self, partition: TopicPartition, offset: int) -> bool:
        """Whether a letter for the record with this offset was stored, so that another one takes no room."""

    def send(self, partition: TopicPartition, record: Record, reason: str, on_stored: Callable[[], None]) -> None:
        """Write a record to the dead-letter topic of its topic, unless it is already there, or on its way.

        Args:
            partition: Where the record was read.
            record: The record.
            reason: Why the client refused it, in the client's own words, which must not be trusted.
            on_stored: Called once, in Trio's thread, when the broker has stored the letter. The record is not committed
                before that, so this must not be called for a failed write, which is retried.
        """
