"""Filters: the dialect, what each comparison does, and what is refused."""

from typing import Any

import orjson
import pytest

from dispatcher.errors import BadRequestError
from dispatcher.sansio.decoded import KEY_HEADER, Decoded
from dispatcher.sansio.filter_dialect import MAX_DEPTH, MAX_VALUES, FilterError, read_filter, read_parameters
from dispatcher.sansio.filters import Filter, Not, all_of, on_topic
from dispatcher.sansio.grant_filters import granted
from dispatcher.sansio.record_view import MISSING, View, pointer_tokens
from dispatcher.sansio.records import Record, Records, TopicPartition

PREFIX = {"prefix": {"header.source": "https://"}}
SUFFIX = {"suffix": {"header.type": ".error"}}
EXACT = {"exact": {"key": "myId"}}
MY_AND_CA = {"all": [{"prefix": {"key": "my"}}, {"suffix": {"header.source": ".ca"}}]}
MY_OR_CA = {"any": MY_AND_CA["all"]}
DNF = [
    {"all": [{"exact": {"key": "myId"}}, {"suffix": {"header.type": ".success"}}]},
    {
        "all": [
            {"exact": {"key": "notmyId"}},
            {"prefix": {"header.source": "http://"}},
            {"suffix": {"header.type": ".warning"}},
        ]
    },
]
CNF = [
    {"any": [{"exact": {"key": "myId"}}, {"suffix": {"header.type": ".success"}}]},
    {
        "any": [
            {"exact": {"key": "notmyId"}},
            {"prefix": {"header.source": "https://"}},
            {"suffix": {"header.type": ".warning"}},
        ]
    },
]
MYEXT = {"header.myext": "customext"}
CLOUD_EVENTS: list[tuple[str, Any, bool, dict[str, str]]] = [
    ("Prefix filter (1)", PREFIX, True, {"source": "https://example.com"}),
    ("Prefix filter (2)", PREFIX, False, {"source": "http://example.com"}),
    ("Prefix on string extension", {"prefix": {"header.myext": "custom"}}, True, {"myext": "customext"}),
    ("Prefix on missing string extension", {"prefix": {"header.myext": "custom"}}, False, {}),
    ("Suffix filter (1)", SUFFIX, True, {"type": "com.github.error"}),
    ("Suffix filter (2)", SUFFIX, False, {"type": "com.github.success"}),
    ("Suffix on string extension", {"suffix": {"header.myext": "ext"}}, True, {"myext": "customext"}),
    ("Suffix on missing string extension", {"suffix": {"header.myext": "ext"}}, False, {}),
    ("Exact filter (1)", EXACT, True, {"id": "myId"}),
    ("Exact filter (2)", EXACT, False, {"id": "notmyId"}),
    ("Exact on string extension", {"exact": MYEXT}, True, {"myext": "customext"}),
    ("Exact on missing string extension", {"exact": MYEXT}, False, {}),
    ("Prefix AND Suffix (1)", MY_AND_CA, True, {"id": "myId", "source": "http://www.some-website.ca"}),
    ("Prefix AND Suffix (2)", MY_AND_CA, False, {"id": "myId", "source": "http://www.some-website.com"}),
    (
        "Prefix AND Suffix (3)",
        [{"prefix": {"header.myext": "custom"}}, SUFFIX],
        True,
        {"myext": "customext", "type": "com.github.error"},
    ),
    (
        "Prefix AND Suffix (4)",
        [{"prefix": {"header.type": "example."}}, {"prefix": {"header.myext": "custom"}}],
        False,
        {"type": "example.event.type"},
    ),
    ("Prefix OR Suffix (1)", MY_OR_CA, True, {"id": "myId", "source": "http://www.some-website.ca"}),
    ("Prefix OR Suffix (2)", MY_OR_CA, True, {"id": "myId", "source": "http://www.some-website.com"}),
    ("Prefix OR Suffix (3)", MY_OR_CA, True, {"id": "notmyId", "source": "http://www.some-website.ca"}),
    ("Prefix OR Suffix (4)", MY_OR_CA, False, {"id": "notmyId", "source": "http://www.some-website.com"}),
    (
        "Prefix OR Suffix (5)",
        {"any": [{"prefix": {"key": "my"}}, {"suffix": {"header.myext": "ext"}}]},
        False,
        {"id": "notmyId", "source": "http://www.some-website.com"},
    ),
    ("DNF (1)", {"any": DNF}, True, {"id": "myId", "type": "example.event.success"}),
    (
        "DNF (2)",
        {"any": DNF},
        True,
        {"id": "notmyId", "type": "example.event.warning", "source": "http://localhost.localdomain"},
    ),
    (
        "DNF (3)",
        {"any": DNF},
        False,
        {"id": "notmyId", "type": "example.event.warning", "source": "https://localhost.localdomain"},
    ),
    (
        "DNF (4)",
        {"any": [*DNF, {"exact": {"header.myext": "cusomext"}}]},
        False,
        {"id": "notmyId", "type": "example.event.warning", "source": "https://localhost.localdomain"},
    ),
    (
        "CNF (1)",
        CNF,
        True,
        {"id": "myId", "type": "example.event.warning", "source": "http://localhost.localdomain"},
    ),
    (
        "CNF (2)",
        CNF,
        True,
        {"id": "notmyId", "type": "example.event.success", "source": "http://localhost.localdomain"},
    ),
    (
        "CNF (3)",
        CNF,
        False,
        {"id": "notmyId", "type": "example.event.warning", "source": "http://localhost.localdomain"},
    ),
    (
        "CNF (4)",
        CNF,
        False,
        {"id": "myId", "type": "example.event.success", "source": "http://localhost.localdomain"},
    ),
    (
        "CNF (5)",
        [*CNF, {"exact": MYEXT}],
        False,
        {"id": "myId", "type": "example.event.success", "source": "http://localhost.localdomain"},
    ),
]
"""The cases of cloudevents/spec, ``cesql/cesql_tck/subscriptions_api_recreations.yaml``.

An event's id is the key here, and its other attributes are headers. Where that file expects `missingAttribute`, a
filter does not match. "Conjunctive Normal Form (4)" is said to be true there, though nothing in its second half holds.
"""

