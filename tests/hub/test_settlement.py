"""What may be committed: what was taken, what was acknowledged, and what nobody present wants."""

import pytest
import trio
import trio.testing

from dispatcher.hub import settlement
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.feed_registry import FeedRegistry
from dispatcher.hub.parking import ParkedRead, reads
from dispatcher.hub.settlement import Settlement
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.entries import GAP, Entry, Selection, covered
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.history import History
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import NO_RECORDS, Batch, Record, TopicPartition
from dispatcher.settings import Settings
from tests.hub.test_filtered import wanting
from tests.hub.test_hub import FEED, ONE, TWO, settle

TOPICS = frozenset({"assets"})
OBSERVING = feed_of(SSE_VALUE, TOPICS, counts=False)
ACKS = feed_of(SSE_VALUE, TOPICS, acks=True)
PARKS = {"topics": ["assets"], "topic_tables": {"assets": {"unmatched": "park"}}}
ACKED = {"topics": ["assets"], "topic_tables": {"assets": {"commit_on": "acked"}}}
MINE = read_filter({"prefix": {"key": "m"}})


class Books:
    """A settlement, what it is about, and what it has reported."""

    def __init__(self, *feeds: Feed, **settings: object) -> None:
        self.history = History(10**6, max_parked_ranges=100)
        self.history.lay_out([ONE, TWO], [])
        self.feeds = FeedRegistry(100)
        for feed in feeds:
            self.feeds.add(feed)
        self.committable: dict[TopicPartition, set[int]] = {}
        self.firsts: list[int] = []
        self.undecided: list[Entry] = []
        made = Settings(client_id="replica", **settings)  # type: ignore[arg-type]
        self.settlement = Settlement(
            made,
            self.history,
            self.feeds,
            self._dispatched,
            lambda _batch, number, _ranges: self.firsts.append(number),
            on_undecided=self.undecided.append,
        )
        self.ends = {ONE: 0, TWO: 0}

    def _dispatched(self, batch: Batch, start: int, end: int) -> None:
        self.committable.setdefault(batch.partition, set()).update(range(start, end))

    def publish(self, keys: str, partition: TopicPartition = ONE, *, gap: int = 0) -> Entry:
        """Records with keys of one letter, after a gap; those that nobody wants are settled."""
        first = self.ends[partition]
        records = [Record(n, None, key.encode(), b"v", ()) for n, key in enumerate(keys, first + gap)]
        self.ends[partition] = first + gap + len(keys)
        lost = Gap(partition, first, first + gap - 1, "expired") if gap else None
        batch = Batch(partition, records or NO_RECORDS, covers_from=first, gap=lost)
        entry = self.history.append(batch)
        if self.feeds.has_filters("assets"):
            self.settlement.settle(entry, self.feeds.match(batch))
        return entry

    @property
    def done(self) -> list[int]:
        """The offsets of partition 0 that a commit may pass."""
        return sorted(self.committable.get(ONE, ()))

    @property
    def parked(self) -> int:
        """How many records were parked."""
        return self.settlement.parking.records["assets"]


def test_the_first_socket_that_counts_dispatches_and_every_one_is_a_delivery() -> None:
    """Observers deliver without dispatching, and without a subscriber nothing is counted."""
    books = Books(FEED)
    entry = books.publish("ab")
    dispatched = books.settlement.dispatched
    dispatched(FEED, [entry], 0)
    dispatched(OBSERVING, [entry], 2)
    assert (books.done, books.settlement.deliveries) == ([], 4)
    dispatched(FEED, [entry], 1)
    dispatched(FEED, [entry], 3)
    assert (books.done, books.settlement.deliveries, books.settlement.dispatched_records) == ([0, 1], 12, 2)
    assert (books.firsts, books.history.waiting_bytes) == ([2], 0)


