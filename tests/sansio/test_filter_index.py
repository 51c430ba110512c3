"""The index of filters finds what each filter wants, and nothing else."""

import random
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio import filter_index
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.filter_index import FilterIndex, IndexStatistics, anchors
from dispatcher.sansio.filters import Filter, Not, all_of, on_topic
from dispatcher.sansio.grant_filters import granted
from dispatcher.sansio.record_view import View
from dispatcher.sansio.records import Record, Records, TopicPartition

TP = TopicPartition("orders", 1)
TEXTS = st.sampled_from(["a", "ab", "b", "1", "true"])
PLACES = st.sampled_from(["key", "header.h", "header.g", "/a", "/b/0", "/a/b"])


def _terms() -> st.SearchStrategy[Any]:
    value = st.builds(
        lambda operator, place, text: {operator: {place: text}},
        st.sampled_from(["exact", "prefix", "suffix"]),
        PLACES,
        TEXTS,
    )
    several = st.builds(lambda place, texts: {"in": {place: texts}}, PLACES, st.lists(TEXTS, min_size=1, max_size=3))
    exists = st.builds(lambda place, is_there: {"exists": {place: is_there}}, PLACES, st.booleans())
    partition = st.sampled_from([{"exact": {"partition": "1"}}, {"exact": {"partition": "2"}}])
    return value | several | exists | partition


DOCUMENTS = st.recursive(
    _terms(),
    lambda inner: (
        st.builds(
            lambda operator, parts: {operator: parts},
            st.sampled_from(["all", "any"]),
            st.lists(inner, min_size=1, max_size=3),
        )
        | st.builds(lambda part: {"not": part}, inner)
    ),
    max_leaves=6,
)
VALUES = st.none() | st.sampled_from(
    [b"a", b"", b"{", b'{"a":"ab","b":[1]}', b'{"a":{"b":"a"}}', b'{"a":true,"b":["b"]}', b'{"a":1}', b"[1]"]
)
HEADERS = st.lists(
    st.tuples(st.sampled_from(["h", "g"]), st.none() | st.sampled_from([b"a", b"ab", b"1"])), max_size=3
).map(tuple)
RECORDS = st.lists(
    st.builds(
        lambda key, value, headers: Record(0, 1, key, value, headers),
        st.none() | st.sampled_from([b"a", b"ab", b"b", b"\xff"]),
        VALUES,
        HEADERS,
    ),
    min_size=1,
    max_size=5,
)

SOME = [
    Record(0, 1, b"a", None, ()),
    Record(1, 1, b"ab", b'{"a":"ab","b":[1]}', (("h", b"a"), ("g", b"1"))),
    Record(2, 1, None, b'{"a":{"b":"a"}}', (("h", None),)),
]


def naive(document: Any, record: Record) -> bool:
    """What the documentation says of a filter, word for word."""
    ((operator, operand),) = document.items()
    if operator == "all":
        return all(naive(part, record) for part in operand)
    if operator == "any":
        return any(naive(part, record) for part in operand)
    if operator == "not":
        return not naive(operand, record)
    ((place, wanted),) = operand.items()
    texts = _texts(place, record)
    if operator == "exists":
        return bool(texts) is wanted
    if operator == "in":
        return any(text in {str(value) for value in wanted} for text in texts)
    return any(text is not None and _compares(operator, text, wanted) for text in texts)


def _compares(operator: str, text: str, wanted: str) -> bool:
    if operator == "exact":
        return text == wanted
    return text.startswith(wanted) if operator == "prefix" else text.endswith(wanted)


def _texts(place: str, record: Record) -> list[str | None]:
    """Each text at a place, None for what exists without one."""
    if place == "partition":
        return [str(TP.partition)]
    if place == "key":
        return [] if record.key is None else [record.key.decode(errors="surrogateescape")]
    if place.startswith("header."):
        return [
            None if value is None else value.decode() for name, value in record.headers if f"header.{name}" == place
        ]
    try:
        found = orjson.loads(record.value or b"")
        for token in place.split("/")[1:]:
            found = found[int(token)] if isinstance(found, list) else found[token]
    except (ValueError, LookupError, TypeError):
        return []
    if isinstance(found, dict | list):
        return [None]
    return [found if isinstance(found, str) else orjson.dumps(found).decode()]


