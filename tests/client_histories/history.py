"""Generated histories of a topic and of the replicas in front of it, as a client meets them.

One seed is one history: logs that grow, lose their beginnings and are made again, replicas that have other partitions
with each connection, ids in either spelling, repeats, gaps, and connections that are cut at any byte. What the next
connection brings depends on the id that the client comes with, as with a real dispatcher, so a client that forgets or
invents a place is found by the records that it then misses.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dispatcher.sansio.compact_position import spell_compact
from dispatcher.sansio.position import format_position
from dispatcher.sansio.records import TopicPartition

OVER = {"goodbye": {"code": 4403, "reason": "the history is over", "retry_ms": 1}}
"""The only goodbye here after which a client does not come back."""

ENDS: list[tuple[dict[str, Any], bool]] = [
    ({"goodbye": {"code": 1012, "reason": "come back", "retry_ms": 1}}, True),
    ({"goodbye": {"code": 4408, "reason": "too slow", "retry_ms": 1}}, True),
    ({"end": True}, True),
    ({"cut": True}, False),
    ({"reset": True}, False),
]
"""How connections end, and whether a client has read all of them by then."""

Position = dict[TopicPartition, int]


@dataclass
class Log:
    """One partition in Kafka: the records that are there are `start` to `end` - 1."""

    start: int = 0
    end: int = 0


@dataclass
class Reading:
    """What one connection has still to say of one partition."""

    next: int
    gap: dict[str, Any] | None = None


@dataclass
class Connection:
    """What the server says, and where it is cut: after this many bytes of the stream, or not at all."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    cut_after: int | None = None


