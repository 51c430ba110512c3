"""Records that wait for their schema hold their partition, in order, and no other."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.kafka import held as held_module
from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.decoding import Group
from dispatcher.kafka.held import HeldRecords, decode_chunk
from dispatcher.sansio.decoded import Decoded
from dispatcher.sansio.ranges import Chunk, Gap
from dispatcher.sansio.records import NO_RECORDS, Batch, Record, Records, TopicPartition

ONE, TWO, PLAIN = TopicPartition("orders", 1), TopicPartition("orders", 2), TopicPartition("plain", 0)


class Decoder:
    """Decodes what begins with a letter that is known."""

    def __init__(self, known: bytes = b"") -> None:
        self.topics = frozenset({"orders"})
        self.asked: frozenset[str] = frozenset()
        self.known = set(known)

    def decode(self, topic: str, records: Records) -> Records:  # noqa: ARG002 - its interface
        """Those before the first that is not known."""
        number = next((n for n, value in enumerate(records.values) if value and value[0] not in self.known), None)
        part = records[:number] if number is not None else records
        if not part:
            return NO_RECORDS
        jsons, empty = [b'"%b"' % (value or b"") for value in part.values], [b""] * len(part)
        return part.with_decoded(Decoded([None] * len(part), jsons, empty, empty))


def group(partition: TopicPartition, offset: int, *values: bytes) -> Group:
    """Consecutive records."""
    return Group(partition, Records.of(Record(offset + n, 1, None, v, ()) for n, v in enumerate(values)), 4)


def passed(
    held: HeldRecords, *groups: Group, gaps: Sequence[Gap] = (), ends: dict[TopicPartition, int] | None = None
) -> PollResult:
    """Return what is passed on of a poll with this."""
    result = PollResult(groups=list(groups), gaps=list(gaps), ends=ends or {})
    held.pass_on(result)
    return result


def offsets(result: PollResult, partition: TopicPartition = ONE) -> list[int]:
    """Return what was passed on of a partition."""
    return [offset for one in result.groups if one.partition == partition for offset in one.records.offsets]


def test_what_is_known_is_decoded_at_once() -> None:
    """Records of other topics are unchanged."""
    held = HeldRecords(Decoder(b"a"))
    plain = group(PLAIN, 7, b"x")
    result = passed(held, group(ONE, 1, b"a1", b"a2"), plain, ends={ONE: 9, PLAIN: 12})
    assert (offsets(result), result.ends, held.partitions) == ([1, 2], {ONE: 9, PLAIN: 12}, frozenset())
    assert plain in result.groups
    (orders,) = [one for one in result.groups if one.partition == ONE]
    assert orders.records.shown_values == [b'"a1"', b'"a2"']
    assert orders.leader_epoch == 4


def test_a_record_that_waits_holds_its_partition_alone() -> None:
    """Earlier records are passed on, later ones wait, and other partitions continue."""
    decoder = Decoder(b"a")
    held = HeldRecords(decoder)
    result = passed(held, group(ONE, 1, b"a", b"b", b"a"), group(TWO, 5, b"a"), ends={ONE: 9, TWO: 8})
    assert (offsets(result), offsets(result, TWO), result.ends) == ([1], [5], {TWO: 8})
    assert held.partitions == frozenset({ONE})
    result = passed(held, group(ONE, 9, b"a"), group(TWO, 8, b"a"))
    assert (offsets(result), offsets(result, TWO)) == ([], [8])
    assert passed(held).groups == []
    decoder.known.add(ord("b"))
    # An end between two groups is passed on before the second: it says that nothing lies between them.
    result = passed(held)
    assert (offsets(result), result.ends, held.partitions) == ([2, 3], {ONE: 9}, frozenset({ONE}))
    result = passed(held)
    assert (offsets(result), held.partitions) == ([9], frozenset())


def test_gaps_keep_their_place() -> None:
    """Gaps precede records within a poll, so a gap after a record waits for the next poll."""
    decoder = Decoder()
    held = HeldRecords(decoder)
    expired = Gap(ONE, 4, 8, "expired")
    assert passed(held, group(ONE, 3, b"b")).groups == []
    other = Gap(TWO, 1, 2, "expired")
    assert passed(held, group(ONE, 9, b"b"), gaps=[expired, other]).gaps == [other]
    decoder.known.add(ord("b"))
    result = passed(held)
    assert (offsets(result), result.gaps) == ([3], [])
    result = passed(held)
    assert (offsets(result), result.gaps, held.partitions) == ([9], [expired], frozenset())


def test_partitions_that_leave_are_forgotten() -> None:
    """Their next owner reads from the committed offset."""
    decoder = Decoder()
    held = HeldRecords(decoder)
    passed(held, group(ONE, 1, b"b"), group(TWO, 1, b"b"))
    held.drop([ONE, PLAIN])
    decoder.known.add(ord("b"))
    result = passed(held)
    assert (offsets(result), offsets(result, TWO)) == ([], [1])


def test_a_call_is_bounded_and_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What had no turn waits for the next poll, which begins with it."""
    monkeypatch.setattr(held_module, "PASS_SECONDS", 0)
    held = HeldRecords(Decoder(b"a"))
    assert passed(held, group(ONE, 1, b"a")).groups == []
    assert held.partitions == frozenset({ONE})
    monkeypatch.setattr(held_module, "PASS_SECONDS", 60)
    assert offsets(passed(held)) == [1]


