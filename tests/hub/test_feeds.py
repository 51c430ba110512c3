"""Feeds: shared by subscribers that ask for the same, counted, and bounded."""

import gc

import pytest
import trio

from dispatcher.errors import TooManyError
from dispatcher.hub.feed import Feed, _feeds, feed_of
from dispatcher.hub.feed_registry import FeedRegistry
from dispatcher.hub.present_subscribers import PresentSubscribers
from dispatcher.sansio.decoded import Decoded
from dispatcher.sansio.encoding.compression import Compression
from dispatcher.sansio.encoding.wire import SSE_VALUE, WEBSOCKET
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.grant_filters import granted
from dispatcher.sansio.quotas import QuotaStatistics
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import NO_RECORDS, Batch, Record, Records, TopicPartition
from tests.hub.test_hub import Bench, RecordingTransport, subscribed

TOPICS = frozenset({"assets"})
ONE = read_filter({"exact": {"key": "1"}})
REST = read_filter({"not": {"exact": {"key": "1"}}})


def counts(registry: FeedRegistry) -> tuple[int, int, int, int]:
    """Feeds, encodings, those without an index, and subscribers that were refused."""
    found = registry.statistics()
    return found.feeds, found.encodings, found.unindexed, found.refused


def test_present_subscribers_are_counted_by_what_they_ask_for() -> None:
    """They are counted by topic, also as observers, filtered, acknowledging, and for the whole topic."""
    registry = FeedRegistry(10)
    both = frozenset({"assets", "orders"})
    filtered = feed_of(SSE_VALUE, TOPICS, ONE)
    for feed in (filtered, filtered, feed_of(SSE_VALUE, both, whole=True), feed_of(SSE_VALUE, TOPICS, counts=False)):
        registry.add(feed)
    registry.add(feed_of(WEBSOCKET, TOPICS, acks=True))
    assert registry.statistics().present == PresentSubscribers({"assets": 5, "orders": 1}, 1, 2, 1, 1)
    registry.remove(filtered)
    assert registry.statistics().present == PresentSubscribers({"assets": 4, "orders": 1}, 1, 1, 1, 1)


def test_a_feed_is_one_for_as_long_as_somebody_has_it() -> None:
    """Equal requests share a feed, and a feed without subscribers is forgotten."""
    gc.collect()
    before = len(_feeds)
    feed = feed_of(SSE_VALUE, frozenset({"a", "b"}), ONE)
    assert feed is feed_of(SSE_VALUE, frozenset({"b", "a"}), read_filter({"in": {"key": ["1"]}}))
    assert feed.shared is feed_of(SSE_VALUE, frozenset({"a", "b"}))
    assert feed is not feed_of(SSE_VALUE, frozenset({"a", "b"}), None, ONE), "what it may have is not what it asks for"
    del feed
    assert len(_feeds) == before


def test_a_registry_knows_which_feeds_want_what() -> None:
    """It knows the filters of each topic, and whether some feed wants everything."""
    registry = FeedRegistry(10)
    one, rest, all_of_it = feed_of(SSE_VALUE, TOPICS, ONE), feed_of(WEBSOCKET, TOPICS, REST), feed_of(SSE_VALUE, TOPICS)
    for feed in (one, one, rest, all_of_it):
        registry.check(feed)
        registry.add(feed)
    assert counts(registry) == (3, 2, 1, 0)
    assert (registry.has_filters("assets"), registry.has_filters("other")) == (True, False)
    assert (registry.wants_all("assets"), registry.wants_all("other")) == (True, False)
    batch = Batch(TopicPartition("assets", 0), [Record(n, 1, str(n).encode(), None, ()) for n in range(3)])
    assert found(registry, batch) == {one: [1], rest: [0, 2]}
    assert [registry.remove(feed) for feed in (all_of_it, one, one)] == [True, False, True]
    assert [registry.has_shared(feed) for feed in (one, rest)] == [False, True]
    assert registry.remove(rest)
    assert counts(registry) == (0, 0, 0, 0)
    assert not registry.has_filters("assets")
    assert not registry.wants_all("assets")


