"""Asking where partitions begin, beside brokers that tell little."""

from collections.abc import Collection, Iterable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException, Uuid

from dispatcher.kafka import beginnings
from dispatcher.kafka.beginnings import Beginnings
from dispatcher.sansio.beginnings import Policy, Stamp, Start
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.topic_memory import TopicMemory

ONE, TWO = TopicPartition("assets", 0), TopicPartition("assets", 1)
ID = Uuid(7, 7)


def answer(result: object) -> "Future[Any]":
    """An answer that is there, or an error."""
    future: Future[Any] = Future()
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
    return future


class Cluster:
    """What brokers tell; takes the place of the requests."""

    def __init__(self) -> None:
        self.policy = Policy.EARLIEST
        self.topic_id = ID
        self.silent: set[TopicPartition] = set()
        """Partitions without a leader."""
        self.late: set[TopicPartition] = set()
        """Partitions whose leader does not answer in time: librdkafka gives an invalid offset then, and no error."""
        self.renewals = 0
        self.offsets: list[SimpleNamespace] = []
        """Of the group, as confluent_kafka gives them."""

    def renew(self) -> None:
        """The first time, a file is away."""
        self.renewals += 1
        if self.renewals == 1:
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG, "ssl.ca.location failed: No such file"))

    def serve(self) -> None:
        """Nothing is said."""

    def describe(self, topics: Collection[str]) -> dict[str, "Future[Any]"]:
        """Each topic has two partitions."""
        return {topic: answer(SimpleNamespace(topic_id=self.topic_id, partitions=[0, 1])) for topic in topics}

    def cluster(self) -> "Future[Any]":
        """It has an id."""
        return answer(SimpleNamespace(cluster_id="here"))

    def committed(self, _: Iterable[TopicPartition]) -> "Future[Any]":
        """The group has no offset, unless it was given one."""
        return answer(self.offsets)

    def bounds(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple["Future[Any]", "Future[Any]"]]:
        """Ten records each."""
        ten = answer(SimpleNamespace(offset=10))
        no_leader = KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        return {
            partition: (answer(no_leader), answer(no_leader))
            if partition in self.silent
            else (answer(SimpleNamespace(offset=-1001 if partition in self.late else 0)), ten)
            for partition in partitions
        }


class Clock:
    """Goes forward when it is asked to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """What is asked instead of Kafka."""
    cluster = Cluster()
    monkeypatch.setattr(beginnings, "StartLookups", lambda _: cluster)
    return cluster


def test_brokers_without_topic_ids_report_none(cluster: Cluster) -> None:
    """Their ids are all zeros, which would look like a recreation once brokers have ids."""
    cluster.topic_id = Uuid(0, 0)
    clock = Clock()
    found = Beginnings({}, ["assets"], TopicMemory(), clock)
    found.assigned([ONE])
    assert found.wait(0) == []
    assert found.wait(0) == [Start(ONE, 0, stamp=Stamp(None, 2, "here"))]
    assert found.watch({ONE: 5}) == {}
    cluster.topic_id = ID
    clock.now += 10
    assert found.watch({ONE: 5}) == {}
    assert found.watch({ONE: 5}) == {ONE: Stamp(str(ID), 2, "here")}
    assert not found.pending


def test_a_partition_without_a_leader_is_reported_and_holds_up_no_other(cluster: Cluster) -> None:
    """Not at once, because leaders change, and then from time to time while it lasts."""
    cluster.silent = {TWO}
    clock = Clock()
    found = Beginnings({}, ["assets"], TopicMemory(), clock)
    with structlog.testing.capture_logs() as lines:
        found.assigned([ONE, TWO])
        assert [start.partition for start in found.take() + found.take()] == [ONE]
        assert lines == []
        for _ in range(120):
            clock.now += 0.25
            assert found.take() == []
    assert [line["partitions"] for line in lines] == [["assets:1"]] * 3
    assert "leader" in lines[0]["reason"]
    cluster.silent = set()
    clock.now += 0.25
    assert [start.partition for start in found.take() + found.take()] == [TWO]


def test_a_leader_that_does_not_answer_in_time_is_asked_again(cluster: Cluster) -> None:
    """Its answer has no offset; taking it for one used to end the process."""
    cluster.late = {ONE}
    clock = Clock()
    found = Beginnings({}, ["assets"], TopicMemory(), clock)
    found.assigned([ONE])
    assert found.take() + found.take() == []
    cluster.late = set()
    clock.now += 0.25
    assert [(start.partition, start.offset) for start in found.take() + found.take()] == [(ONE, 0)]


def test_a_client_that_cannot_be_recreated_continues_with_the_old_one(cluster: Cluster) -> None:
    """The next question tries again, and the group's healthy consumer is unaffected."""
    found = Beginnings({}, ["assets"], TopicMemory(), Clock())
    found.disconnected()
    for partition in (ONE, TWO):
        found.assigned([partition])
        assert [start.partition for start in found.take() + found.take()] == [partition]
    assert cluster.renewals == 2


