"""The longest step of the loop as subscribers and partitions grow: status, metrics, a new state, a revoke.

``python -m benchmarks.growth [SUBSCRIBERS] [PARTITIONS]``, without Kafka and sockets: its transports accept everything.
A Trio instrument times each step of each task, so work in slices counts by its slices. The figures are the milliseconds
of the longest step, and of the CPU time of all steps together.
"""

# It plays the poller, so it uses the pipeline's internals; and parts that never answer need no arguments.
# ruff: noqa: ARG002, SLF001

import gc
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress

import structlog
import trio
import trio.abc
import trio.lowlevel
import trio.testing
from pydantic import ByteSize

from dispatcher.errors import SubscriberGoneError
from dispatcher.hub.feed import feed_of
from dispatcher.hub.hub import Hub
from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.statistics import ConsumerStatistics
from dispatcher.pipeline import Pipeline
from dispatcher.sansio.beginnings import Start
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.ranges import Bounds, Chunk, Range
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.settings import Settings
from dispatcher.telemetry.snapshot import AccessStatistics
from dispatcher.telemetry.status import ReplicaStatus

TOPIC = "ofa_assets"
FEED = feed_of(SSE_VALUE, frozenset({TOPIC}))
Measured = tuple[str, float, float]


class Taking:
    """A transport whose socket is never full."""

    name = "sse"
    ended = False

    def end_if_silent(self, now: float) -> None:
        """Do nothing: it is never silent."""

    def try_send(self, data: bytes) -> int:
        """Accept everything."""
        return len(data)

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Accept everything."""


class NeverAnswering:
    """A Kafka that never answers, so that whoever asks it stays catching up."""

    async def read(self, ranges: Mapping[TopicPartition, Range], max_bytes: int, client: Hashable = None) -> Chunk:
        """Never return."""
        await trio.sleep_forever()
        raise AssertionError

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """Never return."""
        await trio.sleep_forever()
        raise AssertionError

    async def offsets_since(
        self, partitions: Collection[TopicPartition], since_ms: int
    ) -> Mapping[TopicPartition, int | None]:
        """Never return."""
        await trio.sleep_forever()
        raise AssertionError

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Never return."""
        await trio.sleep_forever()
        raise AssertionError


class Steps(trio.abc.Instrument):
    """Times each step of each task."""

    def __init__(self) -> None:
        self.began = time.thread_time()
        self.longest = self.total = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note that a task continues."""
        self.began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note that a task waits again."""
        taken = time.thread_time() - self.began
        self.longest = max(self.longest, taken)
        self.total += taken


class Replica:
    """A pipeline without its poller, and subscribers without connections."""

    def __init__(self, partitions: int) -> None:
        self.settings = Settings(client_id="growth", max_subscribers=100_000, history_bytes=ByteSize(64 * 1024 * 1024))
        self.pipeline = Pipeline(self.settings)
        self.hub: Hub = self.pipeline.hub
        self.hub.lookups._replays = NeverAnswering()
        self.status = ReplicaStatus(self.settings, self.pipeline, lambda: AccessStatistics(self.hub.subscribers))
        self.partitions = [TopicPartition(TOPIC, number) for number in range(partitions)]

    def assign(self) -> None:
        """Assign all partitions, as the poller would, with one record each."""
        statistics = ConsumerStatistics(1, True, {})
        starts = [Start(partition, 100, committed=True) for partition in self.partitions]
        self.pipeline.exchange(PollResult(assigned=self.partitions, starts=starts, statistics=statistics))
        self.publish(100)

    def publish(self, first_offset: int, records: int = 1) -> None:
        """Publish a batch for each partition."""
        for partition in self.partitions:
            some = [Record(first_offset + n, None, None, b"x" * 100, ()) for n in range(records)]
            first = self.pipeline._offsets.received(partition, some[0].offset, some[-1].offset + 1)
            epoch = self.pipeline._offsets.epoch(partition) or 0
            self.hub.publish(Batch(partition, some, epoch=epoch, covers_from=first))

    async def serve(self, position: Mapping[TopicPartition, int] | None) -> None:
        """Serve one subscriber."""
        subscriber = self.hub.subscribe(FEED, Taking(), position)
        try:
            with suppress(SubscriberGoneError):
                await subscriber.run()
        finally:
            self.hub.unsubscribe(subscriber)