def test_feeds_are_bounded_by_what_they_cost() -> None:
    """Formats, topics and filters without an index count; a thousand keys of one format are one feed."""
    registry = FeedRegistry(2)
    kept = [feed_of(SSE_VALUE, TOPICS, read_filter({"exact": {"key": str(n)}})) for n in range(1000)]
    kept.append(feed_of(SSE_VALUE, TOPICS, REST))
    for feed in kept:
        registry.check(feed)
        registry.add(feed)
    for refused in (feed_of(WEBSOCKET, TOPICS), feed_of(SSE_VALUE, TOPICS, read_filter({"suffix": {"key": "1"}}))):
        with pytest.raises(TooManyError, match=r"already serves 2 distinct feeds \(max_feeds\)"):
            registry.check(refused)
    registry.check(kept[-1])
    assert counts(registry) == (1001, 1, 1, 2)


def suffix(text: str) -> Feed:
    """A feed whose filter no index finds."""
    return feed_of(SSE_VALUE, TOPICS, read_filter({"suffix": {"key": text}}))


def test_no_owner_takes_all_feeds_and_streams_of_all_topics_need_none() -> None:
    """The last tenth is for owners that have few, and formats of all topics are not counted."""
    registry = FeedRegistry(100, TOPICS)

    def subscribe(feed: Feed, owner: str) -> None:
        registry.check(feed, owner)
        registry.add(feed, owner)

    greedy = [suffix(f"x{number}") for number in range(90)]
    for feed in greedy:
        subscribe(feed, "greedy")
    for refused in (suffix("more"), feed_of(SSE_VALUE, frozenset({"orders"}))):
        with pytest.raises(TooManyError, match=r"the last feeds of this replica are reserved .* \(max_feeds\)"):
            registry.check(refused, "greedy")
    few = [suffix(f"y{number}") for number in range(10)]
    for number, feed in enumerate(few):
        subscribe(feed, f"modest {number // 2}")
    with pytest.raises(TooManyError, match="already serves 100 distinct feeds"):
        registry.check(suffix("more"), "another")
    for plain in (feed_of(WEBSOCKET, TOPICS), feed_of(SSE_VALUE, TOPICS, whole=True), few[0]):
        subscribe(plain, "another")
    assert registry.statistics().refused == 3
    for feed in greedy:
        assert registry.remove(feed)
    assert not registry.remove(few[0]), "another subscriber still has it"
    subscribe(feed_of(SSE_VALUE, frozenset({"orders"}), ONE), "greedy")


def test_what_owners_hold_is_released_with_the_last_subscriber_that_needs_it() -> None:
    """An encoding is needed by all feeds that share it, whoever has brought it."""
    registry = FeedRegistry(2)
    plain, filtered, unindexed = (feed_of(SSE_VALUE, TOPICS, wanted) for wanted in (None, ONE, REST))
    for feed, owner in ((plain, "a"), (unindexed, "b"), (filtered, "c")):
        registry.check(feed, owner)
        registry.add(feed, owner)
    assert registry._quota.statistics() == QuotaStatistics(2, 2, 1)
    for feed, left in ((plain, 2), (unindexed, 1), (filtered, 0)):
        registry.remove(feed)
        assert registry._quota.taken == left == len(registry._holders)


async def test_one_feed_too_many_is_refused(nursery: trio.Nursery) -> None:
    """Another format counts as another feed, because it encodes every record again."""
    bench = Bench(max_feeds=1)
    nursery.start_soon(bench.hub.run)
    with subscribed(bench.hub, feed_of(SSE_VALUE, TOPICS), RecordingTransport()):
        with subscribed(bench.hub, feed_of(SSE_VALUE, TOPICS), RecordingTransport()):
            pass
        with pytest.raises(TooManyError):
            bench.hub.subscribe(feed_of(WEBSOCKET, TOPICS), RecordingTransport())
    with subscribed(bench.hub, feed_of(WEBSOCKET, TOPICS), RecordingTransport()):
        assert bench.hub.statistics().feeds.feeds == 1


