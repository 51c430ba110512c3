"""Positions and event ids."""

import sys
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import MalformedPositionError
from dispatcher.sansio import id_suffixes
from dispatcher.sansio.compact_position import MAX_PARTITIONS, spell_compact, spell_segments, spell_varint
from dispatcher.sansio.layout import CHUNK, Layout
from dispatcher.sansio.position import (
    MAX_POSITION_CHARACTERS,
    OFFSET_BYTES,
    Snapshot,
    format_position,
    parse_position,
    parse_usable,
    shortest_position,
)
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.starts import counts_begun_with

partitions = st.builds(
    TopicPartition,
    st.from_regex(r"[a-zA-Z0-9._-]{1,20}", fullmatch=True).filter(lambda name: name not in {".", ".."}),
    st.integers(0, 2**31 - 1),
)
positions = st.dictionaries(partitions, st.integers(-1, 2**63 - 1), min_size=1, max_size=8)


def test_the_example_of_the_design() -> None:
    """The record's own partition comes first, then the others."""
    position = {TopicPartition("ofa_assets", n): o for n, o in ((0, 998), (1, 1001), (3, 1042))}
    assert format_position(position, TopicPartition("ofa_assets", 3)) == "ofa_assets:3=1042,0=998,1=1001"


def test_several_topics() -> None:
    """Topics are separated by semicolons, and the record's own comes first."""
    position = {TopicPartition("a", 0): 1, TopicPartition("b", 0): -1, TopicPartition("b", 1): 5}
    assert format_position(position, TopicPartition("b", 1)) == "b:1=5,0=-1;a:0=1"
    assert format_position(position) == "a:0=1;b:0=-1,1=5"


@given(positions, st.data())
def test_what_is_spelled_is_read_back(position: dict[TopicPartition, int], data: st.DataObject) -> None:
    """The first pair is the record's own."""
    own = data.draw(st.sampled_from(sorted(position)))
    text = format_position(position, own)
    assert position == parse_position(text)
    assert text.startswith(f"{own}={position[own]}")
    assert position == parse_position(format_position(position))


def test_a_snapshot_leaves_out_what_is_unknown_and_other_topics() -> None:
    """Ids lack partitions without a position, and topics of other streams."""
    layout = Layout([TopicPartition("b", 0), TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("a", 2)])
    snapshot = Snapshot.of(layout, (7, None, 9, 3))
    assert snapshot.short_suffix(0) == ",2=9;b:0=3"
    assert snapshot.short_suffix(0, frozenset({"a"})) == ",2=9"
    assert snapshot.format(frozenset({"a"})) == "a:0=7,2=9"
    assert snapshot.format(own=2) == "a:2=9,0=7;b:0=3"
    assert Snapshot.of(layout, (0, None, -1, None)).format() == "a:0=0,2=-1"
    assert Snapshot.of(layout, (None,) * 4).format() == ""


@given(st.dictionaries(partitions, st.none() | st.integers(-1, 2**63 - 1), min_size=1, max_size=8), st.data())
def test_an_id_holds_what_is_known_of_the_streams_topics(
    position: dict[TopicPartition, int | None], data: st.DataObject
) -> None:
    """This holds for any unknown partitions and any topics."""
    layout = Layout(position)
    snapshot = Snapshot.of(layout, tuple(position[partition] for partition in layout.partitions))
    own = data.draw(st.sampled_from(layout.partitions))
    topics = frozenset({own.topic}) | data.draw(st.frozensets(st.sampled_from([p.topic for p in layout.partitions])))
    expected = {p: offset for p, offset in position.items() if offset is not None and p.topic in topics}
    text = snapshot.format(topics)
    assert expected == (parse_position(text) if text else {})
    index = layout.partitions.index(own)
    suffix = snapshot.short_suffix(index, topics)
    if suffix is not None:
        assert {**expected, own: 7} == parse_position(f"{own}=7{suffix}")
    if position[own] is not None:
        text = snapshot.format(topics, index)
        assert expected == parse_position(text)
        assert text.startswith(f"{own}={position[own]}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("x" * 9000, "9000 characters"),
        ("assets", "lacks the ':'"),
        ("assets:0=1;", "lacks the ':'"),
        (":0=1", "not a topic name"),
        ("a b:0=1", "not a topic name"),
        ("..:0=1", "not a topic name: use 1 to 249 of"),
        (f"{'x' * 250}:0=1", "not a topic name"),
        ("assets:0", "lacks the '='"),
        ("assets:", "lacks the '='"),
        ("assets:0=1,", "lacks the '='"),
        ("assets:x=1", "'x' is not a partition"),
        ("assets:01=1", "'01' is not a partition: use 0 to 2147483647, without leading zeros"),
        ("assets:-1=1", "'-1' is not a partition"),
        ("assets:2147483648=1", "is not a partition"),
        ("assets:0=", "'' is not an offset"),
        ("assets:0=1.5", "is not an offset"),
        ("assets:0=-2", "'-2' is not an offset: use -1, or 0 to 9223372036854775807"),
        ("assets:0=٣", "is not an offset"),
        ("assets:0=9223372036854775808", "is not an offset"),
        ("assets:0=1,0=2", "assets:0 is named twice"),
        ("assets:0=1;assets:0=2", "assets:0 is named twice"),
    ],
)
def test_problems_are_reported(text: str, reason: str) -> None:
    """Each malformed id has a reason that a person can act on."""
    with pytest.raises(MalformedPositionError, match=reason):
        parse_position(text)


