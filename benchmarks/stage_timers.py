"""Timers for the stages of a record, which a benchmark puts into a replica: the dispatcher itself has none of them.

They wrap methods of the dispatcher by name, and write what they have measured to the file that `VARIABLE` names when
the replica ends.

``python -m benchmarks.stage_timers BOOTSTRAP_SERVERS TOPIC PARTITIONS SECONDS`` is a consumer that does nothing with
the records, for comparison: it prints the mean time from the producer's call in microseconds.
"""

import atexit
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from dispatcher.hub.round_times import RoundTimes
from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.group_consumer import GroupConsumer
from dispatcher.kafka.properties import PREFERRED
from dispatcher.pipeline import Pipeline

VARIABLE = "BENCH_STAGES_FILE"
INSTALL = "from benchmarks.stage_timers import install\ninstall()"
"""The code that puts them in."""
WARM_SECONDS = 2.0
"""How long records are not measured yet, from the first one on."""


def sent_at(value: bytes) -> int:
    """Return the time at which a record was produced, in nanoseconds since the epoch (`harness.value`)."""
    return int(value.removeprefix("§".encode()).rstrip(b"x"))


def install() -> None:
    """Wrap the methods where a stage ends."""
    timers = StageTimers()
    before(GroupConsumer, "_sort", lambda _consumer, messages: timers.polled(messages))
    before(Pipeline, "exchange", lambda _pipeline, result: timers.crossed(result))
    before(RoundTimes, "began", timers.began)
    before(RoundTimes, "ended", timers.ended)
    atexit.register(timers.write, Path(os.environ[VARIABLE]))


def before(owner: type, name: str, act: Callable[..., None]) -> None:
    """Call a function with the arguments of a method before each of its calls."""
    method = getattr(owner, name)

    def wrapped(*arguments: Any) -> Any:
        act(*arguments)
        return method(*arguments)

    setattr(owner, name, wrapped)


class StageTimers:
    """Sums of nanoseconds over records, by the stage that they took.

    Each record is handed out to all subscribers in the round that begins after it has crossed.

    *Thread*: `polled` the poller's, which waits while `crossed` runs in Trio's; everything else Trio's.
    """

    def __init__(self) -> None:
        self._from_ns: int | None = None
        """From when on records are measured; None before the first one."""
        self._polled_at = 0
        self._waiting = list[tuple[int, int]]()
        """How many records have crossed since the last round began, and when."""
        self._round = (0, 0)
        """How many records this one has, and when it began."""
        self._sums = {"polled": 0, "crossed": 0, "round began": 0, "round ended": 0}
        self._counts = dict.fromkeys(self._sums, 0)

    def polled(self, messages: list[Any]) -> None:
        """The poller has these messages."""
        self._polled_at = time.time_ns()
        for message in messages:
            if message.error() is None:
                if self._from_ns is None:
                    self._from_ns = self._polled_at + int(WARM_SECONDS * 1e9)
                self._add("polled", 1, self._polled_at - sent_at(message.value()))

    def crossed(self, result: PollResult) -> None:
        """The loop has them."""
        if number := sum(len(group.records.offsets) for group in result.groups):
            now = time.time_ns()
            self._add("crossed", number, now - self._polled_at)
            self._waiting.append((number, now))

    def began(self, _: RoundTimes) -> None:
        """A round begins."""
        now = time.time_ns()
        for number, crossed_at in self._waiting:
            self._add("round began", number, now - crossed_at)
        self._round = (sum(number for number, _ in self._waiting), now)
        self._waiting.clear()

    def ended(self, _: RoundTimes) -> None:
        """It has ended."""
        number, began_at = self._round
        self._add("round ended", number, time.time_ns() - began_at)

    def write(self, path: Path) -> None:
        """Write the mean of each stage in microseconds."""
        means = {stage: self._sums[stage] / max(1, number) / 1000 for stage, number in self._counts.items()}
        path.write_text(json.dumps(means))

    def _add(self, stage: str, number: int, nanoseconds: int) -> None:
        if self._from_ns is not None and self._polled_at >= self._from_ns:
            self._sums[stage] += number * nanoseconds
            self._counts[stage] += number


def consume(bootstrap_servers: str, topic: str, partitions: int, seconds: float) -> float:
    """Consume a topic that is being produced, and return the mean time in microseconds."""
    fetching = {key: value for key, value in PREFERRED.items() if key.startswith(("fetch.", "queued."))}
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "alone", **fetching})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    began_at = time.monotonic()
    number = total = 0
    while (elapsed := time.monotonic() - began_at) < seconds:
        message = consumer.poll(0.1)
        if elapsed > WARM_SECONDS and message is not None and message.error() is None:
            number += 1
            total += time.time_ns() - sent_at(message.value() or b"")
    consumer.close()
    return total / max(1, number) / 1000


if __name__ == "__main__":
    print(consume(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))  # noqa: T201 - its result
