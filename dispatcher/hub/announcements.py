"""What the replica announces about itself: one announcement for each version of its state.

Announcements in which partitions left are chained. A subscriber keeps the last one that it was sent, and continues from
there when its turn comes, so a revoke costs nothing per subscriber. An announcement that all subscribers have passed is
freed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from dispatcher.hub.feed import Feed
from dispatcher.hub.goodbyes import RETRY_MS
from dispatcher.hub.statistics import AnnouncementStatistics, SubscriberState
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.id_lengths import ids_fit
from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition

FEATURES = (
    "scope",
    "observe",
    "since-now",
    "since-duration",
    "last",
    "filters",
    "filters-whole-topic",
    "ack",
    "decode",
)
"""The features that requests to this replica may use: a client must not use one that the replica does not list."""


_SERVED_BY_FOLLOWER = frozenset({ReplicaState.WAITING, ReplicaState.STANDBY})
"""States in which a stream of the whole topic still gets everything."""


class Announcement:
    """The state at one version, encoded for a feed when first asked for.

    Args:
        version: Rises with each change.
        state: What the replica is doing.
        partitions: The assigned partitions, sorted.
        replica: The replica's name.
        heartbeat_seconds: The interval between two heartbeats of a stream.
        followed: The followed partitions, sorted.
        topics: The number of partitions of each topic, where it is known.
        degraded: Why topics are degraded, by topic.
    """

    __slots__ = (
        "_degraded",
        "_encoded",
        "_followed",
        "_heartbeat_seconds",
        "_partitions",
        "_replica",
        "_state",
        "_topics",
        "next_departure",
        "version",
    )

    def __init__(
        self,
        version: int,
        state: ReplicaState,
        partitions: Sequence[TopicPartition],
        replica: str,
        heartbeat_seconds: float,
        *,
        followed: Sequence[TopicPartition] = (),
        topics: Mapping[str, int] | None = None,
        degraded: Mapping[str, str] | None = None,
    ) -> None:
        self.version = version
        self._degraded = degraded or {}
        self._followed = followed
        self._topics = topics or {}
        self._state = state
        self._partitions = partitions
        self._replica = replica
        self._heartbeat_seconds = heartbeat_seconds
        self._encoded: dict[tuple[Feed, bool], tuple[bytes, bytes]] = {}
        self.next_departure: Announcement | None = None
        """The next announcement in which partitions had left."""

    def data(self, feed: Feed, *, catching_up: bool) -> bytes:
        """The bytes for a feed's subscribers, live or catching up: all of them share one object."""
        return self._encode(feed, catching_up)[1]

    def unframed(self, feed: Feed, *, catching_up: bool) -> bytes:
        """The same without its chunk or frame, for a subscriber whose first state also says where its stream begins."""
        return self._encode(feed, catching_up)[0]

    @property
    def encodings(self) -> int:
        """How many encodings are kept."""
        return len(self._encoded)

    def _encode(self, feed: Feed, catching_up: bool) -> tuple[bytes, bytes]:
        feed = feed.shared
        encoded = self._encoded.get((feed, catching_up))
        if encoded is None:
            data = self.content(feed, catching_up=catching_up)
            encoded = self._encoded[feed, catching_up] = (data, feed.wire.frame(data))
        return encoded

    def content(
        self,
        feed: Feed,
        *,
        catching_up: bool,
        ignored: Sequence[str] = (),
        repeats: Sequence[tuple[TopicPartition, Range]] = (),
    ) -> bytes:
        """The state for a feed without its chunk or frame, encoded now.

        Args:
            feed: What the subscriber gets.
            catching_up: Whether it is catching up.
            ignored: Unknown parameters of its request.
            repeats: What it is sent again although its position covers it.
        """
        assigned = _by_topic(self._partitions, feed)
        followed = _by_topic(self._followed, feed) if feed.whole else {}
        state: str = self._state
        if self._state is ReplicaState.STREAMING or (followed and self._state in _SERVED_BY_FOLLOWER):
            state = ReplicaState.STREAMING
            if not assigned and not followed:
                state = ReplicaState.WAITING
            elif catching_up:
                state = SubscriberState.CATCHING_UP
        more: dict[str, Any] = {
            "scope": "topic" if feed.whole else "replica",
            "followed": followed,
            "partitions": {topic: count for topic, count in sorted(self._topics.items()) if topic in feed.topics},
            "features": FEATURES,
        }
        if not ids_fit(
            {topic: range(count) for topic, count in more["partitions"].items()} if feed.whole else assigned
        ):
            more["resumable"] = False
        if degraded := {topic: reason for topic, reason in self._degraded.items() if topic in feed.topics}:
            more["degraded"] = degraded
        if ignored:
            more["ignored"] = list(ignored)
        if repeats:
            more["repeats"] = [
                {"topic": topic, "partition": partition, "from": again.first, "to": again.end - 1}
                for (topic, partition), again in repeats
            ]
        return feed.wire.encode_state(state, self._replica, assigned, self._heartbeat_seconds, more)

    def forget(self, feed: Feed) -> None:
        """Drop the encoded bytes of a feed that has lost its last subscriber."""
        for catching_up in (False, True):
            self._encoded.pop((feed, catching_up), None)


def _by_topic(partitions: Sequence[TopicPartition], feed: Feed) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for topic, partition in partitions:
        if topic in feed.topics:
            found.setdefault(topic, []).append(partition)
    return found


