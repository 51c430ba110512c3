"""What was read of ranges of offsets."""

from dispatcher.sansio.ranges import Chunk, Gap
from dispatcher.sansio.records import Batch, Record, TopicPartition

ONE, TWO = TopicPartition("assets", 0), TopicPartition("assets", 1)


def batch(partition: TopicPartition, *offsets: int) -> Batch:
    """Records with these offsets."""
    return Batch(partition, [Record(offset, None, None, b"", ()) for offset in offsets])


def test_offsets_without_a_record_or_a_gap_are_absent_up_to_where_the_chunk_ends() -> None:
    """Consecutive records or not, and each partition by itself."""
    batches = batch(ONE, 2, 3), batch(TWO, 2), batch(ONE, 9, 11)
    chunk = Chunk(batches, {ONE: 14, TWO: 3}, (Gap(ONE, 5, 6, "expired"), Gap(TWO, 0, 1, "expired")))
    assert chunk.absent(ONE, 1) == [(1, 2), (4, 5), (7, 9), (10, 11), (12, 14)]
    assert chunk.absent(TWO, 0) == []
