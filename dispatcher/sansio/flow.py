"""When to pause and resume fetching: `pause_above` and `resume_below` bound the bytes that wait undispatched.

Rules of this module:

* While the waiting bytes stay at or below ``pause_above``, everything flows.
* Above it, every partition that holds more than its fair share (``resume_below`` divided by the number of partitions)
  is paused. A partition whose records find subscribers stays below its share and keeps flowing, so a topic without
  subscribers does not stop one that has some.
* Above ``pause_above + resume_below``, every partition without readers is paused: shares do not bound a large number of
  partitions of which each is over its share by one poll.
* Above ``pause_above + 2 * resume_below``, only partitions with readers and without waiting records flow.
* A paused partition flows again when the total has fallen below ``resume_below``, or when its own part has fallen to
  half its share, unless one of the two ceilings holds it.
  its share, unless one of the two ceilings holds it.

So records without readers never exceed ``pause_above + resume_below`` plus one poll, and can never stop partitions that
have readers.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dispatcher.sansio.records import TopicPartition


class FlowDecision(NamedTuple):
    """What has to change in the consumer."""

    pause: frozenset[TopicPartition]
    resume: frozenset[TopicPartition]


NO_CHANGE = FlowDecision(frozenset(), frozenset())


@dataclass(frozen=True, slots=True)
class FlowStatistics:
    """A snapshot of the flow control, in partitions."""

    flowing: int
    paused: int
    held: int
    """Partitions paused for good, because the replica is stopping."""


class FlowControl:
    """Remembers which partitions are paused and decides what changes.

    Args:
        pause_above: bytes that may wait before partitions are paused.
        resume_below: bytes below which all partitions flow again; at most ``pause_above``.
    """

    def __init__(self, pause_above: int, resume_below: int) -> None:
        if not 0 <= resume_below <= pause_above:
            raise ValueError(f"resume_below {resume_below} is not within 0..pause_above {pause_above}")
        self.pause_above = pause_above
        self.resume_below = resume_below
        self._flowing: set[TopicPartition] = set()
        self._paused: set[TopicPartition] = set()
        self._held: set[TopicPartition] = set()
        """Paused for good: the replica is stopping."""

    @property
    def is_pausing(self) -> bool:
        """Whether some partition is paused now."""
        return bool(self._paused)

    @property
    def paused(self) -> frozenset[TopicPartition]:
        """The partitions that are paused now."""
        return frozenset(self._paused)

    @property
    def not_fetched(self) -> frozenset[TopicPartition]:
        """The partitions that are paused now, for whatever reason."""
        return frozenset(self._paused | self._held)

    def hold(self, partitions: Iterable[TopicPartition]) -> frozenset[TopicPartition]:
        """Fetch nothing more of these partitions; returns which of them have to be paused for that."""
        newly_held = frozenset(partitions) - self._held
        self._held |= newly_held
        return newly_held

    def statistics(self) -> FlowStatistics:
        """A snapshot of the flow control."""
        return FlowStatistics(len(self._flowing), len(self._paused), len(self._held))

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Let new partitions flow, whatever was decided for them in an earlier assignment (librdkafka #1849)."""
        partitions = set(partitions)
        self._paused -= partitions
        self._flowing |= partitions

    def unassigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions that left."""
        for partition in partitions:
            self._paused.discard(partition)
            self._flowing.discard(partition)
            self._held.discard(partition)

    def decide(
        self, waiting: Mapping[TopicPartition, int], total: int, is_read: Callable[[TopicPartition], bool]
    ) -> FlowDecision | None:
        """Decide what to pause and to resume; None if nothing changes.

        Args:
            waiting: Undispatched bytes by partition; 0 for partitions that are missing.
            total: The sum of these, kept by the caller so that the usual answer costs nothing.
            is_read: Whether some subscriber reads a partition.
        """
        if total <= self.pause_above and not self._paused:
            return None
        share = self.resume_below / max(1, len(self._paused) + len(self._flowing))
        pause: frozenset[TopicPartition] = frozenset()
        resume: frozenset[TopicPartition] = frozenset()
        ceiling = self.pause_above + self.resume_below
        if total > ceiling:
            most = share if total <= ceiling + self.resume_below else 0
            pause = frozenset(p for p in self._flowing if waiting.get(p, 0) > most or not is_read(p))
            resume = frozenset(p for p in self._paused if waiting.get(p, 0) <= most / 2 and is_read(p))
        elif total < self.resume_below or total == 0:
            resume = frozenset(self._paused)
        else:
            resume = frozenset(p for p in self._paused if waiting.get(p, 0) <= share / 2)
            if total > self.pause_above:
                pause = frozenset(p for p in self._flowing if waiting.get(p, 0) > share)
        if not pause and not resume:
            return None
        self._paused = (self._paused | pause) - resume
        self._flowing = (self._flowing - pause) | resume
        return FlowDecision(pause, resume)
