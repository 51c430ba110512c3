"""What was sent in one write: how much each record of it counts for, and where an offset is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.sansio.deliveries import Delivery, Done
from dispatcher.sansio.records import Record, Records, TopicPartition

ONE = TopicPartition("orders", 0)


def delivery(*offsets: int) -> Delivery:
    """Records with these offsets."""
    records = Records.of([Record(offset, None, None, b"", ()) for offset in offsets])
    return Delivery(ONE, records, range(len(offsets)), 10)


@pytest.mark.parametrize("size", [0, 3])
def test_a_record_counts_for_one_byte_at_least(size: int) -> None:
    """This holds however little of it a write contained."""
    records = Records.of([Record(offset, None, None, b"", ()) for offset in range(5)])
    assert Delivery(ONE, records, range(5), size).each_bytes == 1


@given(st.lists(st.integers(0, 50), unique=True, min_size=1, max_size=20).map(sorted), st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_places_are_found_by_offset(found: list[int], offset: int) -> None:
    """The search agrees with that in a sorted list."""
    sent = delivery(*found)
    assert sent.place_of(offset) == sum(at < offset for at in found)
    assert sent.place_after(offset) == sum(at <= offset for at in found)
    assert [sent.offset_at(place) for place in range(len(found))] == found


def test_what_is_done_is_named_by_its_indexes_in_the_batch() -> None:
    """This holds for any choice of records."""
    records = Records.of([Record(offset, None, None, b"", ()) for offset in range(5)])
    assert list(Done(Delivery(ONE, records, [0, 2, 4], 30), 1, 3).indexes) == [2, 4]
