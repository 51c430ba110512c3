"""The oldest waiting record of a partition, with the real hub, the real offsets, and a log that a test may close."""

from collections.abc import Collection, Mapping

import pytest
import trio

from dispatcher import expiry_watch as expiry_watch_module
from dispatcher.expiry_watch import ExpiryWatch
from dispatcher.hub.feed import feed_of
from dispatcher.hub.hub import Hub
from dispatcher.kafka.leaders import Leaders
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.ranges import Bounds, Chunk, Range
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.sansio.retention import NOTHING_WAITS, UNKNOWN
from dispatcher.settings import Settings
from testbed.patience import seconds
from tests.hub.test_hub import RecordingTransport, settle, subscribed

ONE = TopicPartition("assets", 0)


class OneLog:
    """Has the records of one partition, and answers when it is open."""

    def __init__(self) -> None:
        self.leaders = Leaders({})
        self.records: list[Record] = []
        self.is_open = False

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """Where it begins and ends."""
        await trio.lowlevel.checkpoint()
        return {tp: Bounds(0, len(self.records)) for tp in partitions}

    async def read(self, ranges: Mapping[TopicPartition, Range], *_: object, **_more: object) -> Chunk:
        """One record."""
        await trio.lowlevel.checkpoint()
        if not self.is_open:
            return Chunk([], {}, [])
        ((partition, asked),) = ranges.items()
        return Chunk([Batch(partition, [self.records[asked.first]])], {partition: asked.first + 1}, [])


async def test_a_parked_record_is_older_than_what_waits_in_memory_after_it(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is read, the age is unknown instead of that of a younger record."""
    monkeypatch.setattr(expiry_watch_module, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(expiry_watch_module, "CONFIG_SECONDS", 1e9)
    table = {"assets": {"unmatched": "park"}}
    settings = Settings(client_id="replica", topics=["assets"], topic_tables=table)  # type: ignore[arg-type]
    offsets, log = OffsetTracker(), OneLog()
    hub = Hub(settings, lambda batch, start, end: offsets.dispatched(ONE, batch.epoch, start, end), log)  # type: ignore[arg-type]
    hub.assigned([ONE])
    offsets.assigned(ONE)
    epoch = offsets.began(ONE, 0)
    watch = ExpiryWatch(settings, log, hub, offsets, paused=frozenset, held=frozenset)  # type: ignore[arg-type]
    monkeypatch.setattr(watch, "_ask_at", 1e18)
    nursery.start_soon(hub.run)
    nursery.start_soon(watch.run)
    transport = RecordingTransport()
    wanted = feed_of(SSE_VALUE, frozenset({"assets"}), read_filter({"exact": {"key": "mine"}}))
    with subscribed(hub, wanted, transport) as subscriber:
        nursery.start_soon(subscriber.run)
        await settle()
        for key, time_ms in (("other", 1), ("mine", 2)):
            record = Record(len(log.records), time_ms, key.encode(), b"x", ())
            log.records.append(record)
            covers_from = offsets.received(ONE, record.offset, record.offset + 1)
            hub.publish(Batch(ONE, [record], epoch=epoch, covers_from=covers_from))
        await settle()
        assert hub.history.parked.find(ONE) is not None
        assert [entry.batch.first_offset for entry in hub.history.waiting_of(ONE)] == [1]
        assert watch.outlook(ONE) == UNKNOWN
        log.is_open = True
        with trio.fail_after(seconds(20)):
            while watch.oldest(ONE) is None:  # noqa: ASYNC110 - nothing sets an event for it
                await trio.sleep(0.005)
        found = watch.oldest(ONE)
        assert found is not None
        assert (found.offset, found.timestamp_ms) == (0, 1)
        nursery.cancel_scope.cancel()


async def test_records_that_wait_for_their_schema_are_of_unknown_age() -> None:
    """Neither the history nor the paused partitions have them, but they wait."""
    settings = Settings(client_id="replica", topics=("assets",))
    offsets, log, held = OffsetTracker(), OneLog(), {ONE}
    hub = Hub(settings, lambda *_: None, log)  # type: ignore[arg-type]
    hub.assigned([ONE])
    offsets.assigned(ONE)
    offsets.began(ONE, 0)
    of_log = {"replays": log, "paused": frozenset, "held": lambda: frozenset(held)}
    watch = ExpiryWatch(settings, hub=hub, offsets=offsets, **of_log)  # type: ignore[arg-type]
    assert watch.statistics().outlooks == {ONE: UNKNOWN}
    held.clear()
    assert watch.statistics().outlooks == {ONE: NOTHING_WAITS}
