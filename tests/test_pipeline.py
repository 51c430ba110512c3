"""The pipeline's own decisions, told by crossings as the poller makes them."""

import pytest
import trio

from dispatcher import pipeline as pipeline_module
from dispatcher.errors import KafkaClientError
from dispatcher.hub.statistics import ReplicaState
from dispatcher.kafka import poller as poller_module
from dispatcher.kafka.bridge import Polled
from dispatcher.kafka.poller import Poller
from dispatcher.kafka.statistics import ConsumerStatistics
from dispatcher.pipeline import Pipeline
from dispatcher.sansio.records import TopicPartition
from dispatcher.settings import Settings
from dispatcher.telemetry.status import ReplicaStatus

ONE = TopicPartition("ofa_assets", 0)


def healthy() -> ConsumerStatistics:
    """Joined, and two brokers there."""
    return ConsumerStatistics(2, True, {})


async def test_a_replica_without_partitions_is_ready_again_after_a_passing_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One broker of several blinked: nothing else would ever clear it, because nothing is assigned."""
    settings = Settings(client_id="standby")
    pipeline = Pipeline(settings)
    operations = ReplicaStatus(settings, pipeline, lambda: 0)
    pipeline.exchange(Polled(assigned=[], statistics=healthy()))
    assert operations.why_not_ready() == []
    pipeline.exchange(Polled(errors=[("_TRANSPORT", "broker 3: Connection refused")]))
    pipeline.exchange(Polled(statistics=healthy()))
    assert operations.why_not_ready() == ["nothing is assigned (broker 3: Connection refused)"]
    monkeypatch.setattr(pipeline_module, "WELL_SECONDS", 0.0)
    pipeline.exchange(Polled(statistics=healthy()))
    assert operations.why_not_ready() == []


async def test_a_replica_with_partitions_stays_ready_in_a_rebalance() -> None:
    """All members of a group rebalance at once: an edge that heard "not ready" from each would have nobody left."""
    settings = Settings(client_id="replica")
    pipeline = Pipeline(settings)
    operations = ReplicaStatus(settings, pipeline, lambda: 0)
    rebalancing = ConsumerStatistics(2, False, {})
    pipeline.exchange(Polled(statistics=rebalancing))
    assert operations.why_not_ready() == ["the replica has not joined the group dispatcher yet"]
    pipeline.exchange(Polled(assigned=[ONE], statistics=healthy()))
    pipeline.exchange(Polled(statistics=rebalancing))
    assert operations.why_not_ready() == []
    pipeline.lost([ONE])
    assert operations.why_not_ready() == ["the replica has not joined the group dispatcher yet"]


async def test_a_consumer_that_is_given_up_is_told_to_subscribers() -> None:
    """Not `waiting`, which would mean that the group has nothing for this replica."""
    pipeline = Pipeline(Settings(client_id="replica"))
    pipeline.exchange(Polled(assigned=[ONE], statistics=healthy()))
    assert pipeline.statistics().state is ReplicaState.STREAMING
    pipeline.leaving()
    assert pipeline.statistics().state is ReplicaState.BROKER_DOWN


async def test_a_stop_ends_a_consumer_that_fails_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backoff is longer than `shutdown_seconds`, and it fails before it hears any order."""

    def fail(_: Poller) -> None:
        raise KafkaClientError(-150, "_FATAL", "put in on purpose")

    monkeypatch.setattr(Poller, "_own_consumer", fail)
    monkeypatch.setattr(poller_module, "REBUILD_SECONDS", (60.0, 60.0))
    pipeline = Pipeline(Settings(client_id="replica"))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipeline.run)
            await trio.sleep(0.5)
            pipeline.stop()