@settings(max_examples=60)
@given(st.data())
def test_everything_is_passed_on_once_and_in_order(data: st.DataObject) -> None:
    """This holds for any polls, and for any arrival of schemas."""
    decoder = Decoder(b"a")
    held = HeldRecords(decoder)
    brought: dict[TopicPartition, list[int]] = {ONE: [], TWO: []}
    got: dict[TopicPartition, list[int]] = {ONE: [], TWO: []}
    for _ in range(data.draw(st.integers(1, 6))):
        groups = []
        for tp in data.draw(st.lists(st.sampled_from([ONE, TWO]), max_size=3)):
            values = data.draw(st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=4))
            groups.append(group(tp, len(brought[tp]), *values))
            brought[tp] += groups[-1].records.offsets
        decoder.known |= data.draw(st.sets(st.sampled_from(b"bc")))
        result = passed(held, *groups)
        for tp, seen in got.items():
            seen.extend(offsets(result, tp))
            assert (seen == brought[tp]) == (tp not in held.partitions)
    decoder.known |= set(b"bc")
    result = passed(held)
    assert brought == {tp: got[tp] + offsets(result, tp) for tp in got}


def test_a_chunk_ends_before_what_waits() -> None:
    """Its partition continues there; one with nothing to give has no answer."""
    batches = [
        Batch(ONE, group(ONE, 5, b"a", b"b").records, leader_epoch=3),
        Batch(ONE, group(ONE, 7, b"a").records),
        Batch(TWO, group(TWO, 1, b"b").records),
        Batch(PLAIN, group(PLAIN, 1, b"x").records),
    ]
    gaps = [Gap(ONE, 1, 4, "expired"), Gap(ONE, 8, 9, "expired"), Gap(PLAIN, 0, 0, "expired")]
    found = decode_chunk(Decoder(b"a"), Chunk(batches, {ONE: 10, TWO: 2, PLAIN: 2}, gaps))
    assert [(one.partition, list(one.records.offsets)) for one in found.batches] == [(ONE, [5]), (PLAIN, [1])]
    assert found.batches[0].leader_epoch == 3
    assert found.next_offsets == {ONE: 6, PLAIN: 2}
    assert list(found.gaps) == [gaps[0], gaps[2]]
    everything = decode_chunk(Decoder(b"ab"), Chunk(batches, {ONE: 10, TWO: 2, PLAIN: 2}, gaps))
    assert everything.next_offsets == {ONE: 10, TWO: 2, PLAIN: 2}
    assert [len(one.records) for one in everything.batches] == [2, 1, 1, 1]
    assert list(everything.gaps) == gaps


def test_what_subscribers_ask_for_is_decoded_beside_what_kafka_delivered() -> None:
    """Waiting records are passed on in order: only subscribers that ask wait."""
    decoder = Decoder(b"a")
    decoder.topics = frozenset()
    held = HeldRecords(decoder)
    first = group(ONE, 1, b"a", b"b", b"a")
    assert passed(held, first).groups == [first], "nobody asks"
    decoder.asked = frozenset({"orders"})
    result = passed(held, first, group(TWO, 5, b"b"), group(PLAIN, 1, b"a"), ends={ONE: 9})
    assert [(one.partition, list(one.records.offsets)) for one in result.groups] == [
        (ONE, [1]),
        (ONE, [2, 3]),
        (TWO, [5]),
        (PLAIN, [1]),
    ]
    assert [one.records.asked is not None for one in result.groups] == [True, False, False, False]
    assert result.groups[0].records.as_asked().shown_values == [b'"a"']
    assert list(result.groups[0].records.shown_values) == [b"a"]
    assert (result.ends, held.partitions) == ({ONE: 9}, frozenset())


def test_what_subscribers_ask_for_delays_no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not decoded in time is passed on undecoded."""
    monkeypatch.setattr(held_module, "ASKED_SECONDS", 0)
    decoder = Decoder(b"a")
    decoder.topics, decoder.asked = frozenset(), frozenset({"orders"})
    some = group(ONE, 1, b"a")
    assert passed(HeldRecords(decoder), some).groups == [some]


def test_a_chunk_is_decoded_for_one_that_asks() -> None:
    """Decoded data is added up to the first waiting record; topics for everybody were decoded before."""
    decoder = Decoder(b"a")
    decoder.topics = frozenset({"plain"})
    batches = [Batch(ONE, group(ONE, 5, b"a", b"b").records), Batch(PLAIN, group(PLAIN, 1, b"x").records)]
    found = decode_chunk(decoder, Chunk(batches, {ONE: 7, PLAIN: 2}, []), frozenset({"orders"}))
    assert [(one.partition, list(one.records.offsets)) for one in found.batches] == [(ONE, [5]), (PLAIN, [1])]
    assert found.batches[0].records.as_asked().shown_values == [b'"a"']
    assert found.batches[0].records.decoded is None
    assert found.next_offsets == {ONE: 6, PLAIN: 2}