@given(st.text(max_size=60))
def test_any_text_is_a_position_or_an_error(text: str) -> None:
    """No other exception is raised."""
    try:
        position = parse_position(text)
    except MalformedPositionError:
        return
    assert position == parse_position(format_position(position))


def snapshot_of(number: int, spread: int) -> Snapshot:
    """This many partitions, whose offsets are within a range."""
    offsets = [10**9 + partition * 7919 % spread for partition in range(number)]
    return Snapshot.of(Layout([TopicPartition("assets", partition) for partition in range(number)]), tuple(offsets))


@pytest.mark.parametrize("own", [None, 0, 150, 299])
def test_a_long_position_is_spelled_compactly(own: int | None) -> None:
    """It is about a sixth as long, and still begins with the record's own pair."""
    snapshot = snapshot_of(300, 100)
    partitions = snapshot.layout.partitions
    text = snapshot.format(own=own)
    assert parse_position(text) == dict(zip(partitions, snapshot.offsets, strict=True))
    assert text.startswith("assets:~" if own is None else f"{partitions[own]}={snapshot.offsets[own]};assets:~")
    assert len(text) < 450
    assert snapshot.short_suffix(own or 0) is None


def test_a_long_position_leaves_out_what_is_unknown() -> None:
    """It does so like a short one."""
    known = snapshot_of(300, 100)
    snapshot = Snapshot.of(known.layout, (None, *known.offsets[1:100], *[None] * 200))
    expected = dict(zip(known.layout.partitions[1:100], known.offsets[1:100], strict=True))
    assert parse_position(snapshot.format(own=50)) == expected
    assert parse_position(snapshot.format()) == expected


def test_other_topics_of_a_long_position_are_apart() -> None:
    """Each topic is spelled separately, and other streams' topics are left out."""
    layout = Layout([TopicPartition(topic, number) for topic in ("a", "b", "c") for number in range(60)])
    snapshot = Snapshot.of(layout, tuple(range(180)))
    position = parse_position(snapshot.format(frozenset({"a", "c"}), 5))
    assert position == {tp: n for tp, n in zip(layout.partitions, range(180), strict=True) if tp.topic != "b"}


def test_an_id_is_never_longer_than_one_that_is_taken_back() -> None:
    """An EventSource with a refused id gives up for good, so a single pair is better."""
    for snapshot in (snapshot_of(3000, 2**40), snapshot_of(8193, 1)):
        assert snapshot.format(own=7) == f"assets:7={snapshot.offsets[7]}"
        assert snapshot.format() == ""


def test_a_thousand_partitions_of_a_busy_topic_fit() -> None:
    """With a year's distance between offsets, ids stay below what proxies accept."""
    assert len(snapshot_of(1000, 2**30).format(own=7)) <= MAX_POSITION_CHARACTERS


@given(positions)
def test_clients_spell_long_positions_compactly(position: dict[TopicPartition, int]) -> None:
    """Short positions are spelled plainly, which every server can read."""
    assert parse_position(shortest_position(position)) == position
    assert shortest_position(position) == format_position(position)
    many = {TopicPartition("assets", number): number for number in range(1000)}
    assert shortest_position(many).startswith("assets:~")
    assert parse_position(shortest_position(many)) == many
    assert shortest_position({}) == ""


def test_a_position_of_few_partitions_may_be_long() -> None:
    """Large offsets make it long, and any partition may be the record's own."""
    position = {TopicPartition("assets", number): 2**60 + number for number in range(64)}
    layout = Layout(position)
    snapshot = Snapshot.of(layout, tuple(position.values()))
    for own in range(64):
        assert parse_position(snapshot.format(own=own)) == position
    many = snapshot_of(300, 100)
    for own in range(70):
        assert len(parse_position(many.format(own=own))) == 300


