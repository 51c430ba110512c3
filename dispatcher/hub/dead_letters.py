"""The door to the dead-letter topic: what the hub hands over when a client refuses a record."""

from collections.abc import Callable
from typing import Protocol

from dispatcher.sansio.records import Record, TopicPartition


class DeadLetters(Protocol):
    """Takes records that clients refused. *Thread*: Trio's; nothing awaits."""

    @property
    def has_room(self) -> bool:
        """Whether few enough letters wait to be stored."""

    def takes(self, topic: str) -> bool:
        """Whether there is a dead-letter topic for records of this one."""

    def remembers(self, partition: TopicPartition, offset: int) -> bool:
        """Whether a letter of the record with this offset was stored, so that another one takes no room."""

    def send(self, partition: TopicPartition, record: Record, reason: str, on_stored: Callable[[], None]) -> None:
        """Write a record to the dead-letter topic of its topic, unless it is there or on its way there.

        Args:
            partition: Where the record was read.
            record: The record.
            reason: Why the client refused it, in the client's words: nothing in it is to be trusted.
            on_stored: To be called once, in Trio's thread, when the broker has stored it. Until then the record is not
                committed, so it must not be called when the write has failed: that is tried again.
        """
