"""The compact spelling of positions, and the ids that all clients share as data."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.errors import MalformedPositionError
from dispatcher.sansio.compact_position import MAX_PARTITIONS, ranges_of, read_segments, spell_compact, without
from dispatcher.sansio.position import (
    MAX_POSITION_CHARACTERS,
    PLAIN_CHARACTERS,
    format_position,
    parse_position,
    shortest_position,
)
from dispatcher.sansio.records import TopicPartition

SHARED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "client_cases" / "positions.json").read_text())
offsets = st.integers(-1, 2**63 - 1)
pairs = st.dictionaries(st.integers(0, 2**31 - 1) | st.integers(0, 40), offsets, min_size=1, max_size=40)


def read(text: str) -> dict[int, int]:
    """The partitions and offsets of all segments."""
    return {number: offset for segment in read_segments(text) for number, offset in zip(*segment[:2], strict=True)}


@pytest.mark.parametrize("case", SHARED["read"], ids=lambda case: case["about"])
def test_shared_ids_are_read(case: dict[str, Any]) -> None:
    """Each gives the position that every client has to read from it."""
    position = {str(partition): str(offset) for partition, offset in parse_position(case["id"]).items()}
    if "range" in case:
        topic, count, offset = (case["range"][name] for name in ("topic", "partitions", "offset"))
        assert position == {f"{topic}:{number}": offset for number in range(count)}
    else:
        assert position == case["position"]


@pytest.mark.parametrize("case", SHARED["refused"], ids=lambda case: case["about"])
def test_shared_ids_are_refused(case: dict[str, Any]) -> None:
    """Each is wrong in one way, and the error says which."""
    with pytest.raises(MalformedPositionError, match=r"."):
        parse_position(case["id"])


@given(pairs)
def test_what_is_spelled_is_read_back(position: dict[int, int]) -> None:
    """Any partitions and offsets survive spelling and reading."""
    numbers = sorted(position)
    text = spell_compact(numbers, [position[number] for number in numbers])
    assert read(text) == position


def numbers(data: bytes) -> list[int]:
    """One offset for each seven bytes: half of them below 2^20, the others from -1 up, with up to 63 bits."""
    found = []
    for n in range(0, len(data) - 6, 7):
        value, how = int.from_bytes(data[n : n + 6]), data[n + 6]
        found.append(value >> 28 if how & 64 else (value << 15 >> (how & 63)) - 1)
    return found


# Drawn at once: to draw each number by itself takes 9 s of CPU where coverage is measured.
@settings(max_examples=25, suppress_health_check=[HealthCheck.large_base_example])
@given(st.binary(min_size=7 * 800, max_size=7 * 900).map(numbers))
def test_large_ones_are_spelled_in_the_shorter_of_two_ways(many: list[int]) -> None:
    """A few large offsets among small ones get a segment of their own."""
    text = spell_compact(range(len(many)), many)
    assert read(text) == dict(enumerate(many))


def test_a_few_large_offsets_do_not_make_all_wide() -> None:
    """There are 1,000 partitions, three of them with offsets above 2^60."""
    many = [number if number % 400 else 2**60 + number for number in range(1000)]
    assert len(spell_compact(range(1000), many)) < 3000


@pytest.mark.parametrize(("topic", "apart"), [("t" * 249, 2**40), ("ofa_assets", 2**46)])
def test_a_busy_topic_of_a_thousand_partitions_fits(topic: str, apart: int) -> None:
    """With its own pair in front, it fits what proxies and the parser accept."""
    position = {TopicPartition(topic, number): number * (apart // 1000) for number in range(1000)}
    own = TopicPartition(topic, 500)
    text = f"{own}={position.pop(own)};{shortest_position(position)}"
    assert len(text) <= 8192
    assert len(parse_position(text)) == 1000


@given(st.text(alphabet="~AQ_-EIgz0", max_size=60) | st.binary(max_size=60).map(lambda data: f"~{data.hex()}"))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No other exception is raised, and no result is large."""
    try:
        position = parse_position(f"t:{text}")
    except MalformedPositionError:
        return
    assert 0 < len(position) <= MAX_PARTITIONS


@given(st.dictionaries(st.builds(TopicPartition, st.sampled_from("abc"), st.integers(0, 900)), offsets, max_size=20))
def test_the_shortest_spelling_is_plain_for_few(position: dict[TopicPartition, int]) -> None:
    """Short positions keep their plain spelling."""
    assert shortest_position(position) == (format_position(position) if position else "")


def test_the_shortest_spelling_of_many_is_compact() -> None:
    """It is empty if no spelling can hold the position: too many partitions or bytes."""
    position = {TopicPartition(topic, number): number for number in range(1000) for topic in ("a", "b")}
    text = shortest_position(position)
    assert text.startswith("a:~")
    assert ";b:~" in text
    assert parse_position(text) == position
    assert len(format_position(dict(list(position.items())[:500]))) <= PLAIN_CHARACTERS
    assert shortest_position({TopicPartition("a", number): -1 for number in range(MAX_PARTITIONS + 1)}) == ""
    wide = {TopicPartition("a", number): number * 2**52 for number in range(1500)}
    assert shortest_position(wide) == ""
    assert len(shortest_position(dict(list(wide.items())[:500]))) < MAX_POSITION_CHARACTERS


@given(st.sets(st.integers(0, 30), min_size=1), st.data())
def test_a_partition_leaves_its_range(numbers: set[int], data: st.DataObject) -> None:
    """The others' ranges remain, whether it was at an end, in the middle or alone."""
    one = data.draw(st.sampled_from(sorted(numbers)))
    assert without(ranges_of(sorted(numbers)), one) == ranges_of(sorted(numbers - {one}))