BATCH = Batch(TopicPartition("assets", 0), [Record(n, 1, str(n).encode(), None, ()) for n in range(3)])


DECODED = Decoded([None] * 3, [b'{"n":%d}' % n for n in range(3)], [b""] * 3, [b""] * 3)


def found(registry: FeedRegistry, batch: Batch) -> dict[Feed, list[int]]:
    """Return what each feed with a filter wants of a batch."""
    return {feed: list(indexes) for feeds, indexes in registry.match(batch) for feed in feeds}


def registered(*feeds: Feed) -> FeedRegistry:
    """A registry with one subscriber of each."""
    registry = FeedRegistry(100)
    for feed in feeds:
        assert registry.add(feed)
    return registry


def test_a_part_of_a_batch_is_matched_as_in_the_whole() -> None:
    """This holds for filters, grants, and feeds that wait until the batch is decoded; the work is counted."""
    asks = feed_of(SSE_VALUE, TOPICS, read_filter({"exact": {"/n": "1"}}), decodes=TOPICS)
    rest, granted_one = feed_of(SSE_VALUE, TOPICS, REST), feed_of(SSE_VALUE, TOPICS, None, ONE)
    registry = registered(rest, granted_one, asks)
    assert (registry.filters("assets"), registry.filters("other"), registry.tried("other")) == (3, 0, 0)
    decoded = Batch(BATCH.partition, BATCH.records.with_asked(DECODED))
    for batch, asked in ((BATCH, [1, 2]), (decoded, [1])):
        before = registry.tried("assets")
        matches = registry.match(batch, range(1, 3))
        assert {feed: list(indexes) for feeds, indexes in matches for feed in feeds} == {
            rest: [2],
            granted_one: [1],
            asks: asked,
        }
        assert registry.tried("assets") - before == 2 + 1 + (batch is decoded), "the others are found by their keys"
    registry.remove(rest)
    assert set(registered(granted_one).allowed(BATCH, range(2, 3))) == set()
    assert set(registered(granted_one).allowed(BATCH, range(1, 3))) == {1}
    assert set(registered(rest).allowed(BATCH, range(1, 3))) == {1, 2}


def test_grants_say_which_records_those_present_may_have() -> None:
    """If one subscriber may see everything, no record is hidden from all."""
    tenant, wanting = feed_of(SSE_VALUE, TOPICS, None, ONE), feed_of(SSE_VALUE, TOPICS, ONE, REST)
    registry = registered(tenant, wanting)
    assert (registry.has_grants("assets"), registry.is_read("assets")) == (True, True)
    assert set(registry.allowed(BATCH)) == {0, 1, 2}
    registry.remove(wanting)
    assert set(registry.allowed(BATCH)) == {1}
    for of_all in (feed_of(SSE_VALUE, TOPICS, ONE), feed_of(SSE_VALUE, TOPICS)):
        registry.add(of_all)
        assert (registry.has_grants("assets"), list(registry.allowed(BATCH))) == (False, [0, 1, 2])
        registry.remove(of_all)
    registry.remove(tenant)
    assert (registry.has_grants("assets"), registry.is_read("assets")) == (False, False)
    assert set(registry.allowed(BATCH)) == set()


def test_a_grant_of_a_whole_topic_is_as_good_as_none_there() -> None:
    """This holds even if it names other topics as well."""
    both = frozenset({"assets", "other"})
    grant = granted({"assets": (), "other": (ONE,)})
    registry = registered(feed := feed_of(SSE_VALUE, both, None, grant))
    assert [registry.has_grants(topic) for topic in ("assets", "other")] == [False, True]
    registry.remove(feed)
    assert not any(map(registry.is_read, both))


