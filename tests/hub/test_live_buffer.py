"""The channel of one live subscriber: its bounds, what a write takes, and what wakes the subscriber's task."""

import pytest
import trio

from dispatcher.hub import live_buffer
from dispatcher.hub.live_buffer import LiveBuffer
from dispatcher.sansio.entries import Cursor, EncodedEntry, Entry, Part
from dispatcher.sansio.history import History
from dispatcher.sansio.records import Batch, Record
from testbed.patience import seconds
from tests.hub.test_hub import ONE, TWO, settle


def items(*sizes: int) -> list[EncodedEntry]:
    """Entries of one record each, with bytes of these sizes."""
    history = History(10**6, max_parked_ranges=10)
    history.lay_out([ONE, TWO], [])
    batches = [Batch(ONE, (Record(n, None, None, b"", ()),)) for n in range(len(sizes))]
    return [
        (history.append(batch), Part(b"", b"x" * size, has_ids=True))
        for batch, size in zip(batches, sizes, strict=True)
    ]


def take(buffer: LiveBuffer, write_bytes: int, cursor: Cursor | None = None) -> list[int]:
    """The sequences of the entries of one write."""
    cursor = cursor or Cursor(frozenset({"assets"}))
    return [entry.sequence for entry, _ in buffer.take(cursor, write_bytes)]


async def test_it_holds_no_more_bytes_than_its_bound_but_for_one_large_entry() -> None:
    """A large record reaches even a subscriber with a small channel."""
    large, small, fits, beyond = items(500, 60, 40, 1)
    buffer = LiveBuffer(100)
    assert buffer.put(large)
    assert not buffer.put(small)
    assert (buffer.size_bytes, buffer.record_count) == (500, 1)
    assert take(buffer, 1) == [large[0].sequence]
    assert [buffer.put(item) for item in (small, fits, beyond)] == [True, True, False]
    assert (buffer.size_bytes, buffer.record_count) == (100, 2)


async def test_it_says_whether_it_is_within_its_bound() -> None:
    """One allowed large entry is within; entries that `put` would refuse and negative counts are not."""
    large, small = items(500, 60)
    buffer = LiveBuffer(100)
    for item in (small, large):
        assert buffer.put(item)
        assert buffer.is_within_bound
        take(buffer, 1)
        assert buffer.is_within_bound
    buffer.size_bytes = 501
    assert not buffer.is_within_bound
    buffer.size_bytes = -1
    assert not buffer.is_within_bound


async def test_it_holds_no_more_entries_than_its_bound_however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The overhead of entries is bounded, too."""
    monkeypatch.setattr(live_buffer, "CHANNEL_ENTRIES", 2)
    buffer = LiveBuffer(10**6)
    assert [buffer.put(item) for item in items(1, 1, 1)] == [True, True, False]
    assert (buffer.size_bytes, buffer.record_count) == (2, 2)


async def test_a_write_joins_entries_up_to_its_size_and_has_one_at_least() -> None:
    """The cursor is then past everything that was taken."""
    entries = items(10, 10, 10, 500)
    buffer, cursor = LiveBuffer(1000), Cursor(frozenset({"assets"}))
    for item in entries:
        assert buffer.put(item)
    sequences = [entry.sequence for entry, _ in entries]
    assert take(buffer, 20, cursor) == sequences[:2]
    assert (cursor.sequence, cursor.seen) == (sequences[1], entries[1][0])
    assert take(buffer, 1, cursor) == [sequences[2]]
    assert take(buffer, 20, cursor) == [sequences[3]]
    assert take(buffer, 20, cursor) == []
    assert (cursor.sequence, buffer.size_bytes, buffer.record_count) == (sequences[3], 0, 0)


async def test_entries_of_a_partition_that_has_left_are_passed_over() -> None:
    """Its new owner sends them; the cursor moves on nevertheless."""
    gone, here = items(10, 10)
    buffer, cursor = LiveBuffer(1000), Cursor(frozenset({"assets"}))
    buffer.put(gone)
    buffer.put(here)
    assert isinstance(gone[0], Entry)
    gone[0].removed = True
    assert take(buffer, 1000, cursor) == [here[0].sequence]
    assert (cursor.sequence, buffer.size_bytes, buffer.record_count) == (here[0].sequence, 0, 0)


async def test_a_wait_ends_with_an_entry_which_the_next_write_begins_with(nursery: trio.Nursery) -> None:
    """The entry is not lost between the two."""
    first, second = items(10, 10)
    buffer, waited = LiveBuffer(1000), trio.Event()

    async def wait() -> None:
        await buffer.wait()
        waited.set()

    nursery.start_soon(wait)
    await settle()
    assert not waited.is_set()
    buffer.put(first)
    buffer.put(second)
    with trio.fail_after(seconds(5)):
        await waited.wait()
    assert take(buffer, 1000) == [first[0].sequence, second[0].sequence]


async def test_a_wake_ends_the_wait_and_is_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake before the wait ends it, too; a full channel needs none, because there is work anyway."""
    monkeypatch.setattr(live_buffer, "CHANNEL_ENTRIES", 2)
    first, second = items(10, 10)
    buffer = LiveBuffer(1000)
    buffer.wake()
    buffer.put(first)
    buffer.wake()
    with trio.fail_after(seconds(5)):
        await buffer.wait()
    assert buffer.put(second)
    assert take(buffer, 1000) == [first[0].sequence, second[0].sequence]


async def test_whoever_falls_back_reads_the_history_instead() -> None:
    """Everything in the buffer is dropped, even the entry that has just ended its wait."""
    first, second, later = items(10, 10, 10)
    buffer = LiveBuffer(20)
    buffer.put(first)
    buffer.put(second)
    with trio.fail_after(seconds(5)):
        await buffer.wait()
    buffer.clear()
    buffer.discard_first()
    assert (buffer.size_bytes, buffer.record_count) == (0, 0)
    assert buffer.put(later)
    assert take(buffer, 1000) == [later[0].sequence]


async def test_a_wait_ends_with_an_error_when_the_subscriber_has_left() -> None:
    """Its task does not hang."""
    buffer = LiveBuffer(20)
    buffer.close()
    with pytest.raises(trio.ClosedResourceError):
        await buffer.wait()
