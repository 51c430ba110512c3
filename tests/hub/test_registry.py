"""The subscribers that are present, by what they read and wait for: no question looks at all of them."""

import pytest

from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.registry import Registry
from dispatcher.hub.resumption import Resumption
from dispatcher.hub.statistics import RegistryStatistics, SubscriberState
from dispatcher.hub.subscriber import Subscriber
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.records import Batch, Record, TopicPartition
from tests.hub.test_hub import FEED, ONE, TWO, Bench, RecordingTransport

TOPICS = frozenset({"assets"})
OBSERVING = feed_of(SSE_VALUE, TOPICS, counts=False)
WHOLE = feed_of(SSE_VALUE, TOPICS, whole=True)
BOTH = feed_of(SSE_VALUE, frozenset({"assets", "other"}))
ELSEWHERE = feed_of(SSE_VALUE, frozenset({"other"}))
PARTLY = feed_of(SSE_VALUE, frozenset({"assets", "other"}), observed=frozenset({"other"}))


class Members:
    """A registry, and subscribers of a hub that does not run."""

    def __init__(self) -> None:
        self.hub = Bench().hub
        self.registry = Registry()

    def add(self, feed: Feed = FEED, position: dict[TopicPartition, int] | None = None) -> Subscriber:
        """One more, which catches up."""
        subscriber = self.hub.subscribe(feed, RecordingTransport(), position)
        self.registry.add(subscriber)
        return subscriber


async def test_topics_are_read_by_subscribers_that_count_and_observed_by_the_others() -> None:
    """This lasts until the last of them has left, and leaving twice counts once."""
    members = Members()
    registry = members.registry
    assert (registry.first_taker, registry.takers, len(registry)) == (None, 0, 0)
    observer = members.add(OBSERVING)
    assert (registry.has_readers("assets"), registry.observed_topics()) == (False, ["assets"])
    partly, first = members.add(PARTLY), members.add()
    assert [registry.has_readers(topic) for topic in ("assets", "other")] == [True, False]
    assert registry.observed_topics() == ["other"]
    assert (registry.first_taker, registry.takers, len(registry)) == (partly.number, 2, 3)
    assert registry.remove(partly)
    assert not registry.remove(partly)
    assert (registry.first_taker, registry.observed_topics()) == (first.number, [])
    assert registry.transports() == {"recording": 2}
    for one in (first, observer):
        assert registry.remove(one)
    assert (registry.has_readers("assets"), registry.observed_topics(), registry.transports()) == (False, [], {})
    assert registry.next_number == first.number + 1


async def test_whole_topics_are_those_of_which_somebody_has_the_whole() -> None:
    """A topic counts as long as such a reader is there."""
    members = Members()
    members.add()
    whole = members.add(WHOLE)
    assert members.registry.whole_topics() == {"assets"}
    members.registry.remove(whole)
    assert members.registry.whole_topics() == frozenset()


async def test_states_are_counted_as_subscribers_go_and_come_back() -> None:
    """Readers that named an absent partition expect it although they are live."""
    members = Members()
    registry = members.registry
    plain, expecting = members.add(), members.add(FEED, {TopicPartition("assets", 7): 3})
    registry.became_live(plain)
    registry.became_live(expecting)
    assert registry.states() == {SubscriberState.CATCHING_UP: 0, SubscriberState.LIVE: 2}
    assert registry.statistics() == RegistryStatistics(subscribers=2, catching_up=0, expecting=1, departed=0)
    registry.left_live(expecting)
    assert registry.statistics() == RegistryStatistics(subscribers=2, catching_up=1, expecting=0, departed=0)
    assert registry.catching_up == {expecting.number: expecting}


