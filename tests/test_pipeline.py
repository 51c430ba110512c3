"""The pipeline's own decisions, told by crossings as the poller makes them."""

import orjson
import pytest
import trio
import trio.testing
from confluent_kafka import KafkaError, KafkaException

from dispatcher.errors import KafkaClientError
from dispatcher.fetching import HURRIED_POLL_SECONDS, QUIET_AFTER_SECONDS, QUIET_POLL_SECONDS
from dispatcher.hub.feed import feed_of
from dispatcher.kafka import group_consumer as group_consumer_module
from dispatcher.kafka import poller as poller_module
from dispatcher.kafka.bridge import IDLE_POLL_SECONDS, PollResult
from dispatcher.kafka.commits import CommitAnswer
from dispatcher.kafka.decoding import Group
from dispatcher.kafka.group_consumer import GroupConsumer
from dispatcher.kafka.statistics import ConsumerStatistics
from dispatcher.pipeline import Pipeline
from dispatcher.sansio import health
from dispatcher.sansio.beginnings import Stamp, Start
from dispatcher.sansio.catch_up import CatchUp
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.entries import Cursor
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import Record, Records, TopicPartition
from dispatcher.settings import Settings
from dispatcher.telemetry.snapshot import AccessStatistics
from dispatcher.telemetry.status import ReplicaStatus
from testbed.patience import seconds
from tests.hub.test_hub import RecordingTransport, settle, subscribed

ONE, TWO = TopicPartition("ofa_assets", 0), TopicPartition("ofa_assets", 1)


def newcomer(pipeline: Pipeline) -> Cursor:
    """Where a new reader stands."""
    return CatchUp(pipeline.hub.history, frozenset({"ofa_assets"}), {}, None).cursor


def healthy() -> ConsumerStatistics:
    """Joined, and two brokers there."""
    return ConsumerStatistics(2, True, {})


async def test_a_replica_without_partitions_is_ready_again_after_a_passing_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else would clear the error, because nothing is assigned."""
    settings = Settings(client_id="standby")
    pipeline = Pipeline(settings)
    operations = ReplicaStatus(settings, pipeline, lambda: AccessStatistics(0))
    pipeline.exchange(PollResult(assigned=[], statistics=healthy()))
    assert operations.why_not_ready() == []
    pipeline.exchange(PollResult(errors=[("_TRANSPORT", "broker 3: Connection refused")]))
    pipeline.exchange(PollResult(statistics=healthy()))
    assert operations.why_not_ready() == ["no partition is assigned (broker 3: Connection refused)"]
    monkeypatch.setattr(health, "ERROR_FORGOTTEN_SECONDS", 0.0)
    pipeline.exchange(PollResult(statistics=healthy()))
    assert operations.why_not_ready() == []


async def test_a_replica_with_partitions_stays_ready_in_a_rebalance() -> None:
    """Otherwise an edge would have no replica left, because all members rebalance at once."""
    settings = Settings(client_id="replica")
    pipeline = Pipeline(settings)
    operations = ReplicaStatus(settings, pipeline, lambda: AccessStatistics(0))
    rebalancing = ConsumerStatistics(2, False, {})
    pipeline.exchange(PollResult(statistics=rebalancing))
    assert operations.why_not_ready() == ["the replica has not joined the group dispatcher yet"]
    pipeline.exchange(PollResult(assigned=[ONE], statistics=healthy()))
    pipeline.exchange(PollResult(statistics=rebalancing))
    assert operations.why_not_ready() == []
    pipeline.lost([ONE])
    assert operations.why_not_ready() == ["the replica has not joined the group dispatcher yet"]


@pytest.mark.parametrize(("leave", "told"), [("lost", "rebalancing"), ("leaving", "broker-down")])
async def test_a_live_stream_gets_only_a_state_when_partitions_leave(
    nursery: trio.Nursery, leave: str, told: str
) -> None:
    """That state used to say `catching-up` or `waiting`, which was wrong."""
    pipeline, transport = Pipeline(Settings(client_id="replica")), RecordingTransport()
    nursery.start_soon(pipeline.hub.run)
    pipeline.exchange(PollResult(assigned=[ONE, TWO], statistics=healthy()))
    transport.gate.set()
    with subscribed(pipeline.hub, feed_of(SSE_VALUE, frozenset({"ofa_assets"})), transport) as subscriber:
        nursery.start_soon(subscriber.run)
        await settle()
        before = len(transport.events)
        if leave == "lost":
            pipeline.lost([ONE])
        else:
            pipeline.revoked(pipeline.leaving())
        await settle()
        states = [orjson.loads(data)["state"] for _, _, data in transport.events[before:]]
        assert set(states) == {told}
        nursery.cancel_scope.cancel()


async def test_a_new_state_precedes_the_records_of_the_same_poll(nursery: trio.Nursery) -> None:
    """A stream learns that it is live again before it gets its next record."""
    pipeline, transport = Pipeline(Settings(client_id="replica")), RecordingTransport()
    nursery.start_soon(pipeline.hub.run)
    pipeline.exchange(PollResult(assigned=[ONE], starts=[Start(ONE, 0)], statistics=healthy()))
    transport.gate.set()
    with subscribed(pipeline.hub, feed_of(SSE_VALUE, frozenset({"ofa_assets"})), transport) as subscriber:
        nursery.start_soon(subscriber.run)
        await settle()
        pipeline.exchange(PollResult(statistics=ConsumerStatistics(0, True, {})))
        await settle()
        assert pipeline.statistics().state is ReplicaState.BROKER_DOWN
        before = len(transport.events)
        pipeline.exchange(PollResult(statistics=healthy(), groups=[Group(ONE, records(0), None)]))
        await settle()
        assert [kind for _, kind, _ in transport.events[before:]] == ["state", "message"]
        nursery.cancel_scope.cancel()


async def test_subscribers_learn_that_a_consumer_is_given_up() -> None:
    """The state is not `waiting`, which would mean that the group has nothing for this replica."""
    pipeline = Pipeline(Settings(client_id="replica"))
    pipeline.exchange(PollResult(assigned=[ONE], statistics=healthy()))
    assert pipeline.statistics().state is ReplicaState.STREAMING
    pipeline.revoked(pipeline.leaving())
    assert pipeline.statistics().state is ReplicaState.BROKER_DOWN


async def test_a_stop_ends_a_consumer_that_fails_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backoff is longer than `shutdown_seconds`, and it fails before it gets any order."""

    def fail(_: GroupConsumer) -> None:
        raise KafkaClientError(-150, "_FATAL", "put in on purpose")

    monkeypatch.setattr(GroupConsumer, "run", fail)
    monkeypatch.setattr(poller_module, "REBUILD_SECONDS", (60.0, 60.0))
    pipeline = Pipeline(Settings(client_id="replica"))
    with trio.fail_after(seconds(20)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipeline.run)
            await trio.sleep(0.5)
            pipeline.stop()