async def measured(name: str, act: Callable[[], Awaitable[object]], *, settle: bool = False) -> Measured:
    """Time an action, and if requested the work after it: returns the longest step and the sum of all steps."""
    # A garbage collection would count as a part of whichever step it happens in.
    gc.collect()
    gc.disable()
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    await act()
    await trio.lowlevel.checkpoint()
    if settle:
        await trio.testing.wait_all_tasks_blocked(0.01)
    trio.lowlevel.remove_instrument(steps)
    gc.enable()
    return name, steps.longest * 1000, steps.total * 1000


async def measure(subscribers: int, partitions: int) -> list[Measured]:
    """Run all measurements."""
    found: list[Measured] = []
    for who in ("live", "replaying"):
        async with trio.open_nursery() as nursery:
            replica = Replica(partitions)
            hub = replica.hub
            nursery.start_soon(hub.run)
            replica.assign()
            # Records after an old id are no longer in memory.
            position = None if who == "live" else dict.fromkeys(replica.partitions, 3)
            for _ in range(subscribers):
                nursery.start_soon(replica.serve, position)
            await trio.testing.wait_all_tasks_blocked(0.01)

            async def readyz(replica: Replica = replica) -> None:
                replica.status.why_not_ready()

            asks: Sequence[Callable[[], Awaitable[object]]] = (
                replica.status.status_page,
                replica.status.metrics_page,
                readyz,
            )

            async def state(hub: Hub = hub) -> None:
                hub.set_state(ReplicaState.REBALANCING)

            async def back(hub: Hub = hub) -> None:
                hub.set_state(ReplicaState.STREAMING)

            async def revoke_one(replica: Replica = replica) -> None:
                replica.hub.unassigned(replica.partitions[:1])

            async def revoke_rest(replica: Replica = replica) -> None:
                replica.hub.unassigned(replica.partitions[1:])

            async def assign(replica: Replica = replica) -> None:
                replica.pipeline.exchange(PollResult(assigned=replica.partitions))

            async def arrive(replica: Replica = replica) -> None:
                replica.publish(101)

            acts: Sequence[Callable[[], Awaitable[object]]] = (state, back, revoke_one, revoke_rest, assign, arrive)
            for act in (*asks, *acts):
                name = f"{who}: {getattr(act, '__name__', '')}"
                found.append(await measured(name, act, settle=act in acts))
            nursery.cancel_scope.cancel()
    return found


def revoke_with_a_full_history(entries: int, partitions: int) -> Measured:
    """Let one partition leave a history of many entries."""
    replica = Replica(partitions)
    replica.settings = replica.settings.model_copy(update={"history_bytes": 2**34})
    replica.hub.history.history_bytes = 2**34
    replica.assign()
    for number in range(entries // partitions):
        replica.publish(200 + number)
    gc.collect()
    gc.freeze()
    before = time.thread_time()
    replica.hub.unassigned(replica.partitions[:1])
    taken = (time.thread_time() - before) * 1000
    return f"{entries} entries: revoke_one", taken, taken


def main() -> None:
    """Print a table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    subscribers, partitions = (int(text) for text in (*sys.argv[1:], "10000", "100")[:2])
    print(f"{subscribers} subscribers x {partitions} partitions: ms of the longest step, and of all")  # noqa: T201
    for name, longest, total in [
        *trio.run(measure, subscribers, partitions),
        trio.run(_in_trio, 170_000, partitions),
    ]:
        print(f"{name:45}{longest:10.1f}{total:10.1f}")  # noqa: T201


async def _in_trio(entries: int, partitions: int) -> Measured:
    return revoke_with_a_full_history(entries, partitions)


if __name__ == "__main__":
    main()