def test_a_filter_dispatches_what_it_was_sent_and_the_entry_is_done_with_its_last_record() -> None:
    """Any filter may take the last record."""
    books = Books(wanting("a"), wanting("b"))
    entry = books.publish("aba")
    for feed, indexes in ((wanting("a"), [0, 2]), (wanting("b"), [1]), (wanting("b"), [1])):
        books.settlement.dispatched(feed, [Selection(entry, indexes)], 1)
    assert (books.done, entry.dispatched, books.settlement.dispatched_records) == ([0, 1, 2], True, 3)
    assert books.firsts == [2, 1]


def test_a_selection_of_a_partition_that_was_handed_over_in_between_counts_from_there_on() -> None:
    """Earlier offsets are not ours to commit."""
    books = Books(wanting("a"))
    entry = books.publish("aa")
    selection = Selection(entry, [0, 1])
    selection.ranges = [(0, 1), (1, 2)]
    entry.batch.covers_from = 1
    books.settlement.dispatched(wanting("a"), [selection], 1)
    assert books.done == [1]


def test_what_nobody_present_wants_is_settled_and_counted() -> None:
    """Not if one of them wants everything, if it was dispatched, or without a counting subscriber."""
    books = Books(wanting("a"))
    books.publish("abb")
    assert (books.done, dict(books.settlement.unmatched)) == ([1, 2], {"assets": 2})
    books.feeds.add(FEED)
    waits = books.publish("b")
    books.settlement.dispatched(FEED, [waits], 1)
    books.feeds.remove(FEED)
    books.settlement.settle(waits, books.feeds.match(waits.batch))
    assert (books.done, books.settlement.unmatched["assets"]) == ([1, 2, 3], 2)
    books.feeds.remove(wanting("a"))
    books.feeds.add(feed_of(SSE_VALUE, TOPICS, wanting("a").filter, counts=False))
    books.publish("b")
    assert books.done == [1, 2, 3]


def test_a_whole_entry_that_nobody_wants_waits_no_more() -> None:
    """It can be evicted like other finished entries."""
    books = Books(wanting("a"))
    books.publish("bb")
    assert (books.done, books.history.waiting_bytes) == ([0, 1], 0)


def test_where_a_topic_parks_what_nobody_wants_is_parked() -> None:
    """In every topic, records that nobody present may see are parked as well."""
    books = Books(wanting("a"), **PARKS)
    books.publish("ab")
    books.publish("bb")
    assert (books.done, books.parked, dict(books.settlement.unmatched)) == ([], 3, {})
    tenant = Books(feed_of(SSE_VALUE, TOPICS, read_filter({"exact": {"key": "x"}}), MINE))
    tenant.publish("mo")
    assert (tenant.done, tenant.parked) == ([0], 1)
    observed = Books(feed_of(SSE_VALUE, TOPICS, wanting("a").filter, counts=False), **PARKS)
    observed.publish("b")
    assert (observed.done, observed.parked) == ([], 0)


def test_what_is_parked_is_parked_no_more_when_a_socket_takes_it() -> None:
    """The record may come from memory or from a replay."""
    books = Books(wanting("a"), **PARKS)
    entry = books.publish("abb")
    books.settlement.dispatched(wanting("a"), [Selection(entry, [0])], 1)
    books.settlement.dispatched(wanting("b"), [Selection(entry, [1])], 1)
    assert (books.done, books.settlement.dispatched_records, entry.dispatched) == ([0, 1], 2, False)
    batch = Batch(ONE, [Record(2, None, b"b", b"v", ())])
    read: ParkedRead | None = reads(books.history.parked, {ONE: 2}, batch, [0])
    assert read is not None
    books.settlement.parked_replayed([read])
    assert (books.done, books.settlement.dispatched_records) == ([0, 1, 2], 3)