RFC_6901 = (
    b'{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\\\j":5,"k\\"l":6," ":7,"m~n":8}',
    {
        "": {
            "foo": ["bar", "baz"],
            "": 0,
            "a/b": 1,
            "c%d": 2,
            "e^f": 3,
            "g|h": 4,
            "i\\j": 5,
            'k"l': 6,
            " ": 7,
            "m~n": 8,
        },
        "/foo": ["bar", "baz"],
        "/foo/0": "bar",
        "/": 0,
        "/a~1b": 1,
        "/c%d": 2,
        "/e^f": 3,
        "/g|h": 4,
        "/i\\j": 5,
        '/k"l': 6,
        "/ ": 7,
        "/m~0n": 8,
        "/foo/2": MISSING,
        "/foo/00": MISSING,
        "/foo/-": MISSING,
        "/foo/0/0": MISSING,
        "/nothing": MISSING,
    },
)
"""RFC 6901, section 5, and pointers to nothing by its section 4."""


def view(
    key: bytes | None = None,
    value: bytes | None = None,
    headers: tuple[tuple[str, bytes | None], ...] = (),
    partition: TopicPartition = TopicPartition("orders", 3),  # noqa: B008 - immutable
) -> View:
    """One record."""
    return View(partition, Records.of([Record(7, 1, key, value, headers)])).at(0)


def matches(document: Any, record: View) -> bool:
    """Whether a filter in the dialect wants a record."""
    return read_filter(document).compile()(record)


def from_parameters(**values: str | list[str]) -> Filter:
    """The filter of query parameters."""
    found = read_parameters({name: [value] if isinstance(value, str) else value for name, value in values.items()})
    assert found is not None
    return found


@pytest.mark.parametrize(("document", "expected", "event"), [case[1:] for case in CLOUD_EVENTS], ids=str)
def test_the_cases_of_cloud_events(document: Any, expected: bool, event: dict[str, str]) -> None:
    """Its prefix, suffix and exact filters match, alone and joined."""
    headers = tuple((name, value.encode()) for name, value in event.items() if name != "id")
    key = event["id"].encode() if "id" in event else None
    assert matches(document, view(key, headers=headers)) is expected


def test_pointers_of_rfc_6901() -> None:
    """Each pointer finds what section 5 says, or nothing."""
    document, examples = RFC_6901
    for pointer, expected in examples.items():
        found = view(value=document).find(pointer_tokens(pointer))
        assert found is expected if expected is MISSING else found == expected, pointer


