"""Deadlines with the real hub and the real offsets, and a recording door to the dead-letter topic."""

from collections.abc import Callable, Collection, Sequence

import pytest
import trio

from dispatcher import deadlines as deadlines_module
from dispatcher.deadlines import Deadlines
from dispatcher.expiry_watch import ExpiryWatch
from dispatcher.hub.feed import feed_of
from dispatcher.hub.hub import Hub
from dispatcher.kafka.replay import Replays
from dispatcher.sansio.dead_letters import DeadLetterStatistics, Letter
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.settings import Settings
from testbed.patience import seconds
from tests.hub.test_hub import RecordingTransport, subscribed

ONE = TopicPartition("ofa_assets", 0)


class Door:
    """Keeps letters until the test acknowledges them."""

    def __init__(self) -> None:
        self.letters: list[tuple[Letter, Callable[[], None]]] = []
        self.room = 1000

    @property
    def has_room(self) -> bool:
        """As long as the test says so."""
        return len(self.letters) < self.room

    def post(self, letter: Letter, on_stored: Callable[[], None]) -> None:
        """One more."""
        self.letters.append((letter, on_stored))

    def has(self, partition: TopicPartition, offset: int) -> bool:
        """Of those that are kept."""
        return any((letter.partition, letter.record.offset) == (partition, offset) for letter, _ in self.letters)

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """Theirs are not acknowledged any more."""
        self.letters = [one for one in self.letters if one[0].partition not in partitions]

    def statistics(self) -> DeadLetterStatistics:
        """None of interest."""
        return DeadLetterStatistics({}, len(self.letters), {})


class Bench:
    """A hub with one partition, whose records are a year old."""

    def __init__(self, action: str) -> None:
        table = {"undelivered_deadline_seconds": 0.001, "on_deadline": action}
        settings = Settings(client_id="replica", topic_tables={"ofa_assets": table})  # type: ignore[dict-item]
        self.offsets = OffsetTracker()
        self.door = Door()
        replays = Replays({}, concurrency=1, batch_bytes=1000)
        self.hub = Hub(settings, self._dispatched, replays)
        expiry = ExpiryWatch(settings, replays, self.hub, self.offsets, paused=frozenset, held=frozenset)
        self.deadlines = Deadlines(settings, self.hub, self.offsets, expiry, self.door)  # type: ignore[arg-type]
        self.begin()

    def begin(self) -> None:
        """The partition is assigned."""
        self.offsets.assigned(ONE)
        self.hub.assigned([ONE])
        self.epoch = self.offsets.began(ONE, 0)

    def publish(self, first: int, number: int, gap: Gap | None = None) -> None:
        """Records from an offset on."""
        records = [Record(n, 1, None, b"x", ()) for n in range(first, first + number)]
        covers_from = self.offsets.received(ONE, gap.first if gap else first, first + number)
        self.hub.publish(Batch(ONE, records, epoch=self.epoch, covers_from=covers_from, gap=gap))

    @property
    def dispatched_to(self) -> int | None:
        """What may be committed."""
        return self.offsets.statistics()[ONE].dispatched_to

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Until the next looks have made something true."""
        with trio.fail_after(seconds(20)):
            while not condition():  # noqa: ASYNC110 - nothing sets an event for it
                await trio.sleep(0.005)

    async def look(self) -> None:
        """Let some looks go by."""
        for _ in range(20):
            await trio.sleep(0.005)

    def acknowledge(self, indexes: Sequence[int]) -> None:
        """The broker has these letters."""
        for index in indexes:
            self.door.letters[index][1]()

    def _dispatched(self, batch: Batch, start: int, end: int) -> None:
        self.offsets.dispatched(batch.partition, batch.epoch, start, end)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look without a pause."""
    monkeypatch.setattr(deadlines_module, "LOOK_SECONDS", 0.001)


async def test_a_commit_passes_a_letter_when_it_is_acknowledged(nursery: trio.Nursery) -> None:
    """It never passes an unacknowledged one; each is sent once, however often it is found."""
    bench = Bench("dead-letter")
    nursery.start_soon(bench.deadlines.run)
    bench.publish(5, 3, Gap(ONE, 0, 4, "expired"))
    bench.publish(8, 1)
    await bench.wait(lambda: len(bench.door.letters) == 4)
    await bench.look()
    assert [letter.record.offset for letter, _ in bench.door.letters] == [5, 6, 7, 8]
    assert bench.deadlines.has_letters_of([ONE])
    bench.acknowledge([1, 3])
    assert bench.dispatched_to == 0
    bench.acknowledge([0])
    assert bench.dispatched_to == 7
    bench.acknowledge([2])
    assert bench.dispatched_to == 9
    assert bench.hub.history.waiting_bytes == 0
    assert not bench.deadlines.has_letters_of([ONE])
    assert bench.deadlines.statistics().overdue == {("ofa_assets", "dead-letter"): 4}
    nursery.cancel_scope.cancel()