class History:
    """One history, for one client.

    Args:
        seed: The same one gives the same history to clients that come with the same ids.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._left = self._random.randint(1, 3) if seed % 10 else self._random.randint(4, 6)
        """Connections before the last one; after three that were short a client waits for a second or two."""
        topics = self._random.sample(["orders", "ofa_assets", "a.b-c"], self._random.randint(1, 2))
        self.logs = {TopicPartition(topic, n): Log() for topic in topics for n in range(self._random.randint(1, 4))}
        self.is_over = False
        self.wrong: list[str] = []
        """What was wrong with the ids that the client came with, or what they lacked of what it was sent."""
        self._position: Position = {}
        self._recreated: set[TopicPartition] = set()
        """Whose logs were made again, as a gap has said."""
        self._told: Position = {}
        """Where the client has to be, since a connection that ended as it should has said so."""

    def connect(self, position: Position) -> Connection:
        """Return what a client is sent that connects with this position."""
        self._random = random.Random(self._seed * 1000 + self._left)  # noqa: S311
        is_last = self._left == 0
        self._left = max(0, self._left - 1)
        self.is_over = is_last
        self._compare(position)
        self._change(position)
        served = list(self.logs)
        if not is_last:
            self._random.shuffle(served)
            served = served[: self._random.randint(1, len(served))]
        readings = {partition: self._begin(partition, position) for partition in served}
        steps = list(self._steps(readings))
        if is_last:
            return Connection([*steps, OVER])
        end, is_whole = self._random.choice(ENDS)
        cut_after = self._random.randint(1, 6000) if self._random.random() < 0.5 else None
        if not is_whole or cut_after is not None:
            self._told = {}
        return Connection([*steps, end], cut_after)

    def _compare(self, position: Position) -> None:
        """A client forgets no partition, and goes back only in a log that was made again."""
        for partition, offset in self._told.items():
            if position.get(partition, -2) < offset:
                self.wrong.append(f"the server said {partition}={offset} and came with {position.get(partition)}")
        for partition, offset in self._position.items():
            if partition not in position:
                self.wrong.append(f"it forgot {partition}={offset}")
            elif position[partition] < offset and partition not in self._recreated:
                self.wrong.append(f"it went back from {partition}={offset} to {position[partition]}")
        self._position = dict(position)

    def _change(self, position: Position) -> None:
        """Change the topics while the client is away."""
        chance = self._random.random
        if chance() < 0.2:
            topic = self._random.choice(sorted({partition.topic for partition in self.logs}))
            self.logs[TopicPartition(topic, sum(each.topic == topic for each in self.logs))] = Log()
        for partition, log in self.logs.items():
            seen = position.get(partition, -1)
            if chance() < 0.08 and seen > 1:
                # Made again, with fewer records than the client has seen: so that it is noticed for sure.
                log.start, log.end = 0, self._random.randint(0, seen)
            else:
                # A new log that the client has not heard of yet must not reach the place where the client is.
                most = seen if seen >= log.end else log.end + 9
                log.end = min(most, log.end + self._random.choice([0, 1, 3, 9]))
                if chance() < 0.15:
                    log.start = self._random.randint(log.start, log.end)

    def _begin(self, partition: TopicPartition, position: Position) -> Reading:
        log = self.logs[partition]
        if partition not in position:
            return Reading(log.start)
        place = position[partition] + 1
        gap = {"topic": partition.topic, "partition": partition.partition, "from": place}
        if place > log.end:
            self._recreated.add(partition)
            return Reading(log.start, {**gap, "to": log.start - 1, "reason": "recreated"})
        if place < log.start:
            return Reading(log.start, {**gap, "to": log.start - 1, "reason": "expired"})
        # A commit may be lower than what this client has seen: then it is sent again.
        return Reading(max(log.start, place - self._random.choice([0, 0, 1, 4])))

    def _steps(self, readings: dict[TopicPartition, Reading]) -> Iterator[dict[str, Any]]:
        # Until its gap is sent, a place stays where the client is.
        places = {
            partition: reading.gap["from"] - 1 if reading.gap else reading.next - 1
            for partition, reading in readings.items()
        }
        lost: Position = {}
        yield self._state(places)
        left = list(readings)
        while left:
            partition = self._random.choice(left)
            reading, end = readings[partition], self.logs[partition].end
            if reading.gap:
                yield {"gap": reading.gap}
                places[partition], reading.gap = reading.gap["to"], None
            elif reading.next == end:
                left.remove(partition)
                if self._random.random() < 0.3:
                    yield {"heartbeat": self._spelled(places)}
            else:
                count = min(end - reading.next, self._random.randint(1, 4))
                yield self._records(partition, range(reading.next, reading.next + count), places)
                reading.next += count
            if not self.is_over and len(left) > 1 and self._random.random() < 0.05:
                # This replica loses a partition in the midst of the stream.
                gone = self._random.choice(left)
                left.remove(gone)
                lost[gone] = places.pop(gone)
                yield self._state(places, "rebalancing")
        self._told = lost | places

    def _state(self, places: Position, name: str = "streaming") -> dict[str, Any]:
        assigned: dict[str, list[int]] = {}
        for partition in places:
            assigned.setdefault(partition.topic, []).append(partition.partition)
        begins = {"id": self._spelled(places)} if name == "streaming" else {}
        return {"state": name, "assigned": assigned, "retry": 1, **begins}

    def _records(self, partition: TopicPartition, offsets: Sequence[int], places: Position) -> dict[str, Any]:
        """Some records, with an id each, or with one position for all of them."""
        ids = []
        for offset in offsets:
            places[partition] = offset
            ids.append(format_position(places, partition))
        if self._random.random() < 0.5:
            return {"records": ids}
        return {"records": ids, "position": self._random.choice([None, self._spelled(places, partition)])}

    def _spelled(self, places: Position, own: TopicPartition | None = None) -> str:
        """In either spelling; that of a record begins with its pair, or with its topic."""
        if self._random.random() < 0.5:
            return format_position(places, own)
        topics = sorted(
            {partition.topic for partition in places}, key=lambda topic: (own and topic != own.topic, topic)
        )
        segments = []
        for topic in topics:
            pairs = sorted((place.partition, offset) for place, offset in places.items() if place.topic == topic)
            segments.append(f"{topic}:{spell_compact([n for n, _ in pairs], [offset for _, offset in pairs])}")
        return ";".join(segments)


@dataclass
class Judge:
    """Compares what a client handed out with what it was owed.

    Args:
        logs: The topics as they are at the end.
    """

    logs: dict[TopicPartition, Log]
    _next: Position = field(default_factory=dict)

    def wrong(self, events: Sequence[dict[str, Any]]) -> list[str]:
        """Return what is wrong with the received records and gaps, in their order."""
        wrong: list[str] = []
        for event in events:
            partition = TopicPartition(event["topic"], event["partition"])
            if "reason" in event:
                wrong += self._gap(partition, event)
            else:
                wrong += self._record(partition, event["offset"])
        for partition, log in self.logs.items():
            place = self._next.get(partition, log.start)
            if place != log.end:
                wrong.append(f"{partition} ends at {place} and not {log.end}")
        return wrong

    def _record(self, partition: TopicPartition, offset: int) -> Iterator[str]:
        expected = self._next.get(partition, offset)
        if offset != expected:
            yield f"{partition}={offset} came and not {expected}"
        self._next[partition] = max(expected, offset + 1)

    def _gap(self, partition: TopicPartition, gap: dict[str, Any]) -> Iterator[str]:
        expected = self._next.get(partition, gap["from"])
        if gap["from"] != expected:
            yield f"a gap of {partition} from {gap['from']} and not {expected}"
        self._next[partition] = gap["to"] + 1
