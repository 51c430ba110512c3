"""What a subscriber asks for: times above all, as RFC 3339 has them."""

import time as clock
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import BadRequestError
from dispatcher.sansio.compact_position import spell_compact
from dispatcher.sansio.position import MOST_PARTITIONS_KEPT
from dispatcher.sansio.ranges import EARLIEST, NOW
from dispatcher.sansio.records import TopicPartition
from dispatcher.web import requests
from dispatcher.web.requests import read_query

NOON_MS = 1_769_860_800_000


def since(text: str) -> int | None:
    """Where a stream begins, in ms."""
    return read_query({"since": [text]}, None, ["assets"]).since_ms


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("earliest", EARLIEST),
        ("0", 0),
        ("1769860800000", NOON_MS),
        ("2026-01-31T12:00:00Z", NOON_MS),
        ("2026-01-31T12:00:00z", NOON_MS),
        ("2026-01-31t12:00:00z", NOON_MS),
        ("2026-01-31t12:00:00Z", NOON_MS),
        ("2026-01-31 12:00:00Z", NOON_MS),
        ("2026-01-31 12:00:00 00:00", NOON_MS),  # two pluses that nobody has encoded
        ("2026-01-31T12:00:00-00:00", NOON_MS),
        ("2026-01-31T13:30:00+01:30", NOON_MS),
        ("2026-01-31T13:30:00 01:30", NOON_MS),
        ("2026-01-30T12:01:00-23:59", NOON_MS),
        ("2026-01-31T12:00:00.5Z", NOON_MS + 500),
        ("2026-01-31T12:00:00.001Z", NOON_MS + 1),
        ("2026-01-31T12:00:00.0019999Z", NOON_MS + 1),
        ("2026-01-31T12:00:00.123456789012z", NOON_MS + 123),
        ("1970-01-01T00:00:00Z", 0),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),
        ("2016-12-31T23:59:60.25Z", 1_483_228_800_250),
        ("1990-12-31T15:59:60-08:00", 662_688_000_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_a_time(text: str, expected_ms: int) -> None:
    """Every spelling of RFC 3339 is accepted, to the millisecond."""
    assert since(text) == expected_ms


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "-1",
            "-m",
            "-1.5h",
            "- 1m",
            "-1w",
            "1m",
            "-10M",
            "Now",
            "1e3",
            "1.5",
            "0x10",
            "9999999999999999",
            "١٢٣",
            "Earliest",
            "2026-01-31",
        ),
        *("2026-01-31T12:00:00", "2026-01-31T12:00Z", "2026-01-31T12Z", "2026-01-31T12:00:00 Z", "20260131T120000Z"),
        *("2026-W05-6T12:00:00Z", "2026-031T12:00:00Z", "2026-01-31T12:00:00,5Z", "2026-01-31T12:00:00.Z"),
        *(
            "2026-01-31T12:00:00+01",
            "2026-01-31T12:00:00+0100",
            "2026-01-31T12:00:00+01:00:30",
            "2026-01-31T12:00:00+24:00",
        ),
        *("2026-01-31T12:00:00+01:60", "2026-02-30T12:00:00Z", "2026-13-01T12:00:00Z", "2026-01-31T24:00:00Z"),
        *("2026-01-31T12:60:00Z", "2026-01-31T12:00:61Z", "2026-01-31T12:00:60Z", "2016-12-31T23:59:60+01:00"),
        *("2026-01-31_12:00:00Z", "2026-01-31T12:00:00Z ", "2026-01-31T12:00:00Z\n", "1969-12-31T23:59:59.999Z"),
        *("0000-01-01T00:00:00Z", "2026-01-31T12:00:00Zz", "२०२६-01-31T12:00:00Z", "+2026-01-31T12:00:00Z"),
    ],
)
def test_what_is_no_time(text: str) -> None:
    """The rest of ISO 8601 is refused with the remedy, and never misread."""
    with pytest.raises(BadRequestError, match=r"is not a time: use earliest, now, -10m \(or s, h, d\), 2026-01-31T"):
        since(text)


OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(1970, 1, 3), datetime(9999, 12, 29), timezones=OFFSETS))  # noqa: DTZ001 - bounds
def test_every_time_is_read_to_the_millisecond(time: datetime) -> None:
    """The result equals that with whole numbers: no float loses one."""
    expected = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert since(time.isoformat(timespec="microseconds")) == expected
    assert since(time.isoformat(" ", timespec="microseconds").lower()) == expected
    assert since(str(expected)) == expected