def test_acknowledgements_alone_count_where_the_topic_says_so() -> None:
    """A socket's write changes nothing; a gap, which cannot be acknowledged, counts when sent."""
    books = Books(ACKS, **ACKED)
    entry = books.publish("ab", gap=2)
    books.settlement.dispatched(FEED, [entry], 1)
    assert books.done == []
    books.settlement.dispatched(ACKS, [entry], 1)
    assert books.done == [0, 1]
    plain = books.publish("a")
    books.settlement.dispatched(ACKS, [plain], 1)
    lost = books.publish("a", gap=1)
    books.settlement.dispatched(ACKS, [Selection(lost, [0])], 1)
    assert books.done == [0, 1], "the gap was not sent"
    books.settlement.dispatched(ACKS, [Selection(lost, [GAP, 0])], 1)
    assert books.done == [0, 1, 5]
    books.settlement.acked(entry, entry.batch.records, [0])
    assert (books.done, entry.dispatched) == ([0, 1, 2, 5], False)
    books.settlement.acked(entry, entry.batch.records, [0, 1])
    books.settlement.acked(entry, entry.batch.records, [0, 1])
    assert (books.done, entry.dispatched, books.settlement.dispatched_records) == ([0, 1, 2, 3, 5], True, 2)
    books.settlement.acked_between(ONE, 4, 7)
    assert books.done == list(range(7))


def test_what_only_observers_see_is_parked_when_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are parked first, in bounded steps; records after a gap wait with it."""
    monkeypatch.setattr(settlement, "PARKED_RECORDS", 3)
    books = Books(OBSERVING)
    for _ in range(2):
        books.publish("aa")
    books.publish("a", TWO, gap=1)
    books.publish("a", TWO)
    books.publish("aa")
    books.settlement.park_observed("assets")
    assert books.parked == 4
    books.settlement.park_observed("assets")
    assert (books.parked, books.done) == (6, [])
    selective = Books(wanting("a"))
    entry = selective.publish("ab")
    selective.settlement.park_observed("assets")
    assert (selective.parked, entry.parked) == (1, True)


def test_where_a_deadline_puts_records_aside_nothing_is_parked_for_observers() -> None:
    """Parked records would have no deadline."""
    table = {"undelivered_deadline_seconds": 60, "on_deadline": "skip"}
    books = Books(OBSERVING, topics=["assets"], topic_tables={"assets": table})
    books.publish("a")
    books.settlement.park_observed("assets")
    assert books.parked == 0


def test_what_is_put_aside_may_be_passed_by_commits() -> None:
    """This holds wherever its partition is; after a hand-over, from the group's offset on."""
    books = Books(FEED)
    entry = books.publish("abc")
    books.settlement.put_aside(entry, [0], covered(entry.batch, [0]))
    assert (books.done, entry.dispatched) == ([0], False)
    ranges = covered(entry.batch, [1, 2])
    books.settlement.put_aside(entry, [1, 2], ranges)
    assert (books.done, books.history.waiting_bytes) == ([0, 1, 2], 0)
    gone = books.publish("ab")
    ranges = [(3, 4), (4, 5)]
    books.history.remove([ONE])
    gone.batch.covers_from = 4
    books.settlement.put_aside(gone, [0, 1], ranges)
    assert books.done == [0, 1, 2, 4]


