"""Acknowledgements: what becomes done, what the window holds, and when the client has waited for too long."""

import math
from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dispatcher.sansio.acknowledgements import Acknowledgements
from dispatcher.sansio.deliveries import Delivery, Done
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.records import Record, Records, TopicPartition

ONE, TWO = TopicPartition("orders", 0), TopicPartition("orders", 1)
ELSEWHERE = TopicPartition("elsewhere", 0)
SIZE = 10


def window(
    records: int = 100, size_bytes: int = 10_000, timeout_seconds: float = 30, step_deliveries: int = 100
) -> Acknowledgements:
    """A window."""
    return Acknowledgements(
        window_records=records,
        window_bytes=size_bytes,
        timeout_seconds=timeout_seconds,
        step_deliveries=step_deliveries,
    )


def delivery(partition: TopicPartition, *offsets: int, indexes: Sequence[int] | None = None) -> Delivery:
    """Records with these offsets, or those of them with these indexes, of 10 bytes each."""
    records = Records.of([Record(offset, None, None, b"", ()) for offset in offsets])
    chosen = range(len(offsets)) if indexes is None else indexes
    return Delivery(partition, records, chosen, SIZE * len(chosen))


def offsets(done: Sequence[Done]) -> list[int]:
    """The offsets of what is done."""
    return [each.delivery.offset_at(place) for each in done for place in range(each.first, each.end)]


def nowhere(_partition: TopicPartition) -> int | None:
    """The connection stands in no other partition."""
    return None


def test_an_acknowledgement_is_cumulative_by_partition() -> None:
    """Every record up to the offset becomes done once, and other partitions are unaffected."""
    acks = window()
    acks.sent(delivery(ONE, 5, 6, 9), 0)
    acks.sent(delivery(ONE, 10, 11), 0)
    acks.sent(delivery(TWO, 3), 0)
    assert offsets(acks.acked({ONE: 8}, 1, nowhere)) == [5, 6]
    assert offsets(acks.acked({ONE: 10}, 1, nowhere)) == [9, 10]
    assert offsets(acks.acked({ONE: 7}, 1, nowhere)) == []
    assert offsets(acks.acked({ONE: 11, TWO: 3}, 1, nowhere)) == [11, 3]
    statistics = acks.statistics()
    assert (statistics.acked_records, statistics.outstanding_records, statistics.outstanding_bytes) == (6, 0, 0)
    assert statistics.passed_over == 0


def test_the_end_of_what_can_be_acknowledged_is_that_of_what_was_sent() -> None:
    """This includes partitions that have left."""
    acks = window()
    assert acks.end("orders") == 0
    high, low = TopicPartition("orders", 700), TopicPartition("orders", 3)
    for partition in (low, high):
        acks.sent(delivery(partition, 0, 1), 0)
    assert (acks.end("orders"), acks.end("other")) == (701, 0)
    acks.left([high])
    assert acks.end("orders") == 701


def test_what_was_not_sent_is_passed_over_and_counted() -> None:
    """Offsets past what was sent count up to there; absent partitions are ignored."""
    acks = window()
    acks.sent(delivery(ONE, 1, 2), 0)
    place = {TWO: 40}.get
    assert offsets(acks.acked({ONE: 99, ELSEWHERE: 7}, 0, place)) == [1, 2]
    assert acks.statistics().passed_over == 2
    assert acks.acked({TWO: 39}, 0, place) == []
    assert acks.statistics().passed_over == 2, "an id names partitions of which nothing was sent yet"
    acks.acked({TWO: 40}, 0, place)
    assert acks.statistics().passed_over == 3


def test_an_id_of_the_whole_topic_can_be_acknowledged_as_it_is() -> None:
    """It names the partition that would be added next as not seen yet, which is ignored."""
    acks = window()
    acks.sent(delivery(ONE, 1, 2), 0)
    assert offsets(acks.acked(parse_position("orders:0=2,1=-1"), 0, nowhere)) == [1, 2]
    assert acks.statistics().passed_over == 0


def test_the_window_counts_records_and_bytes() -> None:
    """Both bounds hold, and one record of any size fits into an empty window."""
    acks = window(records=3, size_bytes=25)
    assert acks.room() == (3, 25)
    assert acks.fits(1, 10**9)
    assert not acks.fits(2, 26)
    assert not acks.fits(4, 1)
    acks.sent(delivery(ONE, 1, 2), 0)
    assert acks.room() == (1, 5)
    assert acks.fits(1, 5)
    assert not acks.fits(1, 6)
    assert not acks.fits(2, 5)
    acks.sent(delivery(ONE, 3), 0)
    assert acks.room() == (0, 0)
    acks.acked({ONE: 3}, 0, nowhere)
    acks.window_bytes = 0
    assert acks.room() == (3, 1)


