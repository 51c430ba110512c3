"""Where a partition begins to be read, and what its offsets have to do with the log that is there now.

Rules of this module:

* The group's committed offset decides, if it was committed for the log that is there now. Each commit carries a `Stamp`
  as its metadata, so that a topic that was deleted and created again is noticed by its id, not by its offsets.
* Without a committed offset, ``auto.offset.reset`` decides only for partitions that were there when the group began
  with their topic. A partition that was added later begins at its start: everything in it is new to the group.
* librdkafka never decides: its own ``auto.offset.reset`` would skip records in silence (KAFKA-12478).
"""

import re
from collections.abc import Iterable
from enum import Enum, StrEnum
from typing import NamedTuple, Self

from dispatcher.sansio.ranges import Bounds, Gap
from dispatcher.sansio.records import TopicPartition


class Policy(StrEnum):
    """``auto.offset.reset``: where a topic begins of which the group has committed nothing."""

    EARLIEST = "earliest"
    LATEST = "latest"
    ERROR = "error"

    @classmethod
    def of(cls, value: object) -> Self:
        """The policy by any of librdkafka's names for it."""
        return cls(_POLICIES.get(str(value), "earliest"))


_POLICIES = {"largest": "latest", "latest": "latest", "end": "latest", "error": "error"}
"""Other names than `earliest` has; librdkafka has refused what is none of them."""


_MARK = "dispatcher"
"""The first word of a stamp: other tools write metadata, too, and theirs says nothing."""

_TOPIC_ID = re.compile(r"[A-Za-z0-9+/_-]{22}")
"""A UUID in base64, as librdkafka spells it (`+` and `/`) or Kafka (`-` and `_`)."""


class Stamp(NamedTuple):
    """What a commit's metadata says of the topic.

    It is ours if it begins with our mark, and trusted only on the cluster that it names: tools that copy a group's
    offsets to another cluster copy the metadata as well (MirrorMaker's ``sync.group.offsets``), and a topic has another
    id there.
    """

    topic_id: str | None = None
    """Kafka's id of the topic, None when it is not known."""
    partitions: int | None = None
    """How many partitions the topic had when the group began with it, None when it is not known."""
    cluster: str | None = None
    """Kafka's id of the cluster, None when it is not known."""

    def format(self) -> str:
        """The stamp as metadata, empty when nothing is known."""
        known = (("topic-id", self.topic_id), ("began-with", self.partitions), ("cluster", self.cluster))
        fields = [f"{name}={value}" for name, value in known if value is not None]
        return ";".join([_MARK, *fields]) if fields else ""

    @classmethod
    def parse(cls, metadata: str | None) -> Self:
        """The stamp in some metadata, which is empty when somebody else wrote it."""
        mark, *rest = (metadata or "").split(";")
        if mark != _MARK:
            return cls()
        fields = dict(field.partition("=")[::2] for field in rest)
        topic_id, partitions = fields.get("topic-id", ""), fields.get("began-with", "")
        return cls(
            topic_id if _TOPIC_ID.fullmatch(topic_id) else None,
            int(partitions) if partitions.isdecimal() and len(partitions) < 10 else None,
            fields.get("cluster") or None,
        )

    def on(self, cluster: str | None) -> Self:
        """The stamp as far as it counts on a cluster: one of another cluster says nothing."""
        is_foreign = self.cluster is not None and cluster is not None and self.cluster != cluster
        return type(self)() if is_foreign else self


class Committed(NamedTuple):
    """The group's committed offset of one partition."""

    offset: int
    leader_epoch: int | None
    stamp: Stamp


class Start(NamedTuple):
    """Where reading begins; a new assignment epoch begins with it."""

    partition: TopicPartition
    offset: int
    leader_epoch: int | None = None
    """Of the record before the offset (KIP-320), None when unknown."""
    committed: bool = False
    """Whether the group has committed this offset."""
    stamp: Stamp = Stamp()
    """What commits carry."""
    recreated: bool = False
    """The log is another one than the group has read."""
    replaces: int | None = None
    """The next offset in the old log, None when it is not known."""
    has_old_offset: bool = False
    """The group still has an offset in the old log, which says so. It stays until something of the new one was
    dispatched: until then the next owner has to notice, too."""
    is_unstamped: bool = False
    """The group has committed this offset without the topic's id. It is committed once more, with the id: else nobody
    notices that the topic was created again once its new log has grown past the offset."""