def test_json_values_are_compared_as_text() -> None:
    """Numbers, true, false and null match by their JSON; lists and objects exist but equal nothing."""
    record = view(value=b'{"s":"5","n":5,"f":5.5,"b":true,"z":null,"l":[1],"o":{}}')
    for pointer, value in (("/s", "5"), ("/n", "5"), ("/n", 5), ("/f", "5.5"), ("/b", True), ("/z", None), ("/l/0", 1)):
        assert matches({"exact": {pointer: value}}, record), pointer
        assert matches({"exists": {pointer: True}}, record)
    for pointer in ("/l", "/o", "/nothing"):
        assert not matches({"in": {pointer: ["1", "", "null"]}}, record)
        assert not matches({"prefix": {pointer: "1"}}, record)
        assert not matches({"suffix": {pointer: "1"}}, record)
    assert matches({"exists": {"/l": True}}, record)
    assert matches({"exists": {"/nothing": False}}, record)
    assert matches({"prefix": {"/f": "5."}}, record)
    assert matches({"suffix": {"/f": ".5"}}, record)


def test_numbers_are_compared_as_they_are_written() -> None:
    """Their digits count, not their value; a request may write them as numbers."""
    record = view(value=b'{"a":1.10,"b":-0,"c":0,"d":100000000000000000001}')
    for pointer, text in (("/a", "1.10"), ("/b", "-0"), ("/c", "0"), ("/d", "100000000000000000001")):
        assert from_parameters(filter=f'{{"exact":{{"{pointer}":{text}}}}}').compile()(record)
        assert matches({"exact": {pointer: text}}, record)
    for pointer, text in (("/a", "1.1"), ("/b", "0"), ("/c", "-0"), ("/d", "100000000000000000000"), ("/d", "1e20")):
        assert not matches({"exact": {pointer: text}}, record)
    with pytest.raises(FilterError, match="write '1e\\+20' as a string, because numbers are compared digit by digit"):
        read_filter({"exact": {"/d": 100000000000000000001.0}})


def test_values_that_are_not_json_have_no_fields() -> None:
    """This covers tombstones, plain text and truncated JSON."""
    for value in (None, b"text", b'{"a":', b"", b"\xff"):
        assert not matches({"exists": {"/a": True}}, view(value=value))
    assert view(value=None).find(()) is MISSING


def test_keys_and_headers() -> None:
    """A header may be repeated or have no value; a key may be missing or not be UTF-8."""
    record = view(b"order-1", headers=(("h", b"a"), ("h", b"b"), ("n", None)))
    assert matches({"in": {"key": ["x", "order-1"]}}, record)
    assert matches({"suffix": {"key": "-1"}}, record)
    assert matches({"exact": {"key": "order-1", "header.h": "b"}}, record), "all members of one object"
    assert matches({"prefix": {"header.h": "b"}}, record)
    assert matches({"exists": {"header.n": True}}, record)
    assert not matches({"exact": {"header.n": ""}}, record)
    assert not matches({"prefix": {"header.n": "a"}}, record)
    assert not matches({"suffix": {"header.n": "a"}}, record)
    assert not matches({"exact": {"header.other": "b"}}, record)
    assert matches({"not": {"exact": {"key": "other"}}}, record)
    for operator in ("exact", "prefix", "suffix"):
        assert not matches({operator: {"key": "k"}}, view(None))
        assert not matches({operator: {"key": "k"}}, view(b"\xff"))
    assert matches({"exists": {"key": False}}, view(None))
    assert matches({"exact": {"partition": 3}}, record)
    assert not matches({"in": {"partition": ["4", 5]}}, record)


def test_parameters_are_or_within_a_name_and_and_between_names() -> None:
    """The same header or field repeated is OR, different ones are AND."""
    record = view(b"a1", b'{"t":"x","u":1}', (("h", b"1"), ("g", b"2")))
    for wanted in (
        from_parameters(key=["b", "a1"]),
        from_parameters(key_prefix="a"),
        from_parameters(partition=["9", "3"]),
        from_parameters(header=["h:0", "h:1", "g:2"]),
        from_parameters(field=["/t:x", "/u:1"]),
        from_parameters(key_prefix="a", filter='{"not":{"exact":{"/t":"y"}}}'),
        from_parameters(filter='[{"exists":{"key":true}},{"exists":{"header.h":true}}]'),
    ):
        assert wanted.compile()(record), wanted
    for refused in (
        from_parameters(key="a1", key_prefix="b"),
        from_parameters(header=["h:1", "g:3"]),
        from_parameters(field=["/t:x", "/u:2"]),
    ):
        assert not refused.compile()(record), refused
    assert read_parameters({"topic": ["orders"]}) is None