def test_the_client_has_to_make_progress_while_something_waits_for_it() -> None:
    """The time starts with records sent into an empty window, and again with each progress."""
    acks = window(timeout_seconds=30)
    assert acks.expires_at == math.inf
    acks.sent(delivery(ONE, 1, 2, 3), 100)
    acks.sent(delivery(ONE, 4), 110)
    assert acks.expires_at == 130
    acks.acked({ONE: 1}, 120, nowhere)
    assert acks.expires_at == 150
    acks.acked({ONE: 1}, 140, nowhere)
    assert acks.expires_at == 150, "the same again is no progress"
    acks.acked({ONE: 4}, 141, nowhere)
    assert acks.expires_at == math.inf


def test_a_refused_record_is_done_with_its_dead_letter_alone() -> None:
    """Until then it has its place in the window, and does not wait for the client."""
    acks = window(records=4)
    acks.sent(delivery(ONE, 1, 2, 3, 4), 0)
    refused = acks.nacked(ONE, 2, 5)
    assert refused is not None
    assert list(acks.refused(ONE)) == [refused.delivery]
    assert offsets([refused]) == [2]
    assert list(refused.indexes) == [1]
    assert acks.nacked(ONE, 2, 5) is None, "twice"
    assert acks.nacked(ONE, 9, 5) is None, "not sent"
    assert acks.nacked(TWO, 1, 5) is None, "not here"
    assert [acks.is_set_aside(ONE, offset) for offset in (1, 2, 9)] == [False, True, False]
    assert acks.expires_at == 35
    assert [each.indexes for each in acks.acked({ONE: 4}, 6, nowhere)] == [range(1), range(2, 4)]
    assert acks.outstanding_records == 1
    assert acks.expires_at == math.inf
    acks.stored(refused)
    assert acks.outstanding_records == acks.outstanding_bytes == 0
    statistics = acks.statistics()
    assert (statistics.acked_records, statistics.nacked_records, statistics.passed_over) == (3, 1, 3)


def test_an_acknowledgement_that_covers_much_is_taken_in_steps() -> None:
    """Nothing is lost or done twice, whatever is acknowledged, refused and sent in between."""
    acks = window(step_deliveries=2)
    for offset in range(6):
        acks.sent(delivery(ONE, offset), 0)
    acks.sent(delivery(TWO, 0), 0)
    assert offsets(acks.acked({ONE: 4, TWO: 0}, 1, nowhere)) == [0, 1]
    assert acks.outstanding_records == 5
    assert acks.nacked(ONE, 3, 1) is None, "it was acknowledged before"
    assert offsets(acks.acked({ONE: 2}, 2, nowhere)) == [2, 3]
    acks.sent(delivery(ONE, 6), 2)
    assert offsets(acks.acked({ONE: 5}, 3, nowhere)) == [4, 5]
    assert offsets(acks.go_on(4)) == [0]
    assert offsets(acks.go_on(4)) == []
    assert (acks.outstanding_records, acks.outstanding_bytes) == (1, SIZE)
    assert acks.expires_at == 34


def test_what_an_acknowledgement_has_covered_is_done_although_its_partition_leaves_and_not_once_it_is_released() -> (
    None
):
    """Nor does it count for records sent after the partition returns."""
    acks = window(step_deliveries=1)
    for offset in range(4):
        acks.sent(delivery(ONE, offset), 0)
    assert offsets(acks.acked({ONE: 3}, 1, nowhere)) == [0]
    acks.left([ONE])
    assert acks.outstanding_records == 0
    assert offsets(acks.go_on(1)) == [1]
    acks.sent(delivery(ONE, 3), 1)
    assert offsets(acks.go_on(1)) == [2]
    acks.released([ONE])
    assert offsets(acks.go_on(1)) == []
    assert acks.outstanding_records == 1
    assert offsets(acks.acked({ONE: 3}, 1, nowhere)) == [3]


def test_an_offset_without_a_record_is_no_record_to_refuse() -> None:
    """An offset between two records cannot be refused."""
    acks = window()
    acks.sent(delivery(ONE, 1, 5), 0)
    assert acks.nacked(ONE, 3, 0) is None
    acks.acked({ONE: 1}, 0, nowhere)
    assert acks.nacked(ONE, 1, 0) is None, "done already"


def test_what_is_sent_again_replaces_what_was_outstanding_from_there_on() -> None:
    """Each record is in the window once, and becomes done once."""
    acks = window()
    acks.sent(delivery(ONE, 1, 2, 3), 0)
    acks.sent(delivery(ONE, 4, 5), 0)
    refused = acks.nacked(ONE, 5, 0)
    assert refused is not None
    acks.sent(delivery(ONE, 3, 4), 0)
    assert acks.outstanding_records == 5, "1, 2, the new 3 and 4, and the refused 5"
    acks.stored(refused)
    assert offsets(acks.acked({ONE: 5}, 0, nowhere)) == [1, 2, 3, 4]
    assert acks.outstanding_records == 0
    acks.sent(delivery(ONE, 1), 0)
    assert offsets(acks.acked({ONE: 1}, 0, nowhere)) == [1]