@given(st.text() | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.,Zz+ -]{1,20}", fullmatch=True))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    """No other exception is raised."""
    try:
        since_ms = since(text)
    except BadRequestError:
        return
    assert since_ms in {EARLIEST, NOW} or (since_ms is not None and since_ms >= 0)


@pytest.mark.parametrize(("text", "seconds"), [("-10m", 600), ("-0s", 0), ("-2h", 7200), ("-1d", 86_400)])
def test_a_duration_before_now(text: str, seconds: int) -> None:
    """It is counted from the request."""
    before = clock.time()
    since_ms = since(text)
    assert since_ms is not None
    assert int((before - seconds) * 1000) <= since_ms <= int((clock.time() - seconds) * 1000)


def test_a_duration_reaches_back_to_1970_at_most() -> None:
    """There is no earlier time."""
    assert since("-999999999d") == 0


def test_scope_and_observers() -> None:
    """The setting decides unless a scope is named; an observer begins now by default."""
    assert not read_query({}, None, ["assets"]).whole
    assert read_query({}, None, ["assets"], default_scope="topic").whole
    assert not read_query({"scope": ["replica"]}, None, ["assets"], default_scope="topic").whole
    assert read_query({"scope": ["topic"]}, None, ["assets"]).whole
    observer = read_query({"observe": ["1"]}, None, ["assets"])
    assert (observer.observe, observer.since_ms) == (True, NOW)
    assert read_query({"observe": ["1"], "since": ["earliest"]}, None, ["assets"]).since_ms == EARLIEST
    newest = read_query({"observe": ["1"], "last": ["20"]}, None, ["assets"])
    assert (newest.since_ms, newest.last) == (None, 20)
    assert not read_query({"observe": ["0"]}, None, ["assets"]).observe


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"scope": ["all"]}, "unknown scope 'all'"),
        ({"observe": ["yes"]}, "neither 1 nor 0"),
        ({"last": ["0"]}, "is not a number of records"),
        ({"last": ["-5"]}, "is not a number of records"),
        ({"last": ["1e3"]}, "is not a number of records"),
        ({"last": ["5"], "since": ["now"]}, "use one of them"),
        ({"sicne": ["now"]}, "did you mean since"),
        ({"observ": ["1"]}, "did you mean observe"),
        ({"Observe": ["1"]}, "did you mean observe"),
        ({"OBSERVE": ["1"]}, "did you mean observe"),
        ({"topics": ["assets"]}, "did you mean topic"),
        ({"lasteventid": ["assets:0=1"]}, "did you mean"),
        ({"scope": ["topic", "topic"]}, "give it once"),
    ],
)
def test_what_is_refused(arguments: dict[str, list[str]], reason: str) -> None:
    """Known parameters with wrong values, and misspelled names, are refused."""
    with pytest.raises(BadRequestError, match=reason):
        read_query(arguments, None, ["assets"])


def test_what_nobody_knows_is_ignored_by_name() -> None:
    """Polyfills and proxies add parameters; their names are logged, shortened."""
    query = read_query({"_": ["1"], "token": ["x"], "t\x1b" + "x" * 99: ["1"], "topic": ["assets"]}, None, ["assets"])
    assert query.ignored[:2] == ("_", "token")
    assert query.ignored[2].startswith("t\\x1bxxx")
    assert len(query.ignored[2]) < 60


def test_few_unknown_names_are_compared_and_fewer_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can make a request cost much by the number or the length of its names, or hide a typo among them."""
    compared: list[str] = []
    is_near = requests._is_near

    def counting(known: str, name: str) -> bool:
        compared.append(name)
        return is_near(known, name)

    monkeypatch.setattr(requests, "_is_near", counting)
    names = {f"QQ{number:05}": [""] for number in range(2000)}
    with pytest.raises(BadRequestError, match="2001 unknown query parameters, such as 'QQ00000'; at most 32 are allow"):
        read_query({**names, "observ": ["1"]}, None, ["assets"])
    assert compared == []
    few = dict(list(names.items())[: requests.MAX_UNKNOWN])
    ignored = read_query(few, None, ["assets"]).ignored
    assert ignored == tuple(few)[: requests.MAX_IGNORED_NAMED]
    assert len(compared) == len(few) * len(requests._KNOWN)
    compared.clear()
    assert len(read_query({"Q" * 16_000: [""]}, None, ["assets"]).ignored[0]) == 40
    assert compared == []
    few.popitem()
    with pytest.raises(BadRequestError, match="did you mean observe"):
        read_query({**few, "observ": ["1"]}, None, ["assets"])