@given(
    documents=st.lists(DOCUMENTS, min_size=1, max_size=12),
    records=RECORDS,
    removed=st.integers(0, 11),
    crowd=st.sampled_from([1, 2, filter_index.CROWD]),
)
def test_the_index_finds_what_every_filter_by_itself_wants(
    documents: list[Any], records: list[Record], removed: int, crowd: int
) -> None:
    """This holds for any filters and records, also after a filter was removed, however many share an anchor."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(filter_index, "CROWD", crowd)
        check(documents, records, removed)


def check(documents: list[Any], records: list[Record], removed: int) -> None:
    """Compare the index with the filters."""
    index: FilterIndex[int] = FilterIndex()
    batch = Records.of([record._replace(offset=offset) for offset, record in enumerate(records)])
    for number, document in enumerate(documents):
        index.add(read_filter(document), number)
    kept = dict(enumerate(documents))
    if removed in kept:
        index.remove(read_filter(kept.pop(removed)), removed)
    expected = {
        number: wanted
        for number, document in kept.items()
        if (wanted := [n for n, record in enumerate(records) if naive(document, record)])
    }
    found = {owner: indexes for owners, indexes in index.match(TP, batch) for owner in owners}
    assert found == expected
    assert index.tried or not expected
    parts = [range(first, min(first + 2, len(batch))) for first in range(0, len(batch), 2)]
    matches = [match for part in parts for match in index.match(TP, batch, part)]
    by_part = [(owner, n) for owners, indexes in matches for owner in owners for n in indexes]
    assert sorted(by_part) == sorted((owner, n) for owner, wanted in expected.items() for n in wanted)
    assert len({read_filter(document) for document in kept.values()}) == len(index)
    for number, document in kept.items():
        index.remove(read_filter(document), number)
    assert not any(kept for name, kept in vars(index).items() if not name.startswith("tried")), (
        "a client makes up the keys: none is kept"
    )


def random_document(choose: random.Random, depth: int = 3) -> Any:
    """A filter by chance; places and values are few, so that many match."""
    kind = choose.randrange(10 if depth else 6)
    place = choose.choice(("key", "header.h", "header.g", "/a", "/a/b", "/b/0"))
    values = choose.sample(("a", "ab", "b", "1", "true"), 2)
    if kind < 3:
        return {("exact", "prefix", "suffix")[kind]: {place: values[0]}}
    if kind < 6:
        return ({"in": {place: values}}, {"exists": {place: choose.random() < 0.5}}, {"exact": {"partition": "1"}})[
            kind - 3
        ]
    if kind == 6:
        return {"not": random_document(choose, depth - 1)}
    parts = [random_document(choose, depth - 1) for _ in range(choose.randint(1, 3))]
    return {("all", "any")[kind % 2]: parts}


def test_ten_thousand_random_filters_want_what_each_by_itself_wants() -> None:
    """Forty thousand pairs of filter and record agree, in indexes of five hundred filters."""
    choose = random.Random(21)  # noqa: S311 - the same each time
    values = (None, b"{", b'{"a":"ab","b":[1]}', b'{"a":{"b":"a"}}', b'{"a":true,"b":["b"]}', b'{"a":1}')
    for _ in range(20):
        documents = [random_document(choose) for _ in range(500)]
        records = [
            Record(
                offset,
                1,
                choose.choice((None, b"a", b"ab", b"b")),
                choose.choice(values),
                tuple((name, choose.choice((None, b"a", b"ab"))) for name in ("h", "g") if choose.random() < 0.5),
            )
            for offset in range(4)
        ]
        index: FilterIndex[int] = FilterIndex()
        for number, document in enumerate(documents):
            index.add(read_filter(document), number)
        found = {owner: indexes for owners, indexes in index.match(TP, Records.of(records)) for owner in owners}
        for number, document in enumerate(documents):
            assert found.get(number, []) == [n for n, record in enumerate(records) if naive(document, record)], document


@given(
    grants=st.lists(st.tuples(st.sampled_from(["a", "b"]), DOCUMENTS), max_size=4),
    document=DOCUMENTS,
    negated=st.booleans(),
)
def test_what_is_left_of_a_filter_for_a_topic_wants_the_same(
    grants: list[tuple[str, Any]], document: Any, negated: bool
) -> None:
    """This holds for any grants beside any filter, also for a topic without a grant."""
    of_topics: dict[str, Sequence[Filter]] = {"b": (), "c": ()}
    for topic, one in grants:
        of_topics[topic] = [*of_topics.get(topic, ()), read_filter(one)]
    parts = [part for part in (granted(of_topics), read_filter(document)) if part is not None]
    whole = Not(all_of(parts)) if negated else all_of(parts)
    for topic in ("a", "b", "c", "d"):
        tp, left = TopicPartition(topic, 0), on_topic(whole, topic)
        view, predicate = View(tp, Records.of(SOME)), None if isinstance(left, bool) else left.compile()
        for index in range(len(SOME)):
            expected = whole.compile()(view.at(index))
            assert expected == (left if predicate is None else predicate(view))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"exact": {"key": "a"}}, [{"exact": {"key": "a"}}]),
        ({"all": [{"exact": {"/a": "x"}}, {"exact": {"header.h": "y"}}]}, [{"exact": {"header.h": "y"}}]),
        ({"all": [{"prefix": {"key": "x"}}, {"suffix": {"key": "y"}}]}, [{"prefix": {"key": "x"}}]),
        ({"all": [{"in": {"key": ["a", "b"]}}, {"exact": {"key": "a"}}]}, [{"exact": {"key": "a"}}]),
        (
            {"any": [{"exact": {"key": "a"}}, {"exact": {"/a": "x"}}]},
            [{"exact": {"/a": "x"}}, {"exact": {"key": "a"}}],
        ),
        ({"any": [{"exact": {"key": "a"}}, {"suffix": {"/a": "x"}}]}, []),
        ({"not": {"exact": {"key": "a"}}}, []),
        ({"suffix": {"key": "a"}}, []),
    ],
    ids=str,
)
def test_a_filter_is_found_by_its_most_selective_comparison(document: Any, expected: list[Any]) -> None:
    """Keys precede headers and fields; an alternative without any is evaluated for every record."""
    found = [term.dialect() for term in anchors(read_filter(document))]
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_equal_filters_are_one() -> None:
    """It has two owners, and stays until the last one has left."""
    index: FilterIndex[str] = FilterIndex()
    wanted = read_filter({"not": {"exact": {"key": "a"}}})
    index.add(wanted, "one")
    index.add(read_filter({"not": {"exact": {"key": "a"}}}), "other")
    assert index.statistics() == IndexStatistics(filters=1, unindexed=1)
    index.remove(wanted, "one")
    ((owners, indexes),) = index.match(TP, Records.of([Record(0, 1, b"b", None, ())]))
    assert (list(owners), indexes) == (["other"], [0])
    index.remove(wanted, "other")
    assert index.statistics() == IndexStatistics(filters=0, unindexed=0)
    with pytest.raises(KeyError):
        index.remove(wanted, "other")


def test_a_record_that_two_anchors_lead_to_is_found_once() -> None:
    """Shared anchors are removed once, with the last filter."""
    index = FilterIndex[str]()
    either = read_filter({"any": [{"exact": {"key": "a"}}, {"exact": {"header.h": "1"}}]})
    same_key = read_filter(
        {
            "any": [
                {"all": [{"exact": {"key": "a"}}, {"prefix": {"/a": "x"}}]},
                {"all": [{"exact": {"key": "a"}}, {"exists": {"/b": True}}]},
            ]
        }
    )
    same_header = read_filter(
        {
            "any": [
                {"all": [{"exact": {"header.h": "1"}}, {"prefix": {"/a": "x"}}]},
                {"all": [{"exact": {"header.h": "1"}}, {"suffix": {"/a": "y"}}]},
            ]
        }
    )
    filters = {"either": either, "same key": same_key, "same header": same_header}
    for owner, wanted in filters.items():
        index.add(wanted, owner)
    records = Records.of([Record(0, 1, b"a", b'{"a":"xy","b":1}', (("h", b"1"),))])
    found = {owner: list(indexes) for owners, indexes in index.match(TP, records) for owner in owners}
    assert found == {owner: [0] for owner in filters}
    for owner, wanted in filters.items():
        index.remove(wanted, owner)
    assert not index


def test_a_thousand_filters_that_want_the_same_records_cost_once_for_each_filter() -> None:
    """The cost does not multiply with the number of records; only what else a filter asks for is tried on each."""
    index, number = FilterIndex[int](), 1000
    for owner in range(number):
        index.add(read_filter({"in": {"key": ["hot", f"{owner}"]}}), owner)
    records = Records.of([Record(n, 1, b"hot" if n % 2 else b"5", None, (("h", b"a"),) * 2) for n in range(500)])
    matches = {owner: indexes for owners, indexes in index.match(TP, records) for owner in owners}
    odd = list(range(1, 500, 2))
    assert [matches.pop(5), *matches.values()] == [list(range(500)), *[odd] * (number - 1)]
    assert len({id(indexes) for indexes in matches.values()}) == 1
    assert index.tried <= number + len(records)
    assert index.tried_singly <= len(records)
    before = index.tried_singly
    for owner in range(filter_index.CROWD):
        wanted = {"any": [{"exact": {"header.h": "a"}}, {"exact": {"header.h": f"{owner}"}}]}
        index.add(read_filter({"all": [wanted, {"exists": {"key": owner % 2 == 0}}]}), -1 - owner)
    found = {owner: indexes for owners, indexes in index.match(TP, records) for owner in owners}
    assert {owner: indexes for owner, indexes in found.items() if owner < 0} == {
        -1 - owner: list(range(500)) for owner in range(0, filter_index.CROWD, 2)
    }
    assert index.tried_singly - before > len(records) * filter_index.CROWD
    assert index.tried > index.tried_singly


def test_each_kind_of_anchor_leads_to_its_record() -> None:
    """Key, prefix, header and pointer each find one filter."""
    index = FilterIndex[str]()
    documents = {
        "key": {"exact": {"key": "ab"}},
        "prefix": {"prefix": {"key": "a"}},
        "header": {"exact": {"header.h": "1"}},
        "pointer": {"exact": {"/a": "xy"}},
    }
    for owner, document in documents.items():
        index.add(read_filter(document), owner)
    records = Records.of([Record(0, 1, b"ab", b'{"a":"xy"}', (("h", b"1"),)), Record(1, 1, b"b", b'{"a":"z"}', ())])
    found = {owner: list(indexes) for owners, indexes in index.match(TP, records) for owner in owners}
    assert found == {owner: [0] for owner in documents}


def test_a_filter_that_goes_leaves_others_of_its_place() -> None:
    """The others are found by the same pointer until the last one is removed."""
    index = FilterIndex[str]()
    wanted = {value: read_filter({"exact": {"/a": value}}) for value in ("x", "y")}
    for owner, record_filter in wanted.items():
        index.add(record_filter, owner)
    records = Records.of([Record(0, 1, None, b'{"a":"x"}', ()), Record(1, 1, None, b'{"a":"y"}', ())])
    index.remove(wanted["x"], "x")
    assert [(list(owners), indexes) for owners, indexes in index.match(TP, records)] == [(["y"], [1])]
    index.remove(wanted["y"], "y")
    assert index.match(TP, records) == []


def test_a_filter_that_was_removed_is_found_no_more_at_any_place() -> None:
    """It leaves nothing, because clients choose keys, prefixes and names."""
    documents = [
        {"prefix": {"key": "a"}},
        {"exact": {"key": "ab"}},
        {"exact": {"header.h": "a"}},
        {"exact": {"/a": "ab"}},
        {"exact": {"partition": "1"}},
        {"suffix": {"key": "b"}},
    ]
    index: FilterIndex[int] = FilterIndex()
    for number, document in enumerate(documents):
        index.add(read_filter(document), number)
    found = {number for owners, _ in index.match(TP, Records.of(SOME)) for number in owners}
    assert found == set(range(len(documents)))
    for number, document in enumerate(documents):
        index.remove(read_filter(document), number)
    assert index.match(TP, Records.of(SOME)) == []
    assert not index


def test_owners_are_named_once_however_many_filters_they_have() -> None:
    """They are in the order of their first filter."""
    index: FilterIndex[str] = FilterIndex()
    one, two = read_filter({"exact": {"key": "a"}}), read_filter({"exact": {"key": "b"}})
    for record_filter, owner in ((one, "first"), (two, "second"), (two, "first")):
        index.add(record_filter, owner)
    assert list(index.owners) == ["first", "second"]
    index.remove(two, "second")
    assert list(index.owners) == ["first"]
