"""Where reading a partition begins, and whether its offsets belong to the log that exists now.

Rules of this module:

* The group's committed offset decides, if it was committed for the current log. Each commit carries a `Stamp` as its
  metadata, so that the recreation of a topic is noticed by the topic's id, not by its offsets.
* Without a committed offset, ``auto.offset.reset`` decides, but only for partitions that existed when the group began
  with their topic. A partition that was added later is read from its start: everything in it is new to the group.
* librdkafka never decides: its own ``auto.offset.reset`` would skip records silently (KAFKA-12478).
"""

import re
from collections.abc import Iterable
from enum import Enum, StrEnum
from typing import NamedTuple, Self

from dispatcher.sansio.ranges import Bounds, Gap
from dispatcher.sansio.records import TopicPartition


class Policy(StrEnum):
    """``auto.offset.reset``: where to begin a topic of which the group has committed nothing."""

    EARLIEST = "earliest"
    LATEST = "latest"
    ERROR = "error"

    @classmethod
    def of(cls, value: object) -> Self:
        """Return the policy for any of librdkafka's names."""
        return cls(_POLICIES.get(str(value), "earliest"))


_POLICIES = {"largest": "latest", "latest": "latest", "end": "latest", "error": "error"}
"""All names of policies other than `earliest`; librdkafka has refused anything else."""


_MARK = "dispatcher"
"""The first word of a stamp. Other tools write metadata, too; theirs is ignored."""

_TOPIC_ID = re.compile(r"[A-Za-z0-9+/_-]{22}")
"""A UUID in base64, spelled as by librdkafka (`+` and `/`) or by Kafka (`-` and `_`)."""


class Stamp(NamedTuple):
    """What a commit's metadata says about the topic.

    A stamp begins with our mark, and counts only on the cluster that it names: tools that copy a group's offsets to
    another cluster also copy the metadata (MirrorMaker's ``sync.group.offsets``), and there the topic has another id.
    """

    topic_id: str | None = None
    """Kafka's id of the topic; None if unknown."""
    partitions: int | None = None
    """How many partitions the topic had when the group began with it: 0 if it was recreated since, because all of the
    new ones are read from their start. None if unknown."""
    cluster: str | None = None
    """Kafka's id of the cluster; None if unknown."""

    def format(self) -> str:
        """Format the stamp as metadata; empty if nothing is known."""
        known = (("topic-id", self.topic_id), ("began-with", self.partitions), ("cluster", self.cluster))
        fields = [f"{name}={value}" for name, value in known if value is not None]
        return ";".join([_MARK, *fields]) if fields else ""

    @classmethod
    def parse(cls, metadata: str | None) -> Self:
        """Parse metadata; the stamp is empty if something else wrote the metadata."""
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
        """Return the stamp as it counts on a cluster: the stamp of another cluster says nothing."""
        is_foreign = self.cluster is not None and cluster is not None and self.cluster != cluster
        return type(self)() if is_foreign else self


class Committed(NamedTuple):
    """The group's committed offset of one partition."""

    offset: int
    leader_epoch: int | None
    stamp: Stamp


class Start(NamedTuple):
    """Where reading begins. A new epoch begins with it."""

    partition: TopicPartition
    offset: int
    leader_epoch: int | None = None
    """The leader epoch of the record before the offset (KIP-320); None if unknown."""
    committed: bool = False
    """Whether the group has committed this offset."""
    stamp: Stamp = Stamp()
    """The metadata of commits."""
    recreated: bool = False
    """The log is not the one that the group has read: the topic was recreated."""
    replaces: int | None = None
    """The next offset in the old log; None if unknown."""
    has_old_offset: bool = False
    """The group still has an offset in the old log, marked as such. It stays until a record of the new log has been
    dispatched: until then, the next owner has to notice the recreation, too."""
    is_unstamped: bool = False
    """The group's offset was committed without the topic's id. It is committed again with the id; otherwise nobody
    would notice a recreation once the new log has grown past the offset."""


class Again(NamedTuple):
    """Where reading continues in the same log after librdkafka has given up an offset."""

    partition: TopicPartition
    offset: int
    gap: Gap | None = None
    """Records that retention deleted before they were read."""


class Undecided(Enum):
    """Why it is unknown where a partition begins."""

    NEEDS_BOUNDS = "needs-bounds"
    """The bounds of the partition's log have to be looked up."""
    NEEDS_TOPIC = "needs-topic"
    """The topic's id is not known now, and was before: the topic may have been recreated."""
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
    """Decide where an assigned partition begins.

    Args:
        partition: The partition.
        committed: The group's offset; None if it has none.
        topic: The current topic: its id, and how many partitions it has.
        others: Stamps of the group's commits for other partitions of the topic, and what this process knows about it.
        policy: ``auto.offset.reset``.
        bounds: The bounds of the log; None if they have not been looked up yet.
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
    is_recreated = committed is not None or any(other_log(other, topic) for other in others)
    is_new = bool(others) and (not counts or partition.partition >= min(counts))
    if not is_recreated:
        if topic.topic_id is None and any(other.topic_id is not None for other in others):
            return Undecided.NEEDS_TOPIC
        if policy is Policy.ERROR and not is_new:
            return Undecided.REFUSED
    if bounds is None:
        return Undecided.NEEDS_BOUNDS
    if is_recreated:
        return Start(
            partition,
            bounds.first,
            stamp=_as_recreated(topic),
            recreated=True,
            replaces=None if committed is None else committed.offset,
            has_old_offset=committed is not None,
        )
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
    """Decide where reading continues when the broker has no record at an offset, or the topic's id has changed.

    Args:
        partition: The partition.
        next_offset: The offset that was to be read next.
        bounds: The bounds of the log now.
        before: What was known about the topic so far.
        topic: The current topic.
        truncated: Whether librdkafka found that the log was cut before the offset; it may have grown since (KIP-320).
        committed: The group's offset; None if it has none: Kafka forgets it when the topic is deleted.
    """
    is_other = other_log(before, topic)
    if is_other or next_offset > bounds.end or truncated:
        return Start(
            partition,
            bounds.first,
            stamp=_as_recreated(topic) if is_other else before,
            recreated=True,
            replaces=next_offset,
            # If the offset did not say to which log it belongs, the next owner would notice nothing.
            has_old_offset=committed is not None and other_log(committed.stamp, topic),
        )
    if next_offset < bounds.first:
        return Again(partition, bounds.first, Gap(partition, next_offset, bounds.first - 1, "expired"))
    return Again(partition, next_offset)


def _as_recreated(topic: Stamp) -> Stamp:
    """Return a stamp that says that all partitions are new to the group: other owners, too, begin at their start."""
    return topic._replace(partitions=0)
