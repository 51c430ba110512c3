"""How long ids may become, against the ids that are spelled."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.errors import BadRequestError
from dispatcher.sansio.id_lengths import check_whole_topics, ids_fit, longest_id
from dispatcher.sansio.id_suffixes import SHORT_CHARACTERS
from dispatcher.sansio.layout import Layout
from dispatcher.sansio.position import MAX_POSITION_CHARACTERS, Snapshot, parse_position
from dispatcher.sansio.records import TopicPartition

APART = 2**40
LARGEST = 2**63 - 1
SPARE_CHARACTERS = 100

numbers = st.sets(st.integers(0, 2**31 - 1) | st.integers(0, 300), max_size=30) | st.sampled_from(
    [range(64), range(900)]
)
layouts = st.dictionaries(st.text("abc._-", min_size=3, max_size=249), numbers, min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(layouts, st.integers(-1, LARGEST - APART), st.data())
def test_no_id_is_longer(named: dict[str, set[int] | range], low: int, data: st.DataObject) -> None:
    """This holds for any partitions whose offsets are within 2^40 of each other."""
    partitions = [TopicPartition(topic, number) for topic, numbers in named.items() for number in numbers]
    if not partitions:
        return
    longest = longest_id({topic: sorted(numbers) for topic, numbers in named.items()})
    layout = Layout(partitions)
    offsets = tuple(low + (APART - 1 if index % 2 else 0) for index in range(len(partitions)))
    own = data.draw(st.integers(0, len(partitions) - 1))
    text = Snapshot.of(layout, offsets).format(own=own)
    if longest <= MAX_POSITION_CHARACTERS:
        assert len(text) <= max(longest, SHORT_CHARACTERS)
        assert len(parse_position(text)) == len(partitions)


@pytest.mark.parametrize("count", [300, 1000, 1190])
def test_the_longest_id_is_hardly_shorter(count: int) -> None:
    """Nothing is refused that is not near the limit."""
    layout = Layout([TopicPartition("assets", number) for number in range(count)])
    offsets = tuple(2 * APART - number % 2 * (APART - 1) for number in range(count))
    text = Snapshot.of(layout, offsets).format(own=count // 2)
    assert longest_id({"assets": range(count)}) - SPARE_CHARACTERS < len(text) <= longest_id({"assets": range(count)})
    assert ids_fit({"assets": range(count)})


def test_what_does_not_fit_is_refused_with_what_to_do() -> None:
    """All topics of the stream count together, and no others."""
    counts = {"a": 1000, "b": 1000, "c": 3}
    check_whole_topics({"a", "c"}, counts)
    check_whole_topics({"a", "unknown"}, counts)
    check_whole_topics({"unknown"}, counts)
    assert ids_fit({"a": (), "b": range(1000)})
    with pytest.raises(BadRequestError, match=r"ids could have \d+ characters, 8192 fit: name fewer topics, or scope="):
        check_whole_topics({"a", "b"}, counts)