def test_streams_of_the_replicas_own_partitions_do_not_name_followed_ones() -> None:
    """Snapshots contain another snapshot without followed partitions."""
    partitions = [TopicPartition("assets", number) for number in range(3)]
    snapshot = Snapshot.of(Layout(partitions, [partitions[1]]), (5, 6, 7))
    assert snapshot.format() == "assets:0=5,1=6,2=7"
    assert snapshot.owned().format() == "assets:0=5,2=7"
    at_hand = Snapshot(snapshot.layout, snapshot.chunks, owned=snapshot.owned())
    assert at_hand.owned() is at_hand.owned()
    assert at_hand.owned().format() == "assets:0=5,2=7"
    alone = Snapshot.of(Layout(partitions), (5, 6, 7))
    assert alone.owned() is alone


def test_what_spelling_has_in_common_is_kept_for_64_of_the_partitions() -> None:
    """Ids of all other partitions are right as well."""
    snapshot = snapshot_of(80, 2**60)
    expected = dict(zip(snapshot.layout.partitions, snapshot.offsets, strict=True))
    for own in [*range(80), *range(80)]:
        assert parse_position(snapshot.format(own=own)) == expected
    only = Snapshot.of(Layout([*snapshot.layout.partitions, TopicPartition("one", 0)]), (*snapshot.offsets, 1))
    assert only.format(own=80).partition(";")[0] == "one:0=1"


def test_no_id_names_more_partitions_than_are_taken() -> None:
    """Spelled in many parts, it would be short enough."""
    text = ";".join(f"topic-{number}:{spell(range(MAX_PARTITIONS // 2 + 1))}" for number in range(2))
    assert len(text) <= MAX_POSITION_CHARACTERS
    with pytest.raises(MalformedPositionError, match=f"more than {MAX_PARTITIONS} partitions"):
        parse_position(text)


def spell(numbers: range) -> str:
    """Compactly, all of them at the same offset."""
    return spell_compact(numbers, [5] * len(numbers))


WHOLE_LAYOUTS = pytest.mark.parametrize(
    ("count", "topics"), [(1, ["a"]), (6, ["a"]), (6, ["a", "b"]), (100, ["a"]), (100, ["a", "b"])]
)


@WHOLE_LAYOUTS
def test_ids_of_the_whole_topic_say_how_many_partitions_there_are(count: int, topics: list[str]) -> None:
    """Plain or compact, they name the next partition as not seen yet."""
    layout = Layout([TopicPartition(topic, number) for topic in topics for number in range(count)], counts={})
    snapshot = Snapshot.of(layout, tuple(range(5, 5 + len(layout.partitions))))
    ids = [snapshot.format(whole=True), snapshot.format(own=0, whole=True)]
    if (suffix := snapshot.short_suffix(0, whole=True)) is not None:
        ids.append(f"a:0=5{suffix}")
    for text in ids:
        position = parse_position(text)
        assert len(position) == len(topics) * (count + 1)
        assert counts_begun_with(position) == dict.fromkeys(topics, count)
    assert counts_begun_with(parse_position(snapshot.format(own=0))) == {}


@pytest.mark.parametrize(
    ("numbers", "counts", "offsets"),
    [
        pytest.param((0, 1), None, (5, 5), id="it is not known which are all"),
        pytest.param((0, 2), {}, (5, 5), id="one is missing"),
        pytest.param((0, 1), {"a": 3}, (5, 5), id="there were more"),
        pytest.param((0, 1), {"a": 2}, (5, None), id="nothing is known of one"),
    ],
)
def test_ids_do_not_say_how_many_partitions_there_are_where_that_is_not_certain(
    numbers: tuple[int, ...], counts: dict[str, int] | None, offsets: tuple[int | None, ...]
) -> None:
    """Otherwise a client would get a known partition again from its start."""
    snapshot = Snapshot.of(Layout([TopicPartition("a", number) for number in numbers], counts=counts), offsets)
    assert counts_begun_with(parse_position(snapshot.format(whole=True))) == {}