class Announcements:
    """The current state, and the last one in which partitions had left.

    Args:
        state: The first state of the replica, without partitions.
        replica: The replica's name.
        heartbeat_seconds: The interval between two heartbeats of a stream.
    """

    def __init__(self, state: ReplicaState, replica: str, heartbeat_seconds: float) -> None:
        self.version = 1
        """Rises with each change of the state that subscribers are sent."""
        self._replica = replica
        self._heartbeat_seconds = heartbeat_seconds
        self._present = self.last_departure = Announcement(1, state, (), replica, heartbeat_seconds)

    def change(
        self,
        state: ReplicaState,
        partitions: Sequence[TopicPartition],
        followed: Sequence[TopicPartition] = (),
        topics: Mapping[str, int] | None = None,
        degraded: Mapping[str, str] | None = None,
    ) -> None:
        """Announce another state, other partitions (sorted), or another health of topics: see `Announcement`."""
        self.version += 1
        self._present = Announcement(
            self.version,
            state,
            partitions,
            self._replica,
            self._heartbeat_seconds,
            followed=followed,
            topics=topics,
            degraded=degraded,
        )

    def partitions_left(self) -> None:
        """Chain the present state: partitions have left, so it is sent to every subscriber."""
        self.last_departure.next_departure = self._present
        self.last_departure = self._present

    def data(self, feed: Feed, *, catching_up: bool) -> bytes:
        """The present state, encoded for a feed."""
        return self._present.data(feed, catching_up=catching_up)

    def data_with(self, feed: Feed, repeats: Sequence[tuple[TopicPartition, Range]], *, catching_up: bool) -> bytes:
        """The same, with what one stream is sent again although its position covers it."""
        return feed.wire.frame(self._present.content(feed, catching_up=catching_up, repeats=repeats))

    def first_data(
        self,
        feed: Feed,
        position: str,
        *,
        catching_up: bool,
        ignored: Sequence[str] = (),
        repeats: Sequence[tuple[TopicPartition, Range]] = (),
    ) -> bytes:
        """The same, with the client's filter, and the position at which this stream begins.

        A client that is cut off before its first record resumes at that position.
        """
        if ignored or repeats:
            content = self._present.content(feed, catching_up=catching_up, ignored=ignored, repeats=repeats)
        else:
            content = self._present.unframed(feed, catching_up=catching_up)
        echo = b"" if feed.filter is None else orjson.dumps(feed.filter.dialect())
        return feed.wire.first_state(content, RETRY_MS, position, echo)

    def forget(self, feed: Feed) -> None:
        """Drop the encoded bytes of a feed that has lost its last subscriber."""
        self._present.forget(feed)
        self.last_departure.forget(feed)

    def statistics(self) -> AnnouncementStatistics:
        """A snapshot."""
        return AnnouncementStatistics(self.version, self._present.encodings)


class SentState:
    """Which of the replica's states one subscriber has been sent.

    Args:
        announcements: The replica's announcements.
        ignored: Unknown parameters of its request, which its first state names; they are not kept after that.
    """

    __slots__ = ("_announcements", "_departure", "_ignored", "_sent")

    def __init__(self, announcements: Announcements, ignored: Sequence[str] = ()) -> None:
        self._announcements = announcements
        self._ignored = ignored
        self._sent: tuple[int, bool] | None = None
        """The version, and whether it said that the subscriber was catching up."""
        self._departure = announcements.last_departure
        """The last state that it was sent in which partitions had left."""

    @property
    def is_first(self) -> bool:
        """Whether no state was sent yet."""
        return self._sent is None

    @property
    def is_current(self) -> bool:
        """Whether it was sent the replica's present state."""
        return self._sent is not None and self._sent[0] == self._announcements.version

    def news(
        self,
        feed: Feed,
        position: str,
        *,
        catching_up: bool,
        repeats: Sequence[tuple[TopicPartition, Range]] = (),
    ) -> Iterator[bytes]:
        """The present state if it was not sent yet, preceded by every unsent state in which partitions had left.

        The latter are sent even if newer states followed before the socket took anything.

        Args:
            feed: What the subscriber gets.
            position: Where the stream begins; its first state carries it.
            catching_up: Whether the subscriber is catching up.
            repeats: What it is sent again although its position covers it: unless empty, the state is sent once more.
        """
        announcements = self._announcements
        present = (announcements.version, catching_up)
        if self._sent is None:
            self._departure = announcements.last_departure
            ignored, self._ignored = self._ignored, ()
            yield announcements.first_data(feed, position, catching_up=catching_up, ignored=ignored, repeats=repeats)
        else:
            while (departure := self._departure.next_departure) is not None:
                self._departure = departure
                if departure.version != announcements.version:
                    yield departure.data(feed, catching_up=True)
            if repeats:
                yield announcements.data_with(feed, repeats, catching_up=catching_up)
            elif present != self._sent:
                yield announcements.data(feed, catching_up=catching_up)
        self._sent = present

    def mark(self) -> tuple[tuple[int, bool] | None, Announcement, Sequence[str]]:
        """The argument for `reset`, in case the socket takes none of the news."""
        return self._sent, self._departure, self._ignored

    def reset(self, mark: tuple[tuple[int, bool] | None, Announcement, Sequence[str]]) -> None:
        """Note that nothing was sent after all."""
        self._sent, self._departure, self._ignored = mark
