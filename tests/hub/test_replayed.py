"""What was replayed for one subscriber: its bytes, and what of it counts once they were sent."""

from collections.abc import Mapping

from dispatcher.hub.encoder import Encoder
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.parking import ParkedRead
from dispatcher.hub.replayed import Replayed
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.history import History
from dispatcher.sansio.lookups import ReadRanges
from dispatcher.sansio.parking import Reason
from dispatcher.sansio.ranges import Chunk, Gap, Range
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.sansio.spelling import AUTO, Spelling
from tests.hub.test_filtered import wanting
from tests.hub.test_hub import FEED, ONE, TWO

TOPICS = frozenset({"assets"})
WHOLE = feed_of(SSE_VALUE, TOPICS, whole=True)


def batch(partition: TopicPartition, *keys: str, first: int = 2) -> Batch:
    """Records with these keys, whose values are their offsets."""
    return Batch(
        partition, [Record(first + n, None, key.encode(), str(first + n).encode(), ()) for n, key in enumerate(keys)]
    )


class Reader(Replayed):
    """Replays of an owned and a followed partition, both of whose memory begins at offset 9."""

    def __init__(self, feed: Feed, spelling: Spelling = AUTO) -> None:
        history = History(10**6, max_parked_ranges=10)
        history.lay_out([ONE, TWO], [TWO])
        history.reached(ONE, 9)
        history.follow(TWO, 9)
        super().__init__(history, Encoder(history, None, {"assets": spelling}), feed)
        self.history = history

    def put(self, *batches: Batch, gaps: tuple[Gap, ...] = (), to: Mapping[TopicPartition, int]) -> list[bytes]:
        """Take a chunk from offset 1 on; returns what is to be sent."""
        lookup = ReadRanges({tp: Range(1, 9) for tp in to})
        chunk = Chunk(batches, to, gaps)
        self._put_chunk(lookup, chunk, list(gaps), chunk.with_positions(dict.fromkeys(to, 0)))
        return self.take_replay_output()


def test_a_gap_is_sent_before_the_records_after_it_and_after_those_before() -> None:
    """It moves clients past its last offset; a gap after all records is sent last."""
    reader = Reader(FEED)
    gaps = tuple(Gap(ONE, first, first, "expired") for first in (4, 1, 8))
    sent = reader.put(batch(ONE, "a", "b"), batch(ONE, "c", first=5), gaps=gaps, to={ONE: 9})
    kinds = ["gap" if b"expired" in data else "records" for data in sent]
    assert kinds == ["gap", "records", "gap", "records", "gap"]
    assert reader.record_count == 3
    assert reader.take_replay_output() == []
    assert (reader.take_replayed_ranges(), reader.take_parked_reads()) == ([], [])


def test_of_followed_partitions_all_that_was_read_counts() -> None:
    """Everything up to the end of the chunk counts; of owned partitions only the batches, of observers nothing."""
    reader = Reader(WHOLE)
    assert reader.put(batch(ONE, "a"), batch(TWO, "b"), to={ONE: 5, TWO: 6})
    assert reader.take_replayed_ranges() == [(TWO, 1, 6)]
    assert reader.take_replayed_ranges() == []
    observer = Reader(feed_of(SSE_VALUE, TOPICS, whole=True, counts=False))
    assert observer.put(batch(TWO, "b"), to={TWO: 6})
    assert observer.take_replayed_ranges() == []


def test_of_followed_partitions_a_filter_counts_what_it_has_not_left_out() -> None:
    """Its records count with the offsets before each, and so do gaps."""
    wanted = wanting("a").wanted
    assert wanted is not None
    reader = Reader(feed_of(SSE_VALUE, TOPICS, wanted, whole=True))
    gap = Gap(TWO, 7, 7, "expired")
    batches = batch(TWO, "a", "b", "a"), batch(TWO, "b", first=5), batch(ONE, "a")
    sent = reader.put(*batches, gaps=(gap, Gap(ONE, 7, 7, "expired")), to={ONE: 9, TWO: 9})
    assert len(sent) == 4
    assert reader.record_count == 3
    assert reader.take_replayed_ranges() == [(TWO, 7, 8), (TWO, 1, 3), (TWO, 4, 5)]


def test_what_was_parked_is_reported_once_it_is_sent() -> None:
    """Records and gaps sent to a counting subscriber are reported, and what is absent; an observer's are not."""
    for counts in (True, False):
        reader = Reader(FEED if counts else feed_of(SSE_VALUE, TOPICS, counts=False))
        parked = reader.history.parked
        assert parked.park(ONE, 1, [(2, 5)], Reason.UNMATCHED)
        assert reader.put(batch(ONE, "a", "b"), gaps=(Gap(ONE, 4, 4, "expired"),), to={ONE: 9})
        found = [(read.partition, read.ranges) for read in reader.take_parked_reads()]
        absent = (ONE, [(1, 2), (5, 9)])
        assert found == ([(ONE, [(1, 3), (3, 4)]), (ONE, [(4, 5)]), absent] if counts else [])
        assert reader.take_parked_reads() == []


def test_replayed_records_are_spelled_as_their_topic_says() -> None:
    """This holds with and without a filter."""
    for feed in (FEED, wanting("a")):
        sent = Reader(feed, Spelling(value="base64")).put(batch(ONE, "a"), to={ONE: 5})
        assert b"event: binary\ndata: Mg==\n" in sent[0]


def test_nothing_counts_of_a_partition_in_which_another_log_begins() -> None:
    """Neither what is being sent, nor what will be sent with the next write; the same for what was parked."""
    reader = Reader(WHOLE)
    reader._replayed_ranges += [(ONE, 2, 4), (TWO, 2, 4)]
    under_way = reader.take_replayed_ranges()
    reader._replayed_ranges += [(TWO, 4, 6)]
    reader.forget_ranges({TWO})
    assert under_way == [(ONE, 2, 4)]
    assert reader.take_replayed_ranges() == []
    reader._parked_reads += [ParkedRead(tp, None, [(2, 4)]) for tp in (ONE, TWO)]
    parked_under_way = reader.take_parked_reads()
    reader._parked_reads.append(ParkedRead(TWO, None, [(4, 6)]))
    reader.forget_ranges({TWO})
    assert parked_under_way == [ParkedRead(ONE, None, [(2, 4)])]
    assert reader.take_parked_reads() == []