def test_observers_may_want_and_have_what_they_like_without_a_trace() -> None:
    """Nothing is settled or parked because of them."""
    observing = [feed_of(SSE_VALUE, TOPICS, wanted, counts=False) for wanted in (None, ONE)]
    both = frozenset({"assets", "other"})
    partly = feed_of(SSE_VALUE, both, ONE, observed=TOPICS)
    registry = registered(*observing, partly)
    assert (registry.wants_all("assets"), registry.is_read("assets"), registry.is_read("other")) == (False, False, True)
    assert {feed for feeds, _ in registry.match(BATCH) for feed in feeds} == {observing[1], partly}
    for feed in (*observing, partly):
        assert registry.remove(feed)
    assert counts(registry) == (0, 0, 0, 0)


def test_a_feed_counts_for_its_topics_but_those_that_it_observes() -> None:
    """An observer counts for no topic."""
    both = frozenset({"assets", "other"})
    assert feed_of(SSE_VALUE, both).counted == both
    assert feed_of(SSE_VALUE, both, counts=False).counted == frozenset()
    partly = feed_of(SSE_VALUE, both, observed=TOPICS)
    assert partly.counted == {"other"}
    assert (partly.counts_for("assets"), partly.counts_for("other")) == (False, True)


def test_feeds_have_their_bytes_in_common_where_those_are_the_same() -> None:
    """Filters have separate bytes; observing, acknowledging and compressed feeds share the plain ones."""
    plain = feed_of(SSE_VALUE, TOPICS)
    assert plain.key is feed_of(SSE_VALUE, TOPICS, counts=False).key is feed_of(SSE_VALUE, TOPICS, acks=True).key
    assert plain.key is plain
    filtered = feed_of(SSE_VALUE, TOPICS, ONE)
    assert filtered.key is filtered
    wire = Compression(6, 256).websocket
    assert feed_of(wire, TOPICS).key is feed_of(wire.unframed, TOPICS)


def test_feeds_that_ask_have_decoded_records_and_wait_for_them() -> None:
    """Only for topics that they ask for; others get what Kafka delivered, without waiting."""
    asking, plain = feed_of(SSE_VALUE, TOPICS, decodes=TOPICS), feed_of(SSE_VALUE, TOPICS)
    records = Records.of(BATCH.records)
    decoded = records.with_asked(DECODED)
    assert [feed.awaits("assets", records) for feed in (asking, plain)] == [True, False]
    assert not any(asking.awaits(topic, found) for topic, found in (("assets", decoded), ("other", records)))
    assert not asking.awaits("assets", NO_RECORDS)
    assert [feed.reads("assets", decoded).decoded for feed in (asking, plain)] == [DECODED, None]
    assert asking.reads("assets", records) is records


def test_what_filters_say_of_a_batch_that_is_not_decoded_is_open_for_feeds_that_ask() -> None:
    """They want all of it until it is decoded; other filters never see decoded data."""
    wanted = read_filter({"exact": {"/n": "1"}})
    asking, plain = feed_of(SSE_VALUE, TOPICS, wanted, decodes=TOPICS), feed_of(SSE_VALUE, TOPICS, wanted)
    registry = registered(asking)
    assert registry.asked_topics == TOPICS
    decoded = Batch(BATCH.partition, Records.of(BATCH.records).with_asked(DECODED))
    a_gap = Batch(BATCH.partition, NO_RECORDS, covers_from=0, gap=Gap(BATCH.partition, 0, 0, "expired"))
    assert [registry.is_undecided(batch) for batch in (BATCH, decoded, a_gap)] == [True, False, False]
    assert found(registry, BATCH) == {asking: [0, 1, 2]}
    assert found(registry, decoded) == {asking: [1]}
    registry.add(plain)
    assert found(registry, decoded) == {asking: [1]}
    for feed in (asking, plain):
        assert registry.remove(feed)
    assert (registry.asked_topics, registry.is_undecided(BATCH)) == (frozenset(), False)