def test_filters_that_mean_the_same_are_equal() -> None:
    """Order, repeats and other spellings make no difference."""
    assert from_parameters(key=["a", "b"]) == from_parameters(key=["b", "a", "b"])
    assert from_parameters(key=["a", "b"]) == read_filter({"in": {"key": ["b", "a"]}})
    assert read_filter({"any": [{"prefix": {"key": "a"}}, {"prefix": {"key": "b"}}]}).dialect() == {
        "any": [{"prefix": {"key": "a"}}, {"prefix": {"key": "b"}}]
    }
    assert read_filter([{"exact": {"key": "a"}}, {"exists": {"/b": True}}]) == read_filter(
        {"all": [{"exists": {"/b": True}}, {"all": [{"in": {"key": ["a"]}}]}]}
    )
    assert from_parameters(field="/a:b") == read_filter({"exact": {"/a": "b"}})


@pytest.mark.parametrize(
    "document",
    [
        {"exact": {"key": "a"}},
        {"in": {"key": ["a", "b"]}},
        {"exists": {"header.h": True}},
        {"not": {"exists": {"/a~1b": True}}},
        {"all": [{"any": [{"prefix": {"key": "a"}}, {"suffix": {"/x": "b"}}]}, {"exact": {"partition": "3"}}]},
    ],
    ids=str,
)
def test_a_filter_is_said_in_the_dialect(document: Any) -> None:
    """Its output in the dialect is read as the same filter."""
    found = read_filter(document)
    assert read_filter(found.dialect()) == found
    assert read_filter(orjson.loads(orjson.dumps(found.dialect()))) == found


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"filter": "{"}, "filter[0]: not JSON at character 1"),
        ({"filter": "7"}, "filter[0]: '7' is not an object; use one of exact"),
        ({"filter": "{}"}, "filter[0]: an object with 0 members"),
        ({"filter": "[]"}, "filter[0]: '[]' is not a list with a filter in it"),
        ({"filter": '{"sql":"1"}'}, "filter[0]: 'sql' is not an operator; use one of exact"),
        ({"filter": '{"all":[{"exact":{"key":"a"}},{"any":[]}]}'}, "filter[0]/all/1/any: '[]' is not a list"),
        (
            {"filter": '{"not":{"exact":{"colour":"a"}}}'},
            "filter[0]/not/exact/colour: 'colour' is not a place in a record",
        ),
        ({"filter": '{"exact":{"header.":"a"}}'}, "filter[0]/exact/header.: 'header.' is not a place"),
        ({"filter": '{"exact":{"/a~2":"a"}}'}, "filter[0]/exact//a~2: '/a~2' is not a place"),
        ({"filter": '{"exact":"key"}'}, "filter[0]/exact: 'key' is not an object with a place and a value"),
        ({"filter": '{"exact":{}}'}, "filter[0]/exact: '{}' is not an object with a place and a value"),
        ({"filter": '{"exact":{"key":["a"]}}'}, "filter[0]/exact/key: '[\"a\"]' is not a string, a number"),
        ({"filter": '{"in":{"key":"a"}}'}, "filter[0]/in/key: 'a' is not a list with a value in it"),
        ({"filter": '{"in":{"key":["a",{}]}}'}, "filter[0]/in/key/1: '{}' is not a string"),
        ({"filter": '{"prefix":{"key":""}}'}, "filter[0]/prefix/key: every text has the empty prefix"),
        ({"filter": '{"exists":{"key":1}}'}, "filter[0]/exists/key: '1' is not true or false"),
        ({"filter": '{"prefix":{"partition":1}}'}, "filter[0]/prefix/partition: a partition can be compared"),
        (
            {"filter": '{"exact":{"partition":"01"}}'},
            "filter[0]/exact/partition: '01' is not the number of a partition",
        ),
        ({"partition": "-1"}, "partition[0]: '-1' is not the number of a partition"),
        ({"key_prefix": ""}, "key_prefix[0]: every text has the empty prefix"),
        ({"header": ["a:b", "tenant"]}, "header[1]: 'tenant' is not NAME:VALUE, such as tenant:t1"),
        ({"header": ":b"}, "header[0]: ':b' is not NAME:VALUE"),
        ({"field": "tenant:t1"}, "field[0]: 'tenant:t1' is not POINTER:VALUE, such as /tenant:t1"),
        ({"field": "/~:t1"}, "field[0]: '/~' is not a place in a record"),
        ({"key": "\ud800"}, "the filter is not UTF-8"),
        ({"key": "k" * 2049}, "the filter has 2049 bytes; at most 2048 are allowed"),
        ({"key": [str(n) for n in range(MAX_VALUES + 1)]}, "key[64]: the filter compares with more than 64 values"),
        (
            {"filter": '{"not":' * MAX_DEPTH + '{"exact":{"key":"a"}}' + "}" * MAX_DEPTH},
            "filter[0]" + "/not" * MAX_DEPTH + ": the filter has more than 8 levels",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_with_its_place(parameters: dict[str, str | list[str]], reason: str) -> None:
    """A message begins with the place, and says what would be right."""
    arguments = {name: [value] if isinstance(value, str) else value for name, value in parameters.items()}
    with pytest.raises(FilterError) as raised:
        read_parameters(arguments)
    assert str(raised.value).startswith(reason)
    assert isinstance(raised.value, BadRequestError)


def test_what_grants_allow_is_one_filter() -> None:
    """A topic has one of several filters, or none; if all is allowed, nothing is filtered."""
    acme = read_filter({"exact": {"header.tenant": "acme"}})
    assert granted({"orders": [], "audit": []}) is None
    allowed = granted({"orders": [acme], "audit": []})
    assert allowed is not None
    wants = allowed.compile()
    audit = TopicPartition("audit", 0)
    assert wants(view(headers=(("tenant", b"acme"),)))
    assert not wants(view(headers=(("tenant", b"other"),)))
    assert wants(view(headers=(("tenant", b"other"),), partition=audit))


def test_what_grants_deny_has_to_be_known() -> None:
    """Fields are known in an object and a tombstone, and a key is known unless it needs a schema."""
    for document, known, unknown in (
        ({"exact": {"/a": "x"}}, (view(value=b"{}"), view()), (view(value=b"\x00\x00"), view(value=b"7"))),
        ({"suffix": {"key": "x"}}, (view(b"a"), view()), (view(b"\x00ab"), view(b"a", None, ((KEY_HEADER, b""),)))),
    ):
        allowed = granted({"orders": [read_filter({"not": document})]})
        assert allowed is not None
        assert [allowed.compile()(record) for record in (*known, *unknown)] == [True, True, False, False]
        assert orjson.dumps(allowed.dialect())
    decoded = Decoded((b'"a"',), (b"{}",), (b"",), (b"",))
    records = Records.of([Record(0, 1, b"\x00a", b"\x00b", ())]).with_decoded(decoded)
    assert View(TopicPartition("orders", 3), records).at(0).knows_key


def test_what_is_left_of_a_filter_for_a_topic() -> None:
    """Grants reduce to their part for the topic, to everything, or to nothing."""
    key, field = read_filter(EXACT), read_filter({"exact": {"/a": "x"}})
    grants = granted({"orders": [key], "audit": [], "logs": [field, key]})
    assert grants is not None
    for topic, left in (
        ("orders", key),
        ("audit", True),
        ("logs", read_filter({"any": [EXACT, {"exact": {"/a": "x"}}]})),
    ):
        assert on_topic(grants, topic) == left
        opposite = not left if isinstance(left, bool) else Not(left)
        assert on_topic(Not(grants), topic) == opposite
    assert on_topic(grants, "secrets") is False
    both = all_of([grants, field])
    assert on_topic(both, "orders") == all_of([key, field])
    assert on_topic(both, "audit") == on_topic(field, "audit") == field
    assert on_topic(both, "secrets") is False
    assert on_topic(read_filter(MY_AND_CA), "orders") == read_filter(MY_AND_CA)


def test_decoded_records_are_looked_at_as_what_they_were_decoded_to() -> None:
    """Pointers find nothing in values that were not decoded, whatever their bytes."""
    records = Records.of(Record(n, 1, b"\x00raw", b'{"a": "raw"}', ()) for n in range(4))
    decoded = Decoded(
        (None, b'"k\\n1"', b"7", b'{"id":1}'), (b'{"a":"yes"}', None, b"[]", b'{"a":1}'), (b"",) * 4, (b"",) * 4
    )
    view = View(TopicPartition("assets", 3), records.with_decoded(decoded))
    found = [(view.at(index).key, view.find(("a",))) for index in range(4)]
    assert found == [(b"\x00raw", "yes"), (b"k\n1", MISSING), (b"7", MISSING), (b'{"id":1}', 1)]
    assert view.at(1).find(()) is MISSING