async def test_what_finds_no_room_waits_where_it_is(nursery: trio.Nursery) -> None:
    """It is sent when there is room again."""
    bench = Bench("dead-letter")
    bench.door.room = 2
    nursery.start_soon(bench.deadlines.run)
    bench.publish(0, 3)
    await bench.wait(lambda: len(bench.door.letters) == 2)
    await bench.look()
    assert len(bench.door.letters) == 2
    bench.door.room = 3
    await bench.wait(lambda: len(bench.door.letters) == 3)
    assert [letter.record.offset for letter, _ in bench.door.letters] == [0, 1, 2]
    nursery.cancel_scope.cancel()


async def test_a_letter_of_a_partition_that_leaves_counts_until_it_has_left(nursery: trio.Nursery) -> None:
    """It counts during the drain of a revoke, and means nothing afterwards."""
    bench = Bench("dead-letter")
    nursery.start_soon(bench.deadlines.run)
    bench.publish(0, 2)
    await bench.wait(lambda: len(bench.door.letters) == 2)
    late = bench.door.letters[1][1]
    bench.hub.unassigned([ONE])
    bench.acknowledge([0])
    assert bench.dispatched_to == 1
    bench.deadlines.forget([ONE])
    assert [commit.offset for commit in bench.offsets.revoked([ONE])] == [1]
    bench.begin()
    bench.publish(1, 1)
    late()
    assert bench.dispatched_to == 0
    nursery.cancel_scope.cancel()


async def test_what_is_being_written_is_not_put_aside(nursery: trio.Nursery) -> None:
    """It is dispatched when the socket has taken it."""
    bench, transport = Bench("skip"), RecordingTransport()
    nursery.start_soon(bench.hub.run)
    with subscribed(bench.hub, feed_of(SSE_VALUE, frozenset({"ofa_assets"})), transport) as subscriber:
        nursery.start_soon(subscriber.run)
        bench.publish(0, 2)
        await bench.wait(lambda: bool(bench.hub.first_writes()))
        nursery.start_soon(bench.deadlines.run)
        await bench.look()
        assert bench.dispatched_to == 0
        transport.gate.set()
        await bench.wait(lambda: bench.dispatched_to == 2)
        assert bench.deadlines.statistics().overdue == {}
        nursery.cancel_scope.cancel()


async def test_skipped_records_are_committed(nursery: trio.Nursery) -> None:
    """They count as dispatched, and leave memory."""
    bench = Bench("skip")
    nursery.start_soon(bench.deadlines.run)
    bench.publish(0, 2)
    await bench.wait(lambda: bench.dispatched_to == 2)
    assert bench.deadlines.statistics().overdue == {("ofa_assets", "skip"): 2}
    assert bench.hub.history.waiting_bytes == 0
    nursery.cancel_scope.cancel()


async def test_a_stop_puts_nothing_more_aside(nursery: trio.Nursery) -> None:
    """Waiting records are left to the next owner."""
    bench = Bench("skip")
    bench.deadlines.stop()
    nursery.start_soon(bench.deadlines.run)
    bench.publish(0, 2)
    await bench.look()
    assert bench.dispatched_to == 0
    nursery.cancel_scope.cancel()


async def test_a_deadline_that_only_reports_lets_everything_wait(nursery: trio.Nursery) -> None:
    """Each overdue record is counted once."""
    bench = Bench("log")
    nursery.start_soon(bench.deadlines.run)
    bench.publish(0, 2)
    await bench.wait(lambda: bench.deadlines.statistics().overdue == {("ofa_assets", "log"): 2})
    await bench.look()
    assert bench.deadlines.statistics().overdue == {("ofa_assets", "log"): 2}
    assert bench.dispatched_to == 0
    nursery.cancel_scope.cancel()


async def test_without_a_deadline_nobody_looks() -> None:
    """The task ends at once."""
    bench = Bench("log")
    bench.deadlines._deadlines.clear()
    with trio.fail_after(seconds(20)):
        await bench.deadlines.run()
