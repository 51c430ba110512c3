"""The books of a topic whose log changes under its readers: records expire, the topic is made again, it grows.

Pure: no I/O, no clock.

How it judges:

* Every record of the topic's last *generation* (what was written since it was made) is owed: somebody receives it, or a
  ``gap`` with the reason ``expired`` tells somebody that it will not come. Records of an earlier generation are not
  owed any more, as they are gone.
* Within a connection offsets go up one by one while the partition is listed. A ``gap`` may say that the next ones
  will not come; one that says so of records that are still there is wrong.
* A connection that has seen one generation of a partition and is sent a record of the next gets a ``recreated`` gap
  before it, or after it: the replica looks at topic ids every 5 s, and until then takes the new log for the old one
  (docs/guarantees.md). Never is wrong, unless the partition has left the connection, or the connection has ended.
* Kafka forgets the group's offsets with the topic. With ``auto.offset.reset=latest`` what was written before its first
  owner is not owed, if that is a process that had no partition of the old topic: to it, the topic is new.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from enum import StrEnum

EVIDENCE = 20
"""At most this many faults are kept in words."""


class Broken(StrEnum):
    """What must not be."""

    UNTOLD = "left out without a gap"
    LOST = "owed, and neither received nor told of"
    WRONG_GAP = "gaps about records that are still there"
    NOT_RECREATED = "a topic made again, untold"
    DISORDER = "out of order or repeated within a connection"


def is_new_to_its_owner(
    assigned: Iterable[tuple[float, str]], known_to: AbstractSet[str], deleted_at: float, remade_at: float
) -> bool:
    """Whether a process that may have been the first to have a partition of the new topic did not know the old one.

    Args:
        assigned: When the partition was assigned, and to which process; in any order.
        known_to: Processes that had some partition of the old topic.
        deleted_at: When the old topic was about to be deleted, on the same clock.
        remade_at: When the new one was there: what is assigned between the two may be of either.
    """
    in_order = [(at, process) for at, process in sorted(assigned) if at >= deleted_at]
    first = [process for at, process in in_order if at >= remade_at][:1]
    return any(process not in known_to for process in [p for at, p in in_order if at < remade_at] + first)


class _Place:
    """Where a connection stands in a partition."""

    def __init__(self, following: int, generation: int | None) -> None:
        self.following = following
        self.generation = generation
        """None: not known, as after a gap."""


class Books:
    """Keeps the books of one topic.

    Args:
        topic: What faults are said to be of.
        whole: Whether connections have the whole topic: when a followed partition comes to the replica, what the group
            has not committed may be sent again (docs/guarantees.md).
    """

    def __init__(self, topic: str, *, whole: bool = False) -> None:
        self.topic = topic
        self._whole = whole
        self._again = 0
        self.generation = 0
        self.faults: Counter[Broken] = Counter()
        self.evidence: list[str] = []
        self.received_records = 0
        self.gaps: Counter[str] = Counter()
        """By reason."""
        self._owed: dict[int, set[int]] = defaultdict(set)
        """By partition, of the last generation: neither received nor told of yet."""
        self._expired: dict[int, int] = defaultdict(int)
        self._places: dict[int, dict[int, _Place]] = {}
        self._listed: dict[int, AbstractSet[int]] = {}
        self._stored: dict[int, int] = defaultdict(int)
        self._early: set[tuple[int, int]] = set()
        """Received, or told of, before the producer had heard that they are stored."""
        self._unannounced: dict[int, str] = {}
        """Partitions of which the connection was sent a new generation, and no gap yet."""

    # What happens to the topic.

    def produced(self, partition: int, offset: int) -> None:
        """A record of the present generation was stored."""
        self._stored[partition] = max(self._stored[partition], offset + 1)
        if (partition, offset) in self._early:
            self._early.discard((partition, offset))
        else:
            self._owed[partition].add(offset)

    def expired(self, partition: int, before: int) -> None:
        """Records before an offset were deleted, or are about to be."""
        self._expired[partition] = before

    def remade(self) -> None:
        """The topic is deleted and made again: what is stored from now on is of a new generation."""
        self.generation += 1
        self._owed.clear()
        self._expired.clear()
        self._stored.clear()
        self._early.clear()

    def new_to_its_owner(self, partition: int) -> None:
        """What is owed of a partition was written before its first owner came, to which the topic is new."""
        self._owed.pop(partition, None)

    def stored(self, partition: int) -> int:
        """The offset after the last stored record."""
        return self._stored[partition]

    # What connections see.

    def opened(self) -> int:
        """A connection was opened; returns its number."""
        number = len(self._places)
        self._places[number] = {}
        self._listed[number] = frozenset()
        self._unannounced.clear()
        return number

    def state(self, connection: int, listed: AbstractSet[int]) -> None:
        """A state lists these partitions of the topic."""
        for partition in self._listed[connection] - listed:
            self._places[connection].pop(partition, None)
            self._unannounced.pop(partition, None)
        self._listed[connection] = listed

    def received(self, connection: int, partition: int, offset: int, generation: int) -> None:
        """A record came; its value says of which generation it is."""
        self.received_records += 1
        if generation == self.generation:
            self._settle(partition, offset)
        place = self._places[connection].get(partition)
        where = f"partition {partition}: {offset} of generation {generation}"
        if place is not None and place.generation is not None and generation > place.generation:
            self._unannounced[partition] = f"{where} came after one of {place.generation}"
        elif place is not None and offset > place.following:
            self._fault(Broken.UNTOLD, offset - place.following, f"{where} came, {place.following} was next")
        elif place is not None and offset < place.following and self._whole:
            self._again += 1
        elif place is not None and offset < place.following:
            self._fault(Broken.DISORDER, 1, f"{where} came, {place.following} was next")
        self._places[connection][partition] = _Place(offset + 1, generation)

    def gap(self, connection: int, partition: int, first: int, last: int, reason: str) -> None:
        """A gap came: offsets from first to last will not."""
        self.gaps[reason] += 1
        if reason == "recreated":
            self._unannounced.pop(partition, None)
        place = self._places[connection].get(partition)
        if reason == "expired":
            if last >= self._expired[partition] and self.generation == 0:
                words = f"partition {partition}: {first} to {last}; before {self._expired[partition]} they are gone"
                self._fault(Broken.WRONG_GAP, 1, words)
            if place is not None and first > place.following:
                self._fault(Broken.UNTOLD, first - place.following, f"partition {partition}: the gap begins at {first}")
            for offset in range(first, last + 1):
                self._settle(partition, offset)
        self._places[connection][partition] = _Place(last + 1, None)

    # What comes of it.

    def missing(self) -> list[tuple[int, int]]:
        """(partition, offset) of what is still owed."""
        return sorted((partition, offset) for partition, offsets in self._owed.items() for offset in offsets)

    @property
    def are_settled(self) -> bool:
        """Whether nothing is owed, neither a record nor a gap."""
        return not self.missing() and not self._unannounced

    def close(self) -> None:
        """Nothing more comes: what is owed now is lost, and a gap that has not come by now never will."""
        for words in self._unannounced.values():
            self._fault(Broken.NOT_RECREATED, 1, words)
        if missing := self.missing():
            few = ", ".join(f"{partition}@{offset}" for partition, offset in missing[:5])
            self._fault(Broken.LOST, len(missing), f"generation {self.generation}: {few}{', …' * (len(missing) > 5)}")

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be."""
        told = ", ".join(f"{number} {reason}" for reason, number in sorted(self.gaps.items())) or "none"
        yield f"{self.topic}: received", f"{self.received_records:,} (gaps: {told})", True
        if self._again:
            yield f"{self.topic}: sent again with the whole topic", f"{self._again:,}", True
        for fault in Broken:
            if number := self.faults[fault]:
                yield f"{self.topic}: {fault}", f"{number:,}", False

    def _settle(self, partition: int, offset: int) -> None:
        if offset in self._owed[partition]:
            self._owed[partition].discard(offset)
        elif offset >= self._stored[partition]:
            self._early.add((partition, offset))

    def _fault(self, fault: Broken, number: int, words: str) -> None:
        self.faults[fault] += number
        if len(self.evidence) < EVIDENCE:
            self.evidence.append(f"{self.topic}: {fault}: {words}")
