"""Records by column, and batches."""

from collections.abc import Sequence

import pytest

from dispatcher.sansio.decoded import Decoded
from dispatcher.sansio.ranges import Gap, recreated
from dispatcher.sansio.records import (
    HEADER_OVERHEAD_BYTES,
    NO_RECORDS,
    RECORD_OVERHEAD_BYTES,
    Batch,
    Record,
    Records,
    TopicPartition,
)
from dispatcher.sansio.spelling import Spelling

ONE = TopicPartition("assets", 0)
FEW = (
    Record(12, None, b"k", b"v", (("h", None), ("h", b"x"))),
    Record(15, 7, None, None, ()),
    Record(16, 8, None, b"value", ()),
)


def test_records_come_back_as_they_were() -> None:
    """This holds for single records, slices, all, and none."""
    records = Records.of(FEW)
    assert tuple(records) == FEW
    assert (records[0], records[-1], len(records)) == (FEW[0], FEW[-1], 3)
    assert tuple(records[1:]) == FEW[1:]
    assert not Records.of(())
    assert tuple(NO_RECORDS) == ()


def test_records_are_as_large_as_all_that_they_hold() -> None:
    """The size includes the payload, and the objects around it."""
    names_and_contents = 2 * HEADER_OVERHEAD_BYTES + len("hhx")
    assert Records.of(FEW).size_bytes == 3 * RECORD_OVERHEAD_BYTES + len("kvvalue") + names_and_contents
    assert Records.of(FEW)[1:].size_bytes == 2 * RECORD_OVERHEAD_BYTES + len("value")


def test_a_batch_covers_the_offsets_before_its_first_record() -> None:
    """Offsets without a record belong to the batch after them."""
    batch = Batch(ONE, FEW, covers_from=10, epoch=3, leader_epoch=2)
    assert (batch.covers_from, batch.first_offset, batch.next_offset) == (10, 12, 17)
    assert Batch(ONE, FEW).covers_from == 12
    assert repr(batch) == "<Batch assets:0 12..16 epoch 3>"
    assert batch.size_bytes > batch.records.size_bytes


def test_an_empty_batch_is_refused() -> None:
    """It would have nothing to dispatch."""
    with pytest.raises(ValueError, match="at least one"):
        Batch(ONE, ())


def test_a_batch_may_stand_for_a_gap() -> None:
    """It covers the gap's offsets; a gap before records belongs to their batch."""
    partition = TopicPartition("assets", 0)
    gap = Gap(partition, 3, 7, "expired")
    alone = Batch(partition, NO_RECORDS, gap=gap)
    assert (alone.covers_from, alone.first_offset, alone.next_offset, len(alone.records)) == (3, 3, 8, 0)
    before = Batch(partition, [Record(8, None, None, b"8", ())], covers_from=3, gap=gap)
    assert (before.covers_from, before.first_offset, before.next_offset) == (3, 8, 9)


@pytest.mark.parametrize(
    ("gap", "offsets", "owed"),
    [
        (None, (5,), [None] * 4),
        (Gap(ONE, 3, 4, "expired"), (5,), [3, 3, 4, None]),
        (Gap(ONE, 3, 4, "expired"), (), [3, 3, 4, None]),
        (recreated(ONE, 50, 4), (5,), [50, 50, 50, 50]),
        (recreated(ONE, 50, 0), (4,), [50, 50, 50, None]),
        (recreated(ONE, 0, 4), (4,), [0, 0, 0, None]),
    ],
)
def test_a_gap_is_owed_to_readers_that_need_what_follows_it(
    gap: Gap | None, offsets: Sequence[int], owed: list[int | None]
) -> None:
    """To one within it, the rest of it; that of a recreated topic, whole, to each that needs the first record."""
    batch = Batch(ONE, [Record(offset, None, None, b"", ()) for offset in offsets], covers_from=2, gap=gap)
    found = [batch.gap_from(offset) for offset in (2, 3, 4, 5)]
    assert [each and each.first for each in found] == owed
    assert {each and each.last for each in found} <= {None, gap and gap.last}


def test_values_are_shown_as_what_they_were_decoded_to() -> None:
    """Parts keep their decoded values, which count as memory."""
    plain = Records.of(Record(5 + n, 1_000, b"k", b"v", ()) for n in range(3))
    assert plain.shown_values is plain.values
    decoded = plain.with_decoded(Decoded((None,) * 3, (b"1", None, b"3"), (b"",) * 3, (b"",) * 3))
    assert decoded.shown_values == [b"1", b"v", b"3"]
    assert decoded[1:].shown_values == [b"v", b"3"]
    assert decoded.take([2, 0]).shown_values == [b"3", b"1"]
    assert decoded.size_bytes > plain.size_bytes


def test_records_are_spelled_for_an_encoder() -> None:
    """Invalid UTF-8 becomes text on request, and base64 is left to the encoder."""
    records = Records.of([Record(0, 1, b"\xff", b"\xff", ())])
    text, mixed = records.spelled(Spelling("text", "text")), records.spelled(Spelling("base64", "auto"))
    assert (text.keys, text.values) == ([b"\xef\xbf\xbd"], [b"\xef\xbf\xbd"])
    assert (mixed.keys, mixed.values, mixed.spelling) == (records.keys, records.values, Spelling("base64", "auto"))
    assert tuple(mixed.offsets) == tuple(records.offsets)
