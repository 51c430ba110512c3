"""Undelivered records: how long they are safe, and what happens to them after their deadline.

*Thread*: Trio's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from dispatcher.deadlines import Deadlines, DeadlineStatistics
from dispatcher.expiry_watch import ExpiryStatistics, ExpiryWatch
from dispatcher.hub.hub import Hub
from dispatcher.kafka.dead_letters import DeadLetters
from dispatcher.kafka.properties import admin_properties, replay_properties
from dispatcher.kafka.replay import Replays
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.records import TopicPartition
from dispatcher.settings import Settings


@dataclass(frozen=True, slots=True)
class UndeliveredStatistics:
    """A snapshot."""

    expiry: ExpiryStatistics
    deadlines: DeadlineStatistics


class Undelivered:
    """Joins the alarms, the deadlines and the dead letters.

    Args:
        settings: The dispatcher's settings.
        replays: Reads records that are only in Kafka.
        hub: Has the waiting records.
        offsets: Knows the assignment.
        paused: Partitions that are paused.
        held: Partitions whose records wait for a schema.
    """

    def __init__(
        self,
        settings: Settings,
        replays: Replays,
        hub: Hub,
        offsets: OffsetTracker,
        *,
        paused: Callable[[], frozenset[TopicPartition]],
        held: Callable[[], frozenset[TopicPartition]],
    ) -> None:
        self.letters = DeadLetters(
            admin_properties(replay_properties(settings)),
            replays.leaders,
            template=settings.dead_letter_topic,
            group=settings.group_id,
            replica=settings.client_id,
        )
        """Takes records that cannot be delivered, whatever the reason."""
        hub.acking.dead_letters = self.letters
        self._expiry = ExpiryWatch(settings, replays, hub, offsets, paused=paused, held=held)
        self._deadlines = Deadlines(settings, hub, offsets, self._expiry, self.letters)

    async def run(self) -> None:
        """Watch and write until cancelled. *Cancellation*: as `DeadLetters.run`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._expiry.run)
            nursery.start_soon(self._deadlines.run)
            nursery.start_soon(self.letters.run)

    def stop(self) -> None:
        """Put no further records aside."""
        self._deadlines.stop()

    def is_wanted(self, partition: TopicPartition) -> bool:
        """Whether a paused partition with nothing in memory has overdue records in Kafka."""
        return self._deadlines.is_wanted(partition)

    def has_letters_of(self, partitions: Sequence[TopicPartition]) -> bool:
        """Whether letters of these partitions are not acknowledged."""
        return self._deadlines.has_letters_of(partitions)

    def forget(self, partitions: Sequence[TopicPartition]) -> None:
        """Partitions have left."""
        self._deadlines.forget(partitions)

    def statistics(self) -> UndeliveredStatistics:
        """A snapshot."""
        return UndeliveredStatistics(self._expiry.statistics(), self._deadlines.statistics())
