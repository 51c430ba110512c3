"""What subscribers and others ask of the parts of the hub."""

import trio

from dispatcher.hub.feed import feed_of
from dispatcher.hub.parts import HubParts
from dispatcher.hub.statistics import SubscriberState
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.records import TopicPartition
from dispatcher.settings import Settings
from tests.hub.test_asked_decoding import ODD, AskedBench, asking, connect, numbers
from tests.hub.test_filtered import wanting
from tests.hub.test_hub import FEED, ONE, TWO, Bench, RecordedLog, RecordingTransport, settle, subscribed

OBSERVING = feed_of(SSE_VALUE, frozenset({"assets"}), counts=False)
WHOLE = feed_of(SSE_VALUE, frozenset({"assets"}), whole=True)
OTHER = feed_of(SSE_VALUE, frozenset({"other"}))


def parts_of(replayed: list[tuple[TopicPartition, int, int]], **settings: object) -> HubParts:
    """The parts alone, which report what was replayed."""
    made = Settings(client_id="replica", **settings)  # type: ignore[arg-type]
    return HubParts(
        made, lambda _batch, _start, _end: None, RecordedLog(), lambda tp, first, end: replayed.append((tp, first, end))
    )


def test_a_replica_serves_in_the_states_in_which_somebody_is_sent_records() -> None:
    """In other states, a stream begins without a position."""
    parts = parts_of([])
    serving = set()
    for state in ReplicaState:
        parts.state = state
        serving |= {state} if parts.is_serving else set()
    assert serving == {ReplicaState.STREAMING, ReplicaState.WAITING, ReplicaState.STANDBY}


def test_replayed_ranges_are_reported_unless_only_acknowledgements_count() -> None:
    """Unacknowledged records may not be committed."""
    replayed: list[tuple[TopicPartition, int, int]] = []
    parts_of(replayed).replayed([(ONE, 1, 2), (TWO, 3, 4)])
    assert replayed == [(ONE, 1, 2), (TWO, 3, 4)]
    acked = parts_of(replayed, topics=["assets"], topic_tables={"assets": {"commit_on": "acked"}})
    acked.replayed([(ONE, 5, 6), (TopicPartition("other", 0), 7, 8)])
    assert replayed[2:] == [(TopicPartition("other", 0), 7, 8)]


def test_compression_is_made_where_it_is_on() -> None:
    """If it is off, it costs nothing."""
    assert parts_of([], compression="off").encoder.statistics().compression is None
    assert parts_of([], compression="on").encoder.statistics().compression is not None


async def test_what_is_gathered_is_handed_out_together(nursery: trio.Nursery) -> None:
    """It is in the sockets before anybody else has the loop."""
    bench, transport = Bench(), RecordingTransport()
    nursery.start_soon(bench.hub.run)
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    bench.hub.gather()
    bench.publish(ONE, TWO)
    assert transport.values == []
    bench.hub.hand_out()
    assert transport.values == ["0", "1"]


async def test_what_is_present_is_known_by_number_topic_and_scope(nursery: trio.Nursery) -> None:
    """Subscribers that count, that read a whole topic, and that observe are distinguished."""
    bench = Bench()
    hub = bench.hub
    nursery.start_soon(hub.run)
    assert (hub.first_taker, hub.subscribers, hub.has_readers("assets")) == (None, 0, False)
    assert (hub.partitions, hub.assignments) == (2, 1)
    with subscribed(hub, OBSERVING, RecordingTransport()) as observer:
        assert not hub.has_readers("assets")
        hub.park_observed()
        with subscribed(hub, FEED, RecordingTransport()) as one, subscribed(hub, WHOLE, RecordingTransport()):
            assert hub.first_taker == one.number
            assert hub.has_readers("assets")
            assert hub.whole_topics() == {"assets"}
            assert hub.subscribers == 3
            assert {s.number for s in hub.sample_subscribers(3)} >= {observer.number, one.number}
            assert next(s.id for s in hub.subscriber_statistics()) == observer.number
            assert hub.statistics().subscribers[SubscriberState.CATCHING_UP] == 3


async def test_how_subscribers_become_live_is_counted(nursery: trio.Nursery) -> None:
    """From memory and from Kafka are counted separately, and so are falling back and stalling."""
    bench = Bench()
    hub = bench.hub
    nursery.start_soon(hub.run)
    transport = RecordingTransport()
    with subscribed(hub, wanting("a"), transport) as one, subscribed(hub, FEED, transport, {ONE: 1}) as other:
        assert (one.resumption.looks_at_parked, other.resumption.looks_at_parked) == (True, False)
        hub.became_live(one, needed_kafka=False)
        hub.became_live(other, needed_kafka=True)
        assert hub.statistics().subscribers[SubscriberState.LIVE] == 2
        hub.left_live(other)
        hub.stalled()
        counts = hub.statistics()
        assert (counts.history_hits, counts.history_misses, counts.fell_back, counts.stalled) == (1, 1, 1, 1)
        hub.await_head(other)
        assert not hub.is_behind(FEED)
        assert hub.heartbeat_bytes(FEED, at_head=False)


async def test_a_first_write_is_known_until_it_is_dispatched(nursery: trio.Nursery) -> None:
    """Then it is counted, and replayed parked records are reported to the settlement."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    await nursery.start(bench.serve, transport)
    bench.publish(ONE)
    transport.gate.set()
    await settle()
    transport.gate = trio.Event()
    bench.publish(ONE)
    await settle()
    assert bench.hub.first_writes() == {2}
    transport.gate.set()
    await settle()
    bench.hub.parked_replayed([])
    assert bench.hub.first_writes() == set()
    assert bench.hub.statistics().dispatched_records == 2


async def test_whoever_gets_nothing_here_is_known_by_the_topics_that_others_have() -> None:
    """A topic with a partition here does not count, and there must be another replica."""
    hub = Bench().hub
    hub.expect({"assets": 2, "other": 1})
    assert not hub.owns_everything
    with subscribed(hub, FEED, RecordingTransport()), subscribed(hub, OTHER, RecordingTransport()) as other:
        assert hub.without_partitions({"assets"}) == []
        assert hub.without_partitions({"assets", "other"}) == [other]
    hub.assigned([TopicPartition("other", 0)])
    assert hub.owns_everything


async def test_what_was_not_decoded_is_decoded_for_those_that_ask_and_then_their_filters_decide(
    nursery: trio.Nursery,
) -> None:
    """Without filters there is nothing to decide."""
    bench = AskedBench()
    nursery.start_soon(bench.hub.run)
    everything = await connect(nursery, bench, asking())
    bench.put(2)
    await settle()
    assert numbers(everything) == [0, 1]
    odd_bench = AskedBench()
    nursery.start_soon(odd_bench.hub.run)
    odd = await connect(nursery, odd_bench, asking(ODD))
    odd_bench.put(3)
    await settle()
    assert numbers(odd) == [1]
    assert odd_bench.hub.statistics().unmatched == {"assets": 2}


def test_a_topic_has_partitions_here_or_has_not() -> None:
    """Other topics make no difference."""
    hub = Bench().hub
    assert [hub.has_partitions({topic}) for topic in ("assets", "other")] == [True, False]


def test_a_feed_is_released_with_its_last_subscriber() -> None:
    """It stays while another subscriber has it."""
    parts = parts_of([])
    for _ in range(2):
        parts._feeds.add(FEED)
    held = []
    for _ in range(2):
        parts._leave_feed(FEED)
        held.append(parts._feeds.has_shared(FEED))
    assert held == [True, False]
