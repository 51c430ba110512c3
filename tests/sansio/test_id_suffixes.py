"""What follows a record's own pair, against the spelling of whole positions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio import id_suffixes
from dispatcher.sansio.id_suffixes import SHORT_CHARACTERS, IdSuffixes
from dispatcher.sansio.layout import Layout
from dispatcher.sansio.position import Snapshot, parse_position
from dispatcher.sansio.records import TopicPartition

partitions = st.builds(TopicPartition, st.sampled_from("abc"), st.integers(0, 9))
layouts = st.sets(partitions, min_size=1, max_size=12)


def suffixes_of(layout: Layout) -> IdSuffixes:
    """Suffixes that nobody has asked for yet."""
    return IdSuffixes(layout)


@given(layouts, st.booleans(), st.data())
def test_an_id_with_the_suffix_is_the_whole_position(
    here: set[TopicPartition], whole: bool, data: st.DataObject
) -> None:
    """This holds for any topics of the stream, and the same template serves all offsets."""
    layout = Layout(here, counts=dict.fromkeys("abc", 0))
    suffixes = suffixes_of(layout)
    own = data.draw(st.integers(0, len(here) - 1))
    topic = layout.partitions[own].topic
    topics = data.draw(st.none() | st.frozensets(st.sampled_from("abc")).map(lambda some: some | {topic}))
    for _ in range(2):
        offsets = tuple(data.draw(st.lists(st.integers(-1, 99), min_size=len(here), max_size=len(here))))
        found = suffixes.find(own, topics, whole=whole)
        assert found is not None
        own_pair = f"{layout.partitions[own]}={offsets[own]}"
        assert found.own_characters + len(str(offsets[own])) == len(own_pair)
        position = own_pair + found.format(layout.cut(offsets))
        assert position == Snapshot.of(layout, offsets).format(topics, own, whole=whole)
        named = dict(zip(layout.partitions, offsets, strict=True))
        read = parse_position(position)
        assert {tp: read[tp] for tp in named if topics is None or tp.topic in topics}.items() <= named.items()


def test_there_is_none_where_ids_would_be_long() -> None:
    """Each pair has four characters or more, so nothing has to be spelled to know that."""
    number = SHORT_CHARACTERS // 4
    assert suffixes_of(Layout([TopicPartition("a", n) for n in range(number)])).find(0, None, whole=False) is not None
    layout = Layout([TopicPartition(topic, n) for topic in "ab" for n in range(number)])
    assert suffixes_of(layout).find(0, None, whole=False) is None
    assert suffixes_of(layout).find(0, frozenset({"a"}), whole=False) is not None


def test_an_unknown_offset_is_an_error() -> None:
    """A template names every partition."""
    found = suffixes_of(Layout([TopicPartition("a", n) for n in range(3)])).find(0, None, whole=False)
    assert found is not None
    with pytest.raises(TypeError):
        found.format(((1, None, 2),))


def test_clients_cannot_make_it_keep_more_and_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """They choose the topics of their streams."""
    monkeypatch.setattr(id_suffixes, "MAX_SUFFIXES", 3)
    suffixes = suffixes_of(Layout([TopicPartition("a", n) for n in range(9)]))
    for own in [*range(9), *range(9)]:
        found = suffixes.find(own, None, whole=False)
        assert found is not None
        assert found.format((tuple(range(9)),)) == "".join(f",{n}={n}" for n in range(9) if n != own)
        assert len(suffixes._found) <= 3
