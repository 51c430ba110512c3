"""Records that clients refuse and whose deadline passes: one letter for both, with the real hub and the real door."""

import threading
from collections.abc import Sequence

import pytest
import trio

from dispatcher import deadlines as deadlines_module
from dispatcher.deadlines import Deadlines
from dispatcher.expiry_watch import ExpiryWatch
from dispatcher.hub.acked_subscriber import AckedSubscriber, AckWindow
from dispatcher.hub.feed import feed_of
from dispatcher.hub.hub import Hub
from dispatcher.kafka.dead_letters import DeadLetters
from dispatcher.kafka.leaders import Leaders
from dispatcher.kafka.letter_writer import Outcome
from dispatcher.kafka.replay import Replays
from dispatcher.sansio.dead_letters import Letter
from dispatcher.sansio.encoding.wire import WEBSOCKET
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.settings import Settings
from testbed.patience import seconds
from tests.hub.test_hub import RecordingTransport, settle

ONE = TopicPartition("ofa_assets", 0)
ACKS = feed_of(WEBSOCKET, frozenset({"ofa_assets"}), acks=True)


class GatedWriter:
    """Writes letters when the test lets it."""

    def __init__(self) -> None:
        self.is_open = False
        self.written: list[tuple[int, str]] = []
        """Offsets and reasons."""
        self._held: list[tuple[int, Letter]] = []

    def step(self, letters: Sequence[tuple[int, str, Letter]], _wait_seconds: float) -> Outcome:
        """Acknowledge what was held back as well, once that is allowed."""
        self._held += [(number, letter) for number, _, letter in letters]
        if not self.is_open:
            threading.Event().wait(0.001)
            return Outcome()
        done, self._held = self._held, []
        self.written += [(letter.record.offset, letter.reason) for _, letter in done]
        return Outcome(acknowledged=[number for number, _ in done])

    def close(self) -> None:
        """Nothing is to be closed."""


class Bench:
    """A hub with one partition, whose records are a year old, deadlines and dead letters."""

    def __init__(self, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, action: str = "dead-letter") -> None:
        table = {"undelivered_deadline_seconds": 0.001, "on_deadline": action, "commit_on": "acked"}
        topics = {"topics": ["ofa_assets"], "topic_tables": {"ofa_assets": table}}
        settings = Settings(client_id="replica", **topics)  # type: ignore[arg-type]
        self.nursery = nursery
        self.offsets = OffsetTracker()
        replays = Replays({}, concurrency=1, batch_bytes=1000)
        self.hub = Hub(settings, self._dispatched, replays)
        self.letters = DeadLetters({}, Leaders({}), template="{topic}.dlq", group="group", replica="replica")
        self.writer = GatedWriter()
        monkeypatch.setattr(self.letters, "_writer", self.writer)
        self.hub.acking.dead_letters = self.letters
        expiry = ExpiryWatch(settings, replays, self.hub, self.offsets, paused=frozenset, held=frozenset)
        self.deadlines = Deadlines(settings, self.hub, self.offsets, expiry, self.letters)
        self.offsets.assigned(ONE)
        self.hub.assigned([ONE])
        self._epoch = self.offsets.began(ONE, 0)
        nursery.start_soon(self.hub.run)
        nursery.start_soon(self.letters.run)

    def publish(self, first: int, number: int) -> None:
        """Records from an offset on."""
        records = [Record(n, 1, None, b"x", ()) for n in range(first, first + number)]
        covers_from = self.offsets.received(ONE, first, first + number)
        self.hub.publish(Batch(ONE, records, epoch=self._epoch, covers_from=covers_from))

    def connect(self) -> AckedSubscriber:
        """A client that acknowledges."""
        transport = RecordingTransport()
        transport.gate.set()
        window = AckWindow(100, 10**6, timeout_seconds=1000, drain_seconds=1)
        subscriber = self.hub.subscribe(ACKS, transport, None, window=window)
        assert isinstance(subscriber, AckedSubscriber)
        self.nursery.start_soon(subscriber.run)
        return subscriber

    @property
    def committable(self) -> int | None:
        """What may be committed."""
        return self.offsets.statistics()[ONE].dispatched_to

    async def wait_committable(self, offset: int) -> None:
        """Return when all before an offset may be committed."""
        with trio.fail_after(seconds(20)):
            while self.committable != offset:  # noqa: ASYNC110 - nothing sets an event for it
                await trio.sleep(0.005)

    async def wait_overdue(self) -> None:
        """Return when records past their deadline have been looked at."""
        with trio.fail_after(seconds(20)):
            while not self.deadlines.has_letters_of([ONE]):  # noqa: ASYNC110 - the same
                await trio.sleep(0.005)

    def _dispatched(self, batch: Batch, start: int, end: int) -> None:
        self.offsets.dispatched(batch.partition, batch.epoch, start, end)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look without a pause."""
    monkeypatch.setattr(deadlines_module, "LOOK_SECONDS", 0.001)


async def test_a_refused_record_whose_deadline_passes_has_one_letter(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the client's, which is answered; other records get the deadline's."""
    bench = Bench(nursery, monkeypatch)
    subscriber = bench.connect()
    await settle()
    bench.publish(0, 2)
    await settle()
    answered = trio.Event()
    assert subscriber.nacked(ONE, 0, "cannot be read", lambda _is_letter: answered.set())
    nursery.start_soon(bench.deadlines.run)
    await bench.wait_overdue()
    bench.writer.is_open = True
    await bench.wait_committable(2)
    with trio.fail_after(seconds(20)):
        await answered.wait()
    assert bench.writer.written == [(0, "nack"), (1, "deadline")]
    assert bench.letters.statistics().waiting == 0
    assert not bench.deadlines.has_letters_of([ONE])
    nursery.cancel_scope.cancel()


async def test_a_record_that_is_refused_after_its_deadline_has_one_letter(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the deadline's, waiting or stored, and every client that refuses is answered."""
    bench = Bench(nursery, monkeypatch)
    first, second = bench.connect(), bench.connect()
    await settle()
    bench.publish(0, 1)
    await settle()
    nursery.start_soon(bench.deadlines.run)
    await bench.wait_overdue()
    answers: list[bool] = []
    assert first.nacked(ONE, 0, "too late", answers.append)
    bench.writer.is_open = True
    await bench.wait_committable(1)
    assert answers == [True]
    assert second.nacked(ONE, 0, "even later", answers.append)
    assert answers == [True, True]
    assert (first.acks.outstanding_records, second.acks.outstanding_records) == (0, 0)
    assert bench.writer.written == [(0, "deadline")]
    nursery.cancel_scope.cancel()


async def test_a_refused_record_is_not_skipped_before_its_letter_is_stored(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash would lose it; records that nobody refused are skipped."""
    bench = Bench(nursery, monkeypatch, "skip")
    subscriber = bench.connect()
    await settle()
    bench.publish(0, 3)
    await settle()
    assert subscriber.nacked(ONE, 1, "cannot be read", lambda _is_letter: None)
    nursery.start_soon(bench.deadlines.run)
    await bench.wait_committable(1)
    with trio.fail_after(seconds(20)):
        while sum(bench.deadlines.statistics().overdue.values()) < 2:  # noqa: ASYNC110 - nothing sets an event for it
            await trio.sleep(0.005)
    assert bench.committable == 1
    bench.writer.is_open = True
    await bench.wait_committable(3)
    assert bench.writer.written == [(1, "nack")]
    nursery.cancel_scope.cancel()