def test_partitions_that_leave_free_the_window_and_may_be_acknowledged_for_a_moment() -> None:
    """After their release, acknowledgements of them are ignored."""
    acks = window()
    acks.sent(delivery(ONE, 1, 2, 3), 0)
    acks.sent(delivery(TWO, 1), 0)
    acks.left([ONE, TopicPartition("never", 0)])
    assert acks.outstanding_records == 1
    assert [each.last for each in acks.outstanding(ONE)] == [3]
    assert offsets(acks.acked({ONE: 2}, 0, nowhere)) == [1, 2]
    assert acks.outstanding_records == 1
    acks.released([ONE])
    assert list(acks.outstanding(ONE)) == []
    assert acks.acked({ONE: 3}, 0, nowhere) == []
    assert acks.statistics().passed_over == 1
    acks.sent(delivery(ONE, 3), 0)
    assert offsets(acks.acked({ONE: 3}, 0, nowhere)) == [3], "it has come back"


def test_a_record_that_is_refused_once_its_partition_has_left_is_not_acknowledged_with_later_ones() -> None:
    """It is in no window any more, and waits for nothing."""
    acks = window()
    acks.sent(delivery(ONE, 1, 2, 3), 0)
    acks.left([ONE])
    for _ in range(2):
        assert acks.nacked(ONE, 2, 0) is None
    assert not acks.is_set_aside(ONE, 2)
    assert offsets(acks.acked({ONE: 3}, 0, nowhere)) == [1, 3]
    assert (acks.outstanding_records, acks.expires_at) == (0, math.inf)
    acks.released([ONE])
    acks.sent(delivery(ONE, 2, 3), 0)
    assert acks.nacked(ONE, 2, 0) is not None


def test_records_chosen_by_a_filter_are_found_by_their_offsets() -> None:
    """Records between them were not sent."""
    acks = window()
    acks.sent(delivery(ONE, 1, 2, 3, 4, 5, indexes=[0, 2, 4]), 0)
    assert acks.nacked(ONE, 2, 0) is None
    done = acks.acked({ONE: 4}, 0, nowhere)
    assert offsets(done) == [1, 3]
    assert [list(each.indexes) for each in done] == [[0, 2]]