async def test_whoever_awaits_the_head_is_asked_to_look_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others, and those that have left, are not asked."""
    members = Members()
    looked: list[Resumption] = []

    def look_again(resumption: Resumption) -> None:
        looked.append(resumption)

    monkeypatch.setattr(Resumption, "look_again", look_again)
    awaiting, gone, _ = members.add(), members.add(), members.add()
    for one in (awaiting, gone):
        members.registry.await_head(one)
    members.registry.remove(gone)
    for _ in range(2):
        members.registry.head_moved()
    assert looked == [awaiting.resumption]


def visits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int | None]]:
    """The subscribers that a partition was added for, and where it had left."""
    found: list[tuple[int, int | None]] = []

    def added(subscriber: Subscriber, _partition: TopicPartition, left_at: int | None) -> None:
        found.append((subscriber.number, left_at))

    monkeypatch.setattr(Subscriber, "partition_added", added)
    return found


async def test_a_partition_that_comes_back_is_continued_where_it_had_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only readers that were there when it left know where."""
    members, found = Members(), visits(monkeypatch)
    before = members.add()
    members.add(ELSEWHERE)
    live = members.add()
    members.registry.became_live(live)
    members.registry.partition_left(ONE, 5)
    since = members.add()
    assert members.registry.statistics().departed == 1
    members.registry.partition_added(ONE, 5)
    assert found == [(before.number, 5), (since.number, None)]
    assert members.registry.statistics().departed == 0


async def test_a_log_that_ends_before_it_had_left_is_doubted_by_live_subscribers_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be a recreated topic."""
    members, found = Members(), visits(monkeypatch)
    live = members.add()
    members.registry.became_live(live)
    members.registry.partition_left(ONE, 5)
    members.registry.partition_added(ONE, 4)
    assert found == [(live.number, 5)]


async def test_a_partition_may_come_for_some_scopes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A followed partition arrives only for readers of the whole topic."""
    members, found = Members(), visits(monkeypatch)
    own, whole = members.add(), members.add(WHOLE)
    members.registry.partition_left(ONE, 5)
    members.registry.partition_added(ONE, 9, whole=True)
    assert found == [(whole.number, None)]
    members.registry.partition_added(ONE, 9, whole=False)
    assert found[1:] == [(own.number, 5)]


async def test_where_each_reader_of_a_recreated_topic_was_is_known() -> None:
    """Its own place says so, or the place where the partition left."""
    members = Members()
    named, before = members.add(FEED, {ONE: 7}), members.add()
    members.add(ELSEWHERE)
    members.registry.partition_left(ONE, 5)
    since = members.add()
    places = members.registry.next_offsets(ONE)
    assert places == [(named, 8), (before, 5), (since, None)]
    assert [offset for _, offset in members.registry.next_offsets(ONE)] == [8, None, None], "only once"


async def test_subscribers_that_could_be_sent_away_or_sampled() -> None:
    """Only readers of their replica's partitions of these topics, not observers or whole-topic readers."""
    members = Members()
    one, both = members.add(), members.add(BOTH)
    members.add(OBSERVING)
    members.add(WHOLE)
    assert members.registry.without_partitions({"assets"}) == [one]
    assert members.registry.without_partitions({"assets", "other"}) == [one, both]
    assert len({subscriber.number for subscriber in members.registry.sample(4)}) == 4


async def test_first_writes_are_those_of_subscribers_that_count() -> None:
    """They are counted by the sequence of the entry."""
    members = Members()
    taker, observer = members.add(), members.add(OBSERVING)
    first, second = (members.hub.history.append(Batch(tp, (Record(0, None, None, b"", ()),))) for tp in (ONE, TWO))
    taker.in_flight, observer.in_flight = [first], [second]
    assert members.registry.first_writes() == {first.sequence}


async def test_what_is_under_way_counts_for_nothing_in_a_partition_with_another_log() -> None:
    """That of other partitions counts as before."""
    members = Members()
    subscriber = members.add(WHOLE)
    entries = [members.hub.history.append(Batch(tp, (Record(5, None, None, b"v", ()),))) for tp in (ONE, TWO)]
    subscriber.in_flight = entries
    for _ in range(2):
        subscriber.resumption._replayed_ranges += [(tp, 0, 5) for tp in (ONE, TWO)]
        under_way = subscriber.resumption.take_replayed_ranges()
    subscriber.resumption._replayed_ranges += [(ONE, 5, 6)]
    members.registry.forget_writes({ONE})
    assert subscriber.in_flight == [entries[1]]
    assert under_way == [(TWO, 0, 5)]
    assert subscriber.resumption.take_replayed_ranges() == []