def group_offset(
    partition: TopicPartition, offset: int, metadata: str = "", error: KafkaError | None = None
) -> SimpleNamespace:
    """A committed offset."""
    return SimpleNamespace(**partition._asdict(), offset=offset, leader_epoch=None, metadata=metadata, error=error)


def test_a_partition_whose_offset_is_not_known_holds_up_no_other(cluster: Cluster) -> None:
    """It has an error of its own, and starts when that has passed."""
    error = KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT)
    cluster.offsets = [group_offset(ONE, 4), group_offset(TWO, -1001, error=error)]
    clock = Clock()
    found = Beginnings({}, ["assets"], TopicMemory(), clock)
    with structlog.testing.capture_logs() as lines:
        found.assigned([ONE, TWO])
        assert [(start.partition, start.offset) for start in found.take()] == [(ONE, 4)]
    assert [line["partitions"] for line in lines] == [["assets:1"]]
    assert found.pending
    cluster.offsets[1] = group_offset(TWO, 6)
    clock.now += 0.25
    assert [(start.partition, start.offset) for start in found.take()] == [(TWO, 6)]


def test_an_offset_that_a_broker_refuses_again_and_again_is_looked_into_ever_less_often(cluster: Cluster) -> None:
    """Asking at the broker's pace would occupy the poller and both brokers."""
    cluster.offsets = [group_offset(ONE, 4)]
    clock = Clock()
    found = Beginnings({}, ["assets"], TopicMemory(), clock)
    found.assigned([ONE])
    assert len(found.take()) == 1
    waited = []
    for _ in range(7):
        found.out_of_range(ONE, 4, truncated=False)
        began = clock.now
        while not found.take():
            clock.now += 0.25
        waited.append(clock.now - began)
    assert waited == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 5.0]
    clock.now += 60
    found.out_of_range(ONE, 4, truncated=False)
    assert found.pending
    assert len(found.take()) == 1


def test_offsets_that_were_copied_from_another_cluster_are_taken_as_they_are(cluster: Cluster) -> None:
    """Another id there does not mean that the topic was recreated here."""
    foreign = Stamp("BAAAAAAAAAcAAAAAAAAABw", 2, "elsewhere").format()
    own = Stamp("BAAAAAAAAAcAAAAAAAAABw", 2, "here").format()
    cluster.offsets = [group_offset(ONE, 4, foreign), group_offset(TWO, 4, own)]
    found = Beginnings({}, ["assets"], TopicMemory(), Clock())
    found.assigned([ONE, TWO])
    starts = {start.partition: start for start in found.take() + found.take() if isinstance(start, Start)}
    assert (starts[ONE].offset, starts[ONE].recreated) == (4, False)
    assert (starts[TWO].offset, starts[TWO].recreated) == (0, True)