async def test_feeds_that_come_or_go_have_what_waits_looked_at_again(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slice by slice, only in topics with filters, and without what was finished meanwhile."""
    del autojump_clock
    monkeypatch.setattr(settlement, "SLICE_RECORDS", 1)
    books = Books()
    nursery.start_soon(books.settlement.run)
    entries = [books.publish("ab") for _ in range(3)]
    books.settlement.feeds_changed(TOPICS)
    await settle()
    assert books.done == []
    books.feeds.add(wanting("a"))
    entries[2].removed = True
    books.settlement.feeds_changed(TOPICS)
    await trio.sleep(1)
    assert (books.done, books.settlement.unmatched["assets"]) == ([1, 3], 2)
    entries[2].removed = False
    books.feeds.add(FEED)
    books.settlement.feeds_changed(TOPICS)
    await trio.sleep(1)
    assert books.done == [1, 3], "somebody wants all of it"
    books.feeds.remove(FEED)
    books.settlement.feeds_changed(TOPICS)
    await trio.sleep(1)
    assert books.done == [1, 3, 5]
    nursery.cancel_scope.cancel()


class Work(trio.abc.Instrument):
    """How many filters were tried on records in each step of a task."""

    def __init__(self, feeds: FeedRegistry) -> None:
        self.feeds = feeds
        self.tried = 0
        self.steps: list[int] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's interface
        """A step begins."""
        self.tried = self.feeds.tried("assets")

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - the same
        """A step ends."""
        self.steps.append(self.feeds.tried("assets") - self.tried)


@pytest.mark.parametrize("wanted", [("hot",), ("cold", "hot")], ids=["wanted", "half wanted"])
async def test_a_look_yields_after_little_work_however_many_filters_want_a_record(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, wanted: tuple[str, ...]
) -> None:
    """Large batches are examined in parts, and each is decided as if it were examined at once."""
    del autojump_clock
    books, number, filters = Books(), 700, 100
    nursery.start_soon(books.settlement.run)
    records = [Record(n, None, wanted[n % len(wanted)].encode(), b"v", ()) for n in range(number)]
    large = books.history.append(Batch(ONE, records[: number - 100]))
    for record in records[number - 100 :]:
        books.history.append(Batch(ONE, [record]))
    for n in range(filters):
        own = {"all": [{"exact": {"key": "hot"}}, {"not": {"exact": {"header.h": f"{n}"}}}]}
        books.feeds.add(feed_of(SSE_VALUE, TOPICS, read_filter(own)))
    work = Work(books.feeds)
    trio.lowlevel.add_instrument(work)
    books.settlement.feeds_changed(TOPICS)
    await trio.sleep(1)
    trio.lowlevel.remove_instrument(work)
    hot = [record.offset for record in records if record.key == b"hot"]
    assert sum(work.steps) == len(hot) * filters, "each record is examined once"
    assert max(work.steps) <= settlement.SLICE_RECORDS + settlement.PART_RECORDS * filters
    assert books.done == sorted({*range(number)} - {*hot})
    assert large.pending == {offset for offset in hot if offset < number - 100}
    nursery.cancel_scope.cancel()


async def test_what_is_examined_in_parts_is_parked_in_parts(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part says nothing about the records after it."""
    del autojump_clock
    monkeypatch.setattr(settlement, "SLICE_RECORDS", 1)
    monkeypatch.setattr(settlement, "PART_RECORDS", 2)
    books = Books(**PARKS)
    entry = books.publish("abbbaba")
    books.feeds.add(wanting("a"))
    nursery.start_soon(books.settlement.run)
    books.settlement.feeds_changed(TOPICS)
    await trio.sleep(1)
    assert (books.parked, entry.pending, books.done) == (4, {0, 4, 6}, [])
    nursery.cancel_scope.cancel()


async def test_an_entry_whose_records_are_dropped_between_two_parts_is_left(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscriber may take them, or a partition leave, while others have the loop."""
    del autojump_clock
    monkeypatch.setattr(settlement, "SLICE_RECORDS", 1)
    monkeypatch.setattr(settlement, "PART_RECORDS", 1)
    books = Books()
    entries = [books.publish("bbbb") for _ in range(3)]
    books.feeds.add(wanting("a"))
    nursery.start_soon(books.settlement.run)
    books.settlement.feeds_changed(TOPICS)

    async def decided(offset: int) -> None:
        for _ in range(100):
            if offset not in books.done:
                await trio.lowlevel.checkpoint()
        assert offset in books.done

    await decided(1)
    entries[0].forget()
    await decided(5)
    entries[1].dispatched = True
    await trio.sleep(1)
    assert {3, 7}.isdisjoint(books.done)
    assert books.done[-4:] == [8, 9, 10, 11]
    nursery.cancel_scope.cancel()


async def test_what_has_to_be_decoded_before_a_filter_can_decide_is_asked_for(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Until it is decoded, nothing of it is settled."""
    del autojump_clock
    books = Books()
    nursery.start_soon(books.settlement.run)
    entry = books.publish("ab")
    books.feeds.add(feed_of(SSE_VALUE, TOPICS, read_filter({"exact": {"/n": "1"}}), decodes=TOPICS))
    books.settlement.feeds_changed(TOPICS)
    await trio.sleep(1)
    assert (books.undecided, books.done) == ([entry], [])
    nursery.cancel_scope.cancel()