class Ill:
    """A consumer that fails at the first poll, and again when it is closed; the second one cannot be made."""

    made = 0

    def __init__(self, *_: object, **__: object) -> None:
        Ill.made += 1
        if Ill.made == 2:
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG, "ssl.ca.location failed: No such file"))

    def subscribe(self, *_: object, **__: object) -> None:
        """Taken."""

    def poll(self, _: float) -> None:
        """No more."""
        raise KafkaException(KafkaError(KafkaError._FATAL, "put in on purpose"))

    def close(self) -> None:
        """The same."""
        raise KafkaException(KafkaError(KafkaError._FATAL, "put in on purpose"))


class NothingBegins:
    """Beginnings of nothing."""

    pending = False

    def __init__(self, *_: object) -> None:
        """Nothing is asked."""

    def take(self) -> list[Start]:
        """Nothing is known."""
        return []

    def log_ends(self, _: object) -> dict[TopicPartition, object]:
        """Nothing is asked."""
        return {}

    def watch(self, _: object) -> dict[TopicPartition, Stamp]:
        """Nothing is new."""
        return {}

    def close(self) -> None:
        """Nobody was asked."""


async def test_a_consumer_that_can_neither_be_closed_nor_made_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscribers stay connected, for example while a certificate file is replaced."""
    monkeypatch.setattr(group_consumer_module, "Consumer", Ill)
    monkeypatch.setattr(group_consumer_module, "Beginnings", NothingBegins)
    monkeypatch.setattr(poller_module, "REBUILD_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(Ill, "made", 0)
    pipeline = Pipeline(Settings(client_id="replica"))
    with trio.fail_after(seconds(20)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipeline.run)
            while Ill.made < 4:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.01)
            pipeline.stop()


def records(*offsets: int) -> Records:
    """Records with these offsets."""
    return Records.of([Record(offset, None, None, b"1", ()) for offset in offsets])


async def test_a_partition_that_comes_back_while_fetching_is_stopped_is_paused_again() -> None:
    """What was held in its earlier assignment is forgotten."""
    pipeline = Pipeline(Settings(client_id="replica"))
    pipeline.exchange(PollResult(assigned=[ONE], starts=[Start(ONE, 0)]))
    pipeline.stop_fetching()
    assert pipeline.exchange(PollResult()).pause == {ONE}
    assert pipeline.exchange(PollResult()).pause == frozenset()
    pipeline.revoked([ONE])
    assert pipeline.exchange(PollResult(assigned=[ONE])).pause == frozenset(), "it has not begun"
    assert pipeline.exchange(PollResult(starts=[Start(ONE, 0)])).pause == {ONE}


async def test_where_an_assignment_begins_is_committed_with_its_stamp() -> None:
    """It is committed at once, before any record; later commits carry what is known by then."""
    pipeline = Pipeline(Settings(client_id="replica", commit_interval_seconds=0.01))
    (commit,) = pipeline.exchange(PollResult(assigned=[ONE], starts=[Start(ONE, 5, stamp=Stamp(None, 2))])).commit
    assert (commit.offset, commit.metadata) == (5, "dispatcher;began-with=2")
    pipeline.exchange(PollResult(commit_answers=[CommitAnswer(ONE, 5)], ends={ONE: 7}, stamps={ONE: Stamp("id", 2)}))
    (commit,) = pipeline.revoked([ONE])
    assert (commit.offset, commit.metadata) == (7, "dispatcher;topic-id=id;began-with=2")


async def test_records_of_a_partition_that_has_not_begun_are_dropped() -> None:
    """They were fetched in an earlier assignment."""
    pipeline = Pipeline(Settings(client_id="replica"))
    pipeline.exchange(
        PollResult(assigned=[ONE], groups=[Group(ONE, records(7), None)], gaps=[Gap(ONE, 1, 2, "expired")])
    )
    assert pipeline.statistics().waiting_records == {ONE: 0}
    assert pipeline.statistics().partitions[ONE].received_to is None


async def test_a_gap_waits_for_a_subscriber() -> None:
    """Its offsets are settled with it, so nothing is committed beyond it before."""
    pipeline = Pipeline(Settings(client_id="replica"))
    pipeline.exchange(
        PollResult(assigned=[ONE], starts=[Start(ONE, 5, committed=True)], gaps=[Gap(ONE, 5, 8, "expired")])
    )
    assert pipeline.statistics().partitions[ONE].dispatched_to == 5
    assert pipeline.hub.history.waiting_bytes > 0
    (entry,) = pipeline.hub.history.ahead(newcomer(pipeline))
    pipeline.hub.dispatched(feed_of(SSE_VALUE, frozenset({"ofa_assets"})), [entry], 1)
    assert pipeline.statistics().partitions[ONE].dispatched_to == 9


async def test_a_log_that_began_again_with_nobody_there_says_so_before_its_first_record() -> None:
    """It says so once, and not if the partition left before."""
    pipeline = Pipeline(Settings(client_id="replica"))
    again = Start(ONE, 0, recreated=True, replaces=5)
    pipeline.exchange(PollResult(assigned=[ONE], starts=[again]))
    pipeline.revoked([ONE])
    pipeline.hub.unassigned([ONE])
    pipeline.exchange(PollResult(assigned=[ONE], starts=[Start(ONE, 0)]))
    pipeline.exchange(PollResult(starts=[again], groups=[Group(ONE, records(0), None), Group(ONE, records(1), None)]))
    entries = list(pipeline.hub.history.ahead(newcomer(pipeline)))
    assert [entry.batch.gap for entry in entries] == [Gap(ONE, 5, -1, "recreated"), None]


async def test_a_write_that_ends_while_the_member_leaves_counts(nursery: trio.Nursery) -> None:
    """Its records would be repeated otherwise; closing the consumer then finds nothing more to wait for."""
    pipeline, transport = Pipeline(Settings(client_id="replica")), RecordingTransport()
    nursery.start_soon(pipeline.hub.run)
    pipeline.exchange(PollResult(assigned=[ONE], starts=[Start(ONE, 0)]))
    subscriber = pipeline.hub.subscribe(feed_of(SSE_VALUE, frozenset({"ofa_assets"})), transport)
    nursery.start_soon(subscriber.run)
    pipeline.exchange(PollResult(groups=[Group(ONE, records(0, 1), None)]))
    await settle()
    pipeline.stop()
    partitions = pipeline.leaving()
    assert not pipeline.drained(partitions)
    transport.gate.set()
    await settle()
    assert pipeline.drained(partitions)
    assert [commit.offset for commit in pipeline.revoked(partitions)] == [2]
    pipeline.revoking(partitions)
    assert pipeline.drained(partitions)
    assert pipeline.revoked(partitions) == []
    nursery.cancel_scope.cancel()


async def test_a_start_that_comes_after_everything_was_let_go_changes_nothing() -> None:
    """The consumer failed between two polls, and its last crossing brings the start."""
    pipeline = Pipeline(Settings(client_id="replica"))
    pipeline.exchange(PollResult(assigned=[ONE]))
    pipeline.revoked(pipeline.leaving())
    pipeline.exchange(PollResult(starts=[Start(ONE, 0)]))
    assert pipeline.statistics().partitions == {}


async def test_polls_wait_longer_once_nothing_has_been_received_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Not while it waits for partitions, nor after a record has come or a stop has begun."""
    del autojump_clock
    pipeline = Pipeline(Settings(client_id="quiet"))

    async def waits(result: PollResult | None = None) -> list[float]:
        found = [pipeline.exchange(result or PollResult()).poll_seconds]
        await trio.sleep(QUIET_AFTER_SECONDS)
        return [*found, pipeline.exchange(PollResult()).poll_seconds]

    assert await waits() == [IDLE_POLL_SECONDS] * 2
    assert await waits(PollResult(assigned=[ONE], starts=[Start(ONE, 5)])) == [IDLE_POLL_SECONDS, QUIET_POLL_SECONDS]
    record = Records.of([Record(5, None, None, b"v", ())])
    assert await waits(PollResult(groups=[Group(ONE, record, None)])) == [IDLE_POLL_SECONDS, QUIET_POLL_SECONDS]
    pipeline.stop_fetching()
    assert await waits() == [HURRIED_POLL_SECONDS] * 2
