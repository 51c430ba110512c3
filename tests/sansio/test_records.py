"""Batches."""

import pytest

from dispatcher.sansio.records import Batch, Record, TopicPartition

ONE = TopicPartition("assets", 0)


def test_a_batch_covers_the_offsets_before_its_first_record() -> None:
    """Offsets without a record belong to the batch behind them."""
    records = (Record(12, None, b"k", b"v", (("h", None), ("h", b"x"))), Record(15, 7, None, None, ()))
    batch = Batch(ONE, records, covers_from=10, epoch=3, leader_epoch=2)
    assert (batch.covers_from, batch.first_offset, batch.next_offset) == (10, 12, 16)
    assert Batch(ONE, records).covers_from == 12
    assert repr(batch) == "<Batch assets:0 12..15 epoch 3>"
    assert batch.size_bytes > sum(record.size_bytes for record in records) > 2 * 320


def test_an_empty_batch_is_refused() -> None:
    """There is nothing to dispatch in it."""
    with pytest.raises(ValueError, match="at least one"):
        Batch(ONE, ())