class Plain(RuleBasedStateMachine):
    """The same with a list of records, each with what has become of it."""

    @initialize(records=st.integers(1, 6), bytes_per_window=st.integers(1, 60), step=st.integers(1, 3))
    def begin(self, records: int, bytes_per_window: int, step: int) -> None:
        """A window."""
        self.window = records, bytes_per_window
        self.acks = window(records, bytes_per_window, timeout_seconds=30, step_deliveries=step)
        self.now = 0.0
        self.rows: list[dict[str, Any]] = []
        """Every record that was sent and is outstanding: partition, offset, aside, here."""
        self.next = {ONE: 0, TWO: 0}
        self.highest: dict[TopicPartition, int] = {}
        self.since = 0.0
        self.departed: set[TopicPartition] = set()
        """Partitions that have left with something sent of them, and are not released."""
        self.aside: list[tuple[Done, dict[str, Any]]] = []
        self.acked = self.passed_over = 0

    def waiting(self) -> list[dict[str, Any]]:
        """Those that wait for the client."""
        return [row for row in self.rows if row["here"] and not row["aside"]]

    @rule(
        partition=st.sampled_from([ONE, TWO]), back=st.integers(0, 3), count=st.integers(1, 4), hole=st.integers(0, 2)
    )
    def send(self, partition: TopicPartition, back: int, count: int, hole: int) -> None:
        """Records go out; sometimes from an earlier place on again."""
        first = max(0, self.next[partition] - back)
        chosen = [first + hole + n for n in range(count)]
        held = sum(row["here"] for row in self.rows)
        most_records, most_bytes = self.window
        fits = held + count <= most_records and (SIZE * (held + count) <= most_bytes or (count == 1 and not held))
        assert self.acks.fits(count, SIZE * count) == fits
        if not fits:
            return  # `assume` would end the whole example here, and most are full before anything else happens
        if chosen[0] <= self.highest.get(partition, -1):
            self.rows = [
                row
                for row in self.rows
                if not (
                    row["partition"] == partition and row["here"] and not row["aside"] and row["offset"] >= chosen[0]
                )
            ]
        if not self.waiting():
            self.since = self.now
        self.acks.sent(delivery(partition, *chosen), self.now)
        self.rows += [{"partition": partition, "offset": at, "aside": False, "here": True} for at in chosen]
        self.next[partition] = self.highest[partition] = chosen[-1]
        self.next[partition] += 1

    @rule(partition=st.sampled_from([ONE, TWO]), back=st.integers(-2, 6))
    def ack(self, partition: TopicPartition, back: int) -> None:
        """An acknowledgement, right or wrong, of what was sent last or a few offsets from that."""
        offset = max(0, self.next[partition] - 1 - back)
        self.now += 1
        is_here = partition in self.highest
        wanted = [
            row
            for row in self.rows
            if row["partition"] == partition and row["offset"] <= offset and not row["aside"] and row["here"] is is_here
        ]
        if is_here:
            self.passed_over += offset > self.highest[partition]
        else:
            self.passed_over += partition not in self.departed
        done = self.acks.acked({partition: offset}, self.now, nowhere)
        while more := self.acks.go_on(self.now):
            done += more
        assert offsets(done) == sorted(row["offset"] for row in wanted)
        if wanted:
            self.since = self.now
            self.acked += len(wanted)
        self.rows = [row for row in self.rows if row not in wanted]

    @rule(partition=st.sampled_from([ONE, TWO]), back=st.integers(-2, 6))
    def nack(self, partition: TopicPartition, back: int) -> None:
        """A refusal, right or wrong, as for an acknowledgement."""
        offset = max(0, self.next[partition] - 1 - back)
        self.now += 1
        refused = self.acks.nacked(partition, offset, self.now)
        found = [r for r in self.waiting() if (r["partition"], r["offset"]) == (partition, offset)]
        assert (refused is not None) == bool(found)
        if refused is not None:
            assert offsets([refused]) == [offset]
            found[0]["aside"] = True
            self.aside.append((refused, found[0]))
            self.since = self.now
        else:
            self.passed_over += 1
            for row in self.rows:
                if (row["partition"], row["offset"], row["here"]) == (partition, offset, False):
                    row["aside"] = True

    @rule()
    def store(self) -> None:
        """The dead letter that was written first is stored."""
        if self.aside:
            refused, row = self.aside.pop(0)
            self.acks.stored(refused)
            if row in self.rows:
                self.rows.remove(row)

    def release_refused(self, partition: TopicPartition) -> None:
        """Refused records of a partition have no place in the window any more."""
        self.rows = [row for row in self.rows if row["partition"] != partition or not row["aside"]]

    @rule(partition=st.sampled_from([ONE, TWO]))
    def leave(self, partition: TopicPartition) -> None:
        """A partition leaves; what had left before was released."""
        self.acks.released([partition])
        self.rows = [row for row in self.rows if row["partition"] != partition or row["here"]]
        self.acks.left([partition])
        self.release_refused(partition)
        self.departed.discard(partition)
        if partition in self.highest:
            self.departed.add(partition)
        self.highest.pop(partition, None)
        for row in self.rows:
            if row["partition"] == partition:
                row["here"] = False

    @rule(partition=st.sampled_from([ONE, TWO]))
    def release(self, partition: TopicPartition) -> None:
        """Release partitions that have left."""
        self.acks.released([partition])
        self.release_refused(partition)
        self.departed.discard(partition)
        self.rows = [row for row in self.rows if row["partition"] != partition or row["here"]]

    @invariant()
    def the_window_holds_what_is_outstanding(self) -> None:
        """In records, in bytes, and in time."""
        if not hasattr(self, "acks"):
            return
        held = [row for row in self.rows if row["here"]]
        assert self.acks.outstanding_records == len(held)
        assert self.acks.outstanding_bytes == SIZE * len(held)
        assert self.acks.expires_at == (self.since + 30 if self.waiting() else math.inf)
        assert self.acks.statistics().acked_records == self.acked
        assert self.acks.statistics().passed_over == self.passed_over


class TestPlain(Plain.TestCase):  # type: ignore[misc,valid-type] # as Hypothesis makes it
    """The machine does what a list of records does."""

    settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_refused_records_at_both_ends_are_left_out_and_free_the_window_when_their_partition_is_released() -> None:
    """Letters that are stored after that change nothing."""
    acks = window()
    acks.sent(delivery(ONE, 1, 2, 3), 0)
    refused = [acks.nacked(ONE, offset, 0) for offset in (1, 3)]
    assert offsets(acks.acked({ONE: 3}, 0, nowhere)) == [2]
    assert acks.outstanding_records == 2
    acks.released([ONE])
    assert acks.outstanding_records == acks.outstanding_bytes == 0
    for each in refused:
        assert each is not None
        acks.stored(each)
    assert acks.outstanding_records == 0