@pytest.mark.parametrize("policy", [Policy.LATEST, Policy.ERROR])
def test_a_topic_that_was_recreated_before_this_member_had_any_of_it(cluster: Cluster, policy: Policy) -> None:
    """Kafka forgot the group's offsets, and everything in the new topic is new to the group."""
    cluster.policy = policy
    clock = Clock()
    found = Beginnings({}, ["assets"], TopicMemory(), clock)
    assert found.watch({}) == {}
    cluster.topic_id = Uuid(8, 8)
    clock.now += 10
    for _ in range(2):
        assert found.watch({}) == {}
    found.assigned([ONE])
    (start,) = [one for one in found.take() + found.take() if isinstance(one, Start)]
    assert (start.offset, start.recreated, start.stamp) == (0, True, Stamp(str(Uuid(8, 8)), 0, "here"))


@pytest.mark.parametrize("policy", list(Policy))
def test_a_topic_that_was_recreated_while_there_was_no_consumer(cluster: Cluster, policy: Policy) -> None:
    """A replica in standby, or one that replaces a failed consumer, still knows what it has read."""
    cluster.policy = policy
    memory, clock = TopicMemory(), Clock()
    before = Beginnings({}, ["assets"], memory, clock)
    cluster.offsets = [group_offset(ONE, 4)]
    before.assigned([ONE])
    assert [start.offset for start in before.take()] == [4]
    before.forget([ONE])
    cluster.topic_id, cluster.offsets = Uuid(8, 8), []
    after = Beginnings({}, ["assets"], memory, clock)
    after.assigned([ONE, TWO])
    starts = [one for one in after.take() + after.take() if isinstance(one, Start)]
    assert [(start.partition, start.offset, start.recreated) for start in starts] == [(ONE, 0, True), (TWO, 0, True)]


def test_while_a_topics_id_is_not_reported_a_partition_without_an_offset_waits(cluster: Cluster) -> None:
    """It may have been recreated: to take it for the old one would skip its records without a word."""
    cluster.policy = Policy.LATEST
    memory, clock = TopicMemory(), Clock()
    found = Beginnings({}, ["assets"], memory, clock)
    assert found.watch({}) == {}
    time_out = answer(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
    describe = cluster.describe
    cluster.describe = lambda topics: dict.fromkeys(topics, time_out)  # type: ignore[method-assign] # for a while
    cluster.offsets, cluster.topic_id = [group_offset(ONE, 4)], Uuid(8, 8)
    cluster.renewals = 1
    with structlog.testing.capture_logs() as lines:
        found.assigned([ONE, TWO])
        for _ in range(12):
            assert [start.offset for start in found.take()] in ([], [4])
            clock.now += 0.25
    assert [line["partitions"] for line in lines] == [["assets:1"]]
    assert found.pending
    assert cluster.renewals > 1, "the client may wait for a broker that is dead"
    cluster.describe = describe  # type: ignore[method-assign] # as before
    (start,) = [one for _ in range(2) for one in found.take() if isinstance(one, Start)]
    assert (start.partition, start.offset, start.recreated) == (TWO, 0, True)


def test_a_partition_of_a_recreated_topic_begins_at_its_start_with_a_member_that_has_seen_nothing(
    cluster: Cluster,
) -> None:
    """Another member has noticed, and its commit of another partition says so."""
    cluster.policy = Policy.LATEST
    noticed = TopicMemory()
    noticed.found({"assets": Stamp("AAAAAAAAAAAAAAAAAAAAAA", 2)})
    first = Beginnings({}, ["assets"], noticed, Clock())
    first.assigned([ONE])
    (start,) = [one for one in first.take() + first.take() if isinstance(one, Start)]
    assert start.recreated
    cluster.offsets = [group_offset(ONE, 0, start.stamp.format())]
    second = Beginnings({}, ["assets"], TopicMemory(), Clock())
    second.assigned([TWO])
    (start,) = [one for one in second.take() + second.take() if isinstance(one, Start)]
    assert (start.partition, start.offset, start.recreated) == (TWO, 0, False)


def test_a_topic_that_has_not_changed_begins_where_the_settings_say(cluster: Cluster) -> None:
    """What a member has seen says nothing about what the group has read."""
    cluster.policy = Policy.LATEST
    found = Beginnings({}, ["assets"], TopicMemory(), Clock())
    assert found.watch({}) == {}
    found.assigned([ONE])
    assert found.take() + found.take() == [Start(ONE, 10, stamp=Stamp(str(ID), 2, "here"))]
