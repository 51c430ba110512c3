"""What records were decoded to stays beside them."""

from dispatcher.sansio.decoded import DECODED_OVERHEAD_BYTES, Decoded, joined
from dispatcher.sansio.records import Record, Records

DECODED = Decoded((b'"k"', None, None), (b"1", b"22", None), (b',"key_schema":7', b"", b""), (b"", b"", b',"e":1'))
RECORDS = Records.of(Record(5 + n, 1_000, b"k", b"v", ()) for n in range(3))


def test_what_was_decoded_counts_as_memory() -> None:
    """The columns count, alone and together with their records."""
    assert DECODED.size_bytes == 3 * DECODED_OVERHEAD_BYTES + 3 + 1 + 2
    assert RECORDS.with_decoded(DECODED).size_bytes == RECORDS.size_bytes + DECODED.size_bytes


def test_parts_of_records_have_their_parts_of_it() -> None:
    """Slices and selections keep their columns; other records have none."""
    records = RECORDS.with_decoded(DECODED)
    assert (list(records.offsets), records.values) == ([5, 6, 7], (b"v",) * 3)
    assert records[1:].decoded == ((None, None), (b"22", None), (b"", b""), (b"", b',"e":1'))
    assert records.take([0, 2]).decoded == ([b'"k"', None], [b"1", None], [b',"key_schema":7', b""], [b"", b',"e":1'])
    assert (RECORDS[1:].decoded, RECORDS.take([0]).decoded) == (None, None)


def test_what_was_decoded_for_those_that_ask_is_kept_apart() -> None:
    """It counts as memory, stays with parts of the records, and only subscribers that ask see it."""
    records = RECORDS.with_asked(DECODED)
    assert records.size_bytes == RECORDS.size_bytes + DECODED.size_bytes
    assert (records.decoded, list(records.shown_values)) == (None, [b"v"] * 3)
    assert records.as_asked().shown_values == [b"1", b"22", b"v"]
    assert records[1:].as_asked().shown_values == [b"22", b"v"]
    assert records.take([0, 2]).as_asked().shown_values == [b"1", b"v"]
    assert RECORDS.as_asked() is RECORDS


def test_parts_of_what_was_decoded_are_joined() -> None:
    """Parts are joined in order, and a single one is returned as it is."""
    assert joined([DECODED]) is DECODED
    both = joined([DECODED.part(slice(0, 1)), DECODED.part(slice(1, 3))])
    assert [list(column) for column in both] == [list(column) for column in DECODED]