class Again(NamedTuple):
    """Where reading continues in the same log after librdkafka gave up an offset."""

    partition: TopicPartition
    offset: int
    gap: Gap | None = None
    """Records that retention has deleted before they were read."""


class Undecided(Enum):
    """Why it is not known where a partition begins."""

    NEEDS_BOUNDS = "needs-bounds"
    """Ask for the bounds of its log."""
    REFUSED = "refused"
    """The group has no offset, and ``auto.offset.reset`` is ``error``."""


def other_log(before: Stamp, now: Stamp) -> bool:
    """Whether both topic ids are known and differ."""
    return before.topic_id is not None and now.topic_id is not None and before.topic_id != now.topic_id


def begin(
    partition: TopicPartition,
    committed: Committed | None,
    *,
    topic: Stamp,
    others: Iterable[Stamp],
    policy: Policy,
    bounds: Bounds | None,
) -> Start | Undecided:
    """Where a partition begins that was assigned.

    Args:
        partition: The partition.
        committed: The group's offset, None when it has none.
        topic: The current topic: its id, and how many partitions it has.
        others: Stamps of the group's commits for other partitions of the topic, and what this process knows of it.
        policy: ``auto.offset.reset``.
        bounds: Where the log begins and ends now, None when that was not asked for yet.
    """
    others = list(others)
    counts = [other.partitions for other in others if other.partitions is not None and not other_log(other, topic)]
    if committed is not None and not other_log(committed.stamp, topic):
        if committed.stamp.partitions is not None:
            counts.append(committed.stamp.partitions)
        stamp = Stamp(topic.topic_id or committed.stamp.topic_id, min(counts, default=topic.partitions), topic.cluster)
        return Start(
            partition,
            committed.offset,
            committed.leader_epoch,
            committed=True,
            stamp=stamp,
            is_unstamped=committed.stamp.topic_id is None and stamp.topic_id is not None,
        )
    if committed is not None or any(other_log(other, topic) for other in others):
        if bounds is None:
            return Undecided.NEEDS_BOUNDS
        replaces = None if committed is None else committed.offset
        return Start(
            partition,
            bounds.first,
            stamp=topic,
            recreated=True,
            replaces=replaces,
            has_old_offset=committed is not None,
        )
    is_new = bool(others) and (not counts or partition.partition >= min(counts))
    if policy is Policy.ERROR and not is_new:
        return Undecided.REFUSED
    if bounds is None:
        return Undecided.NEEDS_BOUNDS
    offset = bounds.end if policy is Policy.LATEST and not is_new else bounds.first
    return Start(partition, offset, stamp=Stamp(topic.topic_id, min(counts, default=topic.partitions), topic.cluster))


def go_on(
    partition: TopicPartition,
    next_offset: int,
    bounds: Bounds,
    *,
    before: Stamp,
    topic: Stamp,
    truncated: bool,
    committed: Committed | None,
) -> Start | Again:
    """Where reading continues if the broker has no record at an offset, or the topic's id has changed.

    Args:
        partition: The partition.
        next_offset: The offset that was to be read next.
        bounds: Where the log begins and ends now.
        before: What was known of the topic up to now.
        topic: The current topic.
        truncated: librdkafka has found that the log was cut before the offset, and may have grown since (KIP-320).
        committed: The group's offset, None when it has none: Kafka forgets it with a topic that is deleted.
    """
    is_other = other_log(before, topic)
    if is_other or next_offset > bounds.end or truncated:
        return Start(
            partition,
            bounds.first,
            stamp=topic if is_other else before,
            recreated=True,
            replaces=next_offset,
            # Of an offset that does not say which log it is of the next owner would notice nothing.
            has_old_offset=committed is not None and other_log(committed.stamp, topic),
        )
    if next_offset < bounds.first:
        return Again(partition, bounds.first, Gap(partition, next_offset, bounds.first - 1, "expired"))
    return Again(partition, next_offset)