def test_the_last_id_by_the_name_that_polyfills_give_it() -> None:
    """Our parameter overrides the alias, and the header overrides both."""
    position = {TopicPartition("assets", 0): 7}
    assert read_query({"lastEventId": ["assets:0=7"]}, None, ["assets"]).position == position
    both = {"lastEventId": ["assets:0=1"], "last_event_id": ["assets:0=7"]}
    assert read_query(both, None, ["assets"]).position == position
    assert read_query({"lastEventId": ["assets:0=1"]}, "assets:0=7", ["assets"]).position == position


def test_the_same_id_is_read_once() -> None:
    """Clients whose streams ended at the same moment come back with the same one; what is wrong is wrong each time."""
    first, second = (read_query({}, "assets:0=7,1=9", ["assets"]).position for _ in range(2))
    assert first is second
    assert read_query({}, "assets:0=7,1=9", ["other"]).position == {}
    for _ in range(2):
        with pytest.raises(BadRequestError, match="lacks the ':'"):
            read_query({}, "assets", ["assets"])


def test_ids_are_kept_while_clients_send_them_unless_they_name_very_many_partitions() -> None:
    """Nobody can make the process keep much by sending ids."""

    def read(text: str) -> Mapping[TopicPartition, int]:
        return read_query({}, text, ["assets"]).position

    def spelled(count: int) -> str:
        return "assets:" + spell_compact(range(count), [5] * count)

    hot = read("assets:0=1")
    for number in range(3 * requests.IDS_KEPT):
        assert read(f"assets:0=1,1={number}") == {TopicPartition("assets", 0): 1, TopicPartition("assets", 1): number}
        assert read("assets:0=1") is hot
    assert len(requests._kept) == requests.IDS_KEPT
    most = MOST_PARTITIONS_KEPT
    assert read(spelled(most)) is read(spelled(most))
    assert read(spelled(most + 1)) == dict.fromkeys(read(spelled(most + 1)), 5)
    assert read(spelled(most + 1)) is not read(spelled(most + 1))
    assert max(map(len, requests._kept.values())) == most


def test_partitions_that_cannot_exist_are_left_out_of_an_id_while_it_is_read() -> None:
    """They may have just been added, up to a bound; the same id is read again when more are known."""
    text = "assets:" + spell_compact(range(1500), [5] * 1500)

    def named(topic: str, **counts: int) -> int:
        return len(read_query({"topic": [topic]}, text, ["assets", "other"], counts=counts).position)

    assert [named("assets", assets=2), named("assets", assets=1000), named("other")] == [102, 1100, 0]
    assert text not in requests._kept
    assert [named("assets", assets=1500), named("assets", assets=2), named("other")] == [1500, 1500, 0], "it is kept"


def test_clients_make_sure_that_their_topics_are_decoded() -> None:
    """If a topic cannot be decoded, the request is refused instead of sending raw records."""
    query = {"topic": ["a", "b"], "decode": ["json"]}
    assert read_query(query, None, ["a", "b", "c"], decoded={"a": "json", "b": "json"}).topics == {"a", "b"}
    with pytest.raises(BadRequestError, match="topic b is not decoded this way here: its settings need decode = "):
        read_query(query, None, ["a", "b", "c"], decoded={"a": "json"})
    with pytest.raises(BadRequestError, match="topic a is not decoded this way here"):
        read_query({"decode": ["avro-json"]}, None, ["a"], decoded={"a": "json"})
    topics = {"a": "json", "b": "asked", "c": "asked"}
    assert read_query(query, None, ["a", "b", "c"], decoded=topics).decodes == {"b"}, "a is decoded for everybody"
    assert read_query({}, None, ["a", "b", "c"], decoded=topics).decodes == frozenset()
    with pytest.raises(BadRequestError, match="topic a is not decoded this way here"):
        read_query({"decode": ["avro-json"]}, None, ["a"], decoded={"a": "asked"})
    with pytest.raises(BadRequestError, match="did you mean decode"):
        read_query({"decod": ["json"]}, None, ["a"])
