"""How long a partition is silent when replicas join, leave and crash, for both group protocols.

Three replicas on a three-node Kafka, with records all the time and a subscriber on each replica. Measured from outside:
when subscribers receive a partition's records, and from which process.
"""

import statistics
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import trio

from testbed.broker.cluster import KafkaCluster
from tests.audit.auditor import Auditor
from tests.audit.fleet import Fleet, Slot

PAGE = "rebalance"
REPLICAS = 3
PARTITIONS = 6
RATE = 600.0
SESSION_SECONDS = 6
REST_SECONDS = 1.5
"""The pause after each event, when all partitions have an owner again."""

STOCK = {
    "group.consumer.heartbeat.interval.ms": 5000,
    "group.consumer.min.heartbeat.interval.ms": 5000,
    "group.consumer.session.timeout.ms": 45_000,
    "group.consumer.min.session.timeout.ms": 45_000,
}
"""Kafka's defaults, which the brokers of the tests change."""

TUNED = {
    "group.consumer.heartbeat.interval.ms": 200,
    "group.consumer.session.timeout.ms": SESSION_SECONDS * 1000,
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A group protocol with settings."""

    name: str
    broker: Mapping[str, int]
    kafka: Mapping[str, object]
    crash: bool
    """Whether to measure a crash; with a long session timeout it would measure only that."""


VARIANTS = (
    Variant(
        "classic, heartbeat 200 ms (the default)",
        STOCK,
        {"session.timeout.ms": SESSION_SECONDS * 1000},
        crash=True,
    ),
    Variant(
        "classic, heartbeat 3 s (librdkafka's default)",
        STOCK,
        {"heartbeat.interval.ms": 3000, "session.timeout.ms": 45_000},
        crash=False,
    ),
    Variant("consumer, heartbeat 200 ms (set in the brokers)", TUNED, {"group.protocol": "consumer"}, crash=True),
    Variant("consumer, heartbeat 5 s (the brokers' default)", STOCK, {"group.protocol": "consumer"}, crash=False),
)


@dataclass(slots=True)
class Samples:
    """The results of one kind of event, for each time that it was tried, in seconds."""

    variant: str
    event: str
    times: int = 0
    handed_over: list[float] = field(default_factory=list)
    """From the event to the first record of a moved partition from its new owner, another process."""
    moved_silence: list[float] = field(default_factory=list)
    """The longest silence of each partition that moved."""
    stayed_silence: list[float] = field(default_factory=list)
    """The longest silence of each partition that did not move."""
    repeats: int = 0


Tell = Callable[[str], None]


async def measure(cluster: KafkaCluster, variant: Variant, repeats: int, tell: Tell) -> list[Samples]:
    """Try each kind of event this many times."""
    samples = []
    for static in (False, True):
        topic = cluster.create_topic(
            f"{variant.name.split(',')[0]}-{len(cluster.admin.list_topics().topics)}", PARTITIONS
        )
        group = f"group-{topic}"
        auditor = Auditor(cluster.bootstrap_servers, topic, group, PARTITIONS, rate=RATE)
        async with trio.open_nursery() as nursery:
            fleet = Fleet(auditor, nursery, cluster.bootstrap_servers, topic, group, kafka=variant.kafka, static=static)
            with fleet:
                for _ in range(REPLICAS):
                    await fleet.add()
                await fleet.wait_until_shared(PARTITIONS)
                nursery.start_soon(auditor.run)
                await trio.sleep(2 * REST_SECONDS)
                probe = _Probe(auditor, fleet, variant, repeats, tell)
                if static:
                    samples.append(await probe.restarts("rolling restart, static members"))
                else:
                    samples += await probe.stops_and_joins()
                    samples.append(await probe.restarts("rolling restart"))
                    if variant.crash:
                        samples.append(await probe.crashes())
                nursery.cancel_scope.cancel()
    return samples


class _Probe:
    def __init__(self, auditor: Auditor, fleet: Fleet, variant: Variant, repeats: int, tell: Tell) -> None:
        self._auditor = auditor
        self._fleet = fleet
        self._variant = variant
        self._repeats = repeats
        self._tell = tell

    async def stops_and_joins(self) -> list[Samples]:
        """Alternate planned stops and joins of a replica."""
        stops, joins = self._samples("planned stop"), self._samples("join")
        for slot in self._slots():
            await self._observe(stops, lambda: self._fleet.stop(slot))  # noqa: B023 - awaited in this turn
            await self._observe(joins, lambda: self._fleet.start(slot))  # noqa: B023 - the same
        return [stops, joins]

    async def restarts(self, event: str) -> Samples:
        """Stop and immediately start each replica, one after another."""
        samples = self._samples(event)
        for _ in range(max(1, self._repeats * 2 // 5)):
            for slot in self._fleet.slots:

                async def restart() -> None:
                    await self._fleet.stop(slot)  # noqa: B023 - awaited in this turn of the loop
                    await self._fleet.start(slot)  # noqa: B023 - the same

                await self._observe(samples, restart)
        return samples

    async def crashes(self) -> Samples:
        """Kill a replica with kill -9, and start it again when its partitions have moved."""
        samples = self._samples(f"crash, session timeout {SESSION_SECONDS} s")
        for slot in self._slots():
            await self._observe(samples, lambda: self._fleet.kill(slot))  # noqa: B023 - awaited in this turn
            await self._fleet.start(slot)
            await self._fleet.wait_until_shared(PARTITIONS)
            await trio.sleep(REST_SECONDS)
        return samples

    def _samples(self, event: str) -> Samples:
        self._tell(f"{self._variant.name}: {event}")
        return Samples(self._variant.name, event)

    def _slots(self) -> Iterator[Slot]:
        for n in range(self._repeats):
            yield self._fleet.slots[n % REPLICAS]

    async def _observe(self, samples: Samples, event: Callable[[], Awaitable[object]]) -> None:
        receipts = self._auditor.ledger.receipts
        owners = {partition: process for _, process, partition, _ in receipts[-int(RATE) :]}
        repeats_before = self._auditor.ledger.repeated
        mark, began = len(receipts), trio.current_time()
        await event()
        await self._fleet.wait_until_shared(PARTITIONS)
        await trio.sleep(REST_SECONDS)
        samples.times += 1
        samples.repeats += self._auditor.ledger.repeated - repeats_before
        for partition in range(PARTITIONS):
            seen = [(at, process) for at, process, of, _ in receipts[mark:] if of == partition]
            times = [began, *(at for at, _ in seen)]
            silence = max(after - before for before, after in pairwise(times))
            moved = [at for at, process in seen if process != owners[partition]]
            if moved:
                samples.handed_over.append(moved[0] - began)
                samples.moved_silence.append(silence)
            else:
                samples.stayed_silence.append(silence)


def run(*, quick: bool, tell: Tell) -> list[dict[str, object]]:
    """Run the whole benchmark; returns rows for JSON, with everything that was measured."""
    rows: list[dict[str, object]] = []
    for broker in (STOCK, TUNED):
        with KafkaCluster(3, broker) as cluster:
            for variant in VARIANTS:
                if variant.broker is broker:
                    repeats = 2 if quick else (10 if variant.crash else 3)
                    rows += [asdict(samples) for samples in trio.run(measure, cluster, variant, repeats, tell)]
    return rows


COLUMNS = ("group protocol", "event", "times", "handed over", "silence, moved", "silence, stayed", "repeated")


def cells(row: Mapping[str, object]) -> Sequence[str]:
    """Return one row for people, with median and worst values."""
    return (
        str(row["variant"]),
        str(row["event"]),
        str(row["times"]),
        *(_median_and_worst(row[name]) for name in ("handed_over", "moved_silence", "stayed_silence")),
        str(row["repeats"]),
    )


def _median_and_worst(samples: object) -> str:
    assert isinstance(samples, list)
    return f"{statistics.median(samples):.2f} / {max(samples):.2f} s" if samples else "-"


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture: medians of the default's hand-overs."""
    ours = [row for row in rows if row["variant"] == VARIANTS[0].name and row["handed_over"]]
    return {"s until handed over, the default": {row["event"]: statistics.median(row["handed_over"]) for row in ours}}