@pytest.mark.parametrize(
    "text",
    [
        "assets:" + ",".join(f"{number}={1000 + number}" for number in range(800)),
        "assets:" + spell_compact(range(800), [number * 2**36 for number in range(800)]),
    ],
    ids=["plain", "compact"],
)
def test_reading_a_long_id_costs_three_calls_per_partition(text: str) -> None:
    """Checking each number separately took 2 ms for an id of 8 KiB."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        position = parse_position(text)
    finally:
        sys.setprofile(before)
    assert MAX_POSITION_CHARACTERS * 0.75 < len(text) <= MAX_POSITION_CHARACTERS
    assert len(position) == 800
    assert calls <= 4 * len(position)


def test_clients_cannot_make_layouts_keep_more_and_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """They choose the topics of their streams."""
    monkeypatch.setattr(id_suffixes, "MAX_SUFFIXES", 3)
    layout = Layout([TopicPartition("assets", number) for number in range(3)])
    for number in range(9):
        topics = frozenset({"assets", f"other-{number}"})
        assert Snapshot.of(layout, (5, 6, 7)).format(topics) == "assets:0=5,1=6,2=7"
        assert len(layout._chosen) <= 3


def test_a_snapshot_shares_equal_chunks_with_another_one() -> None:
    """It takes the memory of the others alone; a snapshot of another layout has nothing to share."""
    before = snapshot_of(300, 100)
    offsets = list(before.offsets)
    offsets[40] = 3
    after = Snapshot.of(before.layout, offsets, before)
    assert after.offsets == tuple(offsets)
    assert [old is new for old, new in zip(before.chunks, after.chunks, strict=True)] == [True, False, *[True] * 8]
    assert after.size_bytes == OFFSET_BYTES * (CHUNK + 10)
    assert Snapshot.of(Layout(before.layout.partitions), offsets, before).size_bytes == OFFSET_BYTES * (300 + 10)


def test_a_snapshot_that_ends_earlier_in_one_partition() -> None:
    """Nothing else differs."""
    before = snapshot_of(300, 100)
    after = before.ending(40, 3)
    assert after.offsets == (*before.offsets[:40], 3, *before.offsets[41:])
    assert parse_position(after.format()) == dict(zip(before.layout.partitions, after.offsets, strict=True))


def test_a_reader_that_has_the_same_offsets_shares_the_chunks_of_the_head() -> None:
    """Where it lags, the chunk is its own, with the same objects for all other offsets."""
    head = snapshot_of(300, 100)
    offsets = zip(head.layout.partitions, head.offsets, strict=True)
    next_offsets = {tp: cast("int", offset) + 1 for tp, offset in offsets}
    lagging = head.layout.partitions[40]
    next_offsets[lagging] -= 7
    place = head.moved_to(next_offsets, frozenset({lagging.topic}))
    assert place is not None
    assert parse_position(place.format()) == {tp: offset - 1 for tp, offset in next_offsets.items()}
    assert [old is new for old, new in zip(head.chunks, place.chunks, strict=True)] == [True, False, *[True] * 8]
    same = [old is new for old, new in zip(head.chunks[1], place.chunks[1], strict=True)]
    assert same.count(False) == 1


def test_a_place_names_the_topics_of_its_reader_and_only_what_is_known() -> None:
    """Partitions that the layout lacks cannot be named."""
    first, second, other = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)
    head = Snapshot.of(Layout([first, second, other]), (5, 6, 7))
    topics = frozenset({"a"})
    place = head.moved_to({first: 4}, topics)
    assert place is not None
    assert place.format(topics) == "a:0=3"
    assert head.moved_to({first: 4, other: 8}, topics) is None
    assert head.moved_to({first: 4, TopicPartition("a", 2): 8}, topics) is None


def test_segments_that_name_a_partition_twice_are_refused() -> None:
    """Within one topic, or when the topic is named again."""
    twice = "a:" + spell_compact([3, 4], [1, 2])
    with pytest.raises(MalformedPositionError, match="a:4 is named twice"):
        parse_position(f"{twice};a:{spell_compact([4, 5], [1, 2])}")
    assert parse_position(f"{twice};a:{spell_compact([5], [7])}")[TopicPartition("a", 5)] == 7


@given(st.dictionaries(st.integers(0, 60), st.integers(-1, 2**63 - 1), min_size=1), st.integers(0, 70))
def test_what_nobody_could_use_is_left_out_and_counted(offsets: dict[int, int], end: int) -> None:
    """What is left is the same as without the bound."""
    numbers = sorted(offsets)
    text = f"a:{spell_compact(numbers, [offsets[number] for number in numbers])};b:~AQEAAAMA"
    position, left_out = parse_usable(text, {"a": end, "b": 9}.__getitem__)
    whole = parse_position(text)
    assert position == {tp: offset for tp, offset in whole.items() if tp.partition < end or tp.topic == "b"}
    assert len(position) + left_out == len(whole)


def test_ids_are_bounded_by_what_they_name_whatever_is_left_out() -> None:
    """A short id could otherwise name millions of partitions, or an offset too high to be one."""
    many = spell_compact(range(MAX_PARTITIONS), [5] * MAX_PARTITIONS)
    assert parse_usable(f"a:{many}", lambda _: 1) == ({TopicPartition("a", 0): 5}, MAX_PARTITIONS - 1)
    with pytest.raises(MalformedPositionError, match="more than 8192 partitions"):
        parse_usable(f"a:{many};b:{many}", lambda _: 0)
    high = spell_segments(b"\x01\x00\x01" + spell_varint(2**63) + b"\x01\x00\x01")
    with pytest.raises(MalformedPositionError, match="names an offset above"):
        parse_usable(f"a:{high}", lambda _: 1)
