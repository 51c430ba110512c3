"""What a subscriber needs from the hub."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from dispatcher.hub.announcements import Announcements
from dispatcher.hub.encoder import Encoder
from dispatcher.hub.feed import Feed
from dispatcher.hub.lookups import Lookups
from dispatcher.hub.pace import Pace
from dispatcher.hub.parking import ParkedRead
from dispatcher.sansio.entries import Offered
from dispatcher.sansio.history import History
from dispatcher.sansio.records import TopicPartition

if TYPE_CHECKING:
    from dispatcher.hub.subscriber import Subscriber


class Source(Protocol):
    """The hub, as a subscriber sees it."""

    @property
    def encoder(self) -> Encoder:
        """Makes the bytes of records."""

    @property
    def announcements(self) -> Announcements:
        """Makes the bytes of the replica's state."""

    @property
    def lookups(self) -> Lookups:
        """Looks things up in Kafka."""

    @property
    def catch_up_pace(self) -> Pace:
        """Where subscribers that have much to catch up on wait between two writes."""

    @property
    def history(self) -> History:
        """Recent and undispatched batches."""

    def heartbeat_bytes(self, feed: Feed, *, at_head: bool) -> bytes:
        """A heartbeat for the feed; for a live subscriber with nothing queued it carries the position of the head."""

    def is_behind(self, feed: Feed) -> bool:
        """Whether something was published that has not been offered to every live subscriber of a feed."""

    def became_live(self, subscriber: "Subscriber", *, needed_kafka: bool) -> None:
        """Offer every new entry to the subscriber from now on.

        Args:
            subscriber: It has caught up.
            needed_kafka: Whether that took more than the history.
        """

    def left_live(self, subscriber: "Subscriber") -> None:
        """Stop offering entries to the subscriber: it reads the history."""

    @property
    def is_serving(self) -> bool:
        """Whether the replica's state lets it serve records, so that the start of a stream will soon be known."""

    def dispatched(self, feed: Feed, entries: Iterable[Offered], subscribers: int) -> None:
        """Note that this many sockets, all of one feed, accepted every byte of these entries."""

    def replayed(self, ranges: Iterable[tuple[TopicPartition, int, int]]) -> None:
        """Note that a socket accepted these replayed ranges: partition, first offset, end."""

    def parked_replayed(self, reads: Sequence[ParkedRead]) -> None:
        """Note that a socket accepted replayed records that were parked."""

    def await_head(self, subscriber: "Subscriber") -> None:
        """Let the subscriber look again when more has been read."""

    def stalled(self) -> None:
        """Count a subscriber whose socket took nothing for too long."""
