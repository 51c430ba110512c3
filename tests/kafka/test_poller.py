"""The poller against a real broker: callbacks that raise, and partitions that come back."""

import signal
from collections.abc import Callable
from typing import Any, cast

import confluent_kafka
import orjson
import pytest
import trio

from dispatcher.kafka import commit_sender
from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.group_consumer import GroupConsumer
from dispatcher.kafka.spacing import Spacing
from dispatcher.pipeline import Pipeline
from dispatcher.sansio.beginnings import Again, Start
from dispatcher.sansio.commit_book import Commit
from dispatcher.sansio.poll_size import PollSize
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.topic_memory import TopicMemory
from dispatcher.settings import Settings
from testbed.clients import open_sse, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered, produce_with_header_name
from testbed.replicas import Replica
from tests.conftest import Kafka

RECORDS = 5000
PARTITIONS = 4

RAISES_IN = {
    "on_assign": (
        "import dispatcher.kafka.group_consumer as module\n"
        "def fail(self, consumer, partitions): raise RuntimeError('put in on purpose')\n"
        "module.GroupConsumer._on_assign = fail\n"
    ),
    "stats_cb": (
        "import dispatcher.kafka.group_consumer as module\n"
        "parse, calls = module.parse_statistics, []\n"
        "def fail(text):\n"
        "    calls.append(text)\n"
        "    if len(calls) == 3: raise RuntimeError('put in on purpose')\n"
        "    return parse(text)\n"
        "module.parse_statistics = fail\n"
    ),
    "on_commit": (
        "import dispatcher.kafka.commit_sender as module\n"
        "def fail(self, error, partitions): raise RuntimeError('put in on purpose')\n"
        "module.CommitSender.on_commit = fail\n"
    ),
}


@pytest.mark.parametrize("callback", list(RAISES_IN))
async def test_a_callback_that_raises_loses_no_record(
    kafka: Kafka, replicas: Callable[..., Replica], callback: str
) -> None:
    """The replica exits with 1 and does not hang; undispatched records go to the next one (trap K1)."""
    topic = kafka.create_topic(PARTITIONS)
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS)
    seen = set()
    first = replicas(kafka.bootstrap_servers, topic, code=RAISES_IN[callback])
    with trio.fail_after(seconds(40)):
        async with open_sse(first) as stream:
            while (event := await stream.next_event()) is not None:
                if event.type == "message":
                    seen.add(event.own)
            assert not stream.ended
            assert await trio.to_thread.run_sync(first.wait) == 1
    assert "put in on purpose" in first.log
    committed = {row.partition: row.current_offset or 0 for row in kafka.group_offsets(first.group).values()}
    assert all((partition, offset) in seen for partition, end in committed.items() for offset in range(end))

    second = replicas(kafka.bootstrap_servers, topic)
    left = RECORDS - sum(committed.values())
    if left:
        async with open_sse(second) as stream:
            with trio.fail_after(seconds(40)):
                seen |= {record.own for record in await sse_records(stream, left)}
    assert {(partition, offset) for partition in range(PARTITIONS) for offset in range(RECORDS // PARTITIONS)} == seen


async def test_a_partition_that_was_paused_revoked_and_assigned_again_flows(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Without subscribers all are paused; half move away and return, and then all flow (trap K5)."""
    topic = kafka.create_topic(PARTITIONS)
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS, 1000)
    small = {"pause_above_bytes": "64KiB", "resume_below_bytes": "32KiB"}
    stays = replicas(kafka.bootstrap_servers, topic, settings=small)
    stays.wait_for("all paused", lambda s: s["partitions"] and all(p["paused"] for p in s["partitions"]))
    goes = replicas(kafka.bootstrap_servers, topic, settings={**small, "client_id": "goes"})
    goes.wait_for("half of them, paused", lambda s: [p["paused"] for p in s["partitions"]] == [True, True])
    stays.wait_for("the other half", lambda s: len(s["partitions"]) == 2)
    goes.signal(signal.SIGTERM)
    assert goes.wait() == 0
    stays.wait_for("all of them again", lambda s: len(s["partitions"]) == PARTITIONS)
    assert [row.current_offset for row in kafka.group_offsets(stays.group).values()] == [0] * PARTITIONS
    async with open_sse(stays) as stream:
        with trio.fail_after(seconds(60)):
            records = await sse_records(stream, RECORDS)
    for partition in range(PARTITIONS):
        expected = [(partition, offset) for offset in range(RECORDS // PARTITIONS)]
        assert expected == [record.own for record in records if record.own[0] == partition]


async def test_a_header_name_that_is_no_text_stops_nothing(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """The record arrives without its headers, so does the next one, and one log line reports it."""
    topic = kafka.create_topic(1)
    replica = replicas(kafka.bootstrap_servers, topic)
    await trio.to_thread.run_sync(
        produce_with_header_name, kafka.bootstrap_servers, topic, b"\xff\xfe", b'"unreadable"'
    )
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 1, 1)
    async with open_sse(replica, "?format=envelope") as stream:
        with trio.fail_after(seconds(20)):
            records = await sse_records(stream, 2)
    assert [orjson.loads(record.data)["value"] for record in records] == ['"unreadable"', "0"]
    assert orjson.loads(records[0].data)["headers"] == []
    (line,) = await trio.to_thread.run_sync(replica.wait_until_logged, "headers dropped: a header name is not UTF-8")
    assert line["offset"] == 0


async def test_offsets_that_go_backwards_within_a_poll_begin_a_new_group() -> None:
    """The topic was recreated while records were waiting, so the two logs are kept apart."""
    pipeline = Pipeline(Settings(client_id="replica"))
    partition = TopicPartition("ofa_assets", 0)
    pipeline.exchange(PollResult(assigned=[partition], starts=[Start(partition, 8)]))
    poller = pipeline.make_consumer()
    poller._sort([confluent_kafka.Message(topic="ofa_assets", partition=0, offset=o) for o in (8, 9, 0, 1, 20)])
    assert [[r.offset for r in group.records] for group in poller._result.groups] == [[8, 9], [0, 1, 20]]
    pipeline.exchange(poller._result)
    assert pipeline.statistics().partitions[partition].received_to == 21


class LeavingGroup:
    """A consumer and what is downstream of it, at the end: the broker answers commits as the test wants."""

    def __init__(self, answers: list[int], departs: str = "") -> None:
        self.sent: list[int] = []
        self.told: list[str] = []
        self.closed = False
        self._writes = 0
        """How many writes are under way, each of which moves the offset."""
        self._is_revoked = False
        self._departs = departs
        bounds = {"poll_size": PollSize(1, int), "batch_bytes": 1, "drain_seconds": 5, "leave_seconds": 0.5}
        self.poller = GroupConsumer({}, [], self, Spacing(0), TopicMemory(), **bounds)  # type: ignore[arg-type] # it plays the downstream
        self._answers = answers
        self._waiting: list[confluent_kafka.TopicPartition] = []

    def leaving(self) -> list[TopicPartition]:
        self._writes = 1
        return [TopicPartition("assets", 0)]

    def exchange(self, _: PollResult) -> None:
        """The last report."""

    def lost(self, _: list[TopicPartition]) -> None:
        """It was forgotten when it left."""

    def revoking(self, _: list[TopicPartition]) -> None:
        """The same."""

    def drained(self, _: list[TopicPartition]) -> bool:
        self._writes -= 1
        return self._writes < 0

    def revoked(self, partitions: list[TopicPartition]) -> list[Commit]:
        commits = [] if self._is_revoked else [Commit(tp, 1, 7 - max(0, self._writes), None) for tp in partitions]
        self._is_revoked = True
        return commits

    def left(self) -> None:
        """Nothing was kept."""

    def incremental_unassign(self, _: list[confluent_kafka.TopicPartition]) -> None:
        self.told.append("left")

    def unassign(self) -> None:
        self.told.append("left")

    def commit(self, offsets: list[confluent_kafka.TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        self.sent.append(offsets[0].offset)
        self.told.append(f"commit {offsets[0].offset}")
        self._waiting = offsets

    def poll(self, _: float) -> None:
        if self._waiting and self._answers:
            code = self._answers.pop(0)
            offsets, self._waiting = self._waiting, []
            departs, self._departs = self._departs, ""
            if departs:
                getattr(self.poller, departs)(self, offsets)
            self.poller._commits.on_commit(confluent_kafka.KafkaError(code) if code else None, offsets)

    def close(self) -> None:
        self.closed = True


class OvertakingGroup(LeavingGroup):
    """The broker stores an older commit after the last one; librdkafka may have said before that it gave it up."""

    def __init__(self, code: int) -> None:
        super().__init__([])
        self.stored: list[int] = []
        self.poller._commits.send(self, [Commit(TopicPartition("assets", 0), 1, 5, None)])  # type: ignore[arg-type] # the same
        self._code, (self._late, self._waiting) = code, (self._waiting, [])

    def poll(self, _: float) -> None:
        if self._code:
            self.poller._commits.on_commit(confluent_kafka.KafkaError(self._code), self._late)
            self._code = 0
        elif self._waiting:
            offsets, self._waiting = self._waiting, []
            self._store(offsets)
        elif self._late:
            offsets, self._late = self._late, []
            self._store(offsets)

    def _store(self, offsets: list[confluent_kafka.TopicPartition]) -> None:
        self.stored.append(offsets[0].offset)
        self.poller._commits.on_commit(None, offsets)


@pytest.mark.parametrize(
    ("answers", "sent"),
    [([0], 1), ([27, 14, 0], 3), ([30], 1), ([82], 1), ([25, 0], 1), ([], 1)],
    ids=["stored", "rebalancing, then loading", "not allowed", "fenced", "expelled", "no answer"],
)
async def test_the_last_commit_is_sent_until_the_broker_takes_it(answers: list[int], sent: int) -> None:
    """Otherwise a stop during a rebalance would repeat everything dispatched since."""
    group = LeavingGroup(answers)
    await trio.to_thread.run_sync(group.poller._leave, group, None)  # type: ignore[arg-type] # it is enough of a consumer
    assert group.sent == [7] * sent
    assert group.closed


@pytest.mark.parametrize("departs", ["_on_lost", "_on_revoke"])
async def test_the_last_commit_is_not_sent_again_for_what_has_left(departs: str) -> None:
    """Brokers would accept it from a rejoined member, and move the new owner's offset back.

    Until a revoked partition is released it has no new owner: what the broker could not take is sent once more.
    """
    group = LeavingGroup([27, 0, 27], departs)
    await trio.to_thread.run_sync(group.poller._leave, group, None)  # type: ignore[arg-type] # the same
    assert group.told == {"_on_lost": ["commit 7", "left"], "_on_revoke": ["commit 7", "commit 7", "left"]}[departs]
    assert group.closed


@pytest.mark.parametrize("code", [0, 16], ids=["stored", "given up"])
async def test_an_older_commit_that_is_stored_late_is_not_the_last_one(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a coordinator changes, librdkafka repeats commits, perhaps after it has said that it gave them up."""
    monkeypatch.setattr(commit_sender, "DOUBT_SECONDS", 0.02)
    group = OvertakingGroup(code)
    await trio.to_thread.run_sync(group.poller._leave, group, None)  # type: ignore[arg-type] # the same
    assert group.stored[:2] == [7, 5]
    assert group.stored[-1] == 7
    assert group.closed


class Told:
    """A consumer that keeps the calls."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[int]]] = []

    def pause(self, partitions: list[confluent_kafka.TopicPartition]) -> None:
        """Keep it."""
        self.told.append(("pause", [partition.partition for partition in partitions]))

    def resume(self, partitions: list[confluent_kafka.TopicPartition]) -> None:
        """Keep it."""
        self.told.append(("resume", sorted(partition.partition for partition in partitions)))

    def offsets_for_times(self, partitions: list[confluent_kafka.TopicPartition], timeout: float) -> None:
        """Nobody answers in time, which does not matter."""
        assert timeout < 0.01, "a fetch under way may hold back the answer for a tenth of a second"
        self.told.append(("wake", [partition.partition for partition in partitions]))
        raise confluent_kafka.KafkaException(confluent_kafka.KafkaError(confluent_kafka.KafkaError._TIMED_OUT))


def test_resuming_a_partition_wakes_its_fetcher() -> None:
    """By itself it wakes up to a second later. New partitions were not paused, and are fetched anyway."""
    assignment, consumer = Pipeline(Settings(client_id="replica")).make_consumer()._assignment, Told()
    first, second, new = (TopicPartition("ofa_assets", number) for number in range(3))
    assignment.control_flow(cast("Any", consumer), [first, second], [])
    assignment.control_flow(cast("Any", consumer), [], [first, new])
    assignment.control_flow(cast("Any", consumer), [], [first, new])
    assert consumer.told == [("pause", [0, 1]), ("resume", [0, 2]), ("wake", [0]), ("resume", [0, 2])]


class Rebalancing:
    """A consumer in whose ``consume`` a partition is revoked, and assigned again at another offset."""

    def __init__(self, poller: GroupConsumer) -> None:
        self.given: list[list[tuple[int, int]]] = []
        self._poller = poller

    def poll(self, _: float) -> confluent_kafka.Message:
        """The record that was taken before."""
        return confluent_kafka.Message(topic="ofa_assets", partition=0, offset=50, value=b"")

    def consume(self, _number: int, _timeout: float) -> list[confluent_kafka.Message]:
        """Serves the rebalance, and returns a record of another partition."""
        partitions = [confluent_kafka.TopicPartition("ofa_assets", 0)]
        consumer = cast("Any", self)
        self._poller._on_revoke(consumer, partitions)
        self._poller._on_assign(consumer, partitions)
        return [confluent_kafka.Message(topic="ofa_assets", partition=1, offset=7, value=b"")]

    def incremental_assign(self, partitions: list[confluent_kafka.TopicPartition]) -> None:
        """Keep it."""
        self.given.append([(partition.partition, partition.offset) for partition in partitions])

    def incremental_unassign(self, partitions: list[confluent_kafka.TopicPartition]) -> None:
        """Keep it."""
        self.given.append([(partition.partition, -1) for partition in partitions])


class Known:
    """Beginnings that are known at once: everything begins at 40."""

    def __init__(self) -> None:
        self._asked: list[TopicPartition] = []
        self.lost: list[tuple[TopicPartition, int, bool]] = []

    def assigned(self, partitions: list[TopicPartition]) -> None:
        """These are to begin."""
        self._asked = partitions

    def forget(self, _: list[TopicPartition]) -> None:
        """They have left."""

    def wait(self, _: float) -> list[Start]:
        """No wait is needed."""
        return [Start(partition, 40, committed=True) for partition in self._asked]

    def out_of_range(self, partition: TopicPartition, next_offset: int, *, truncated: bool) -> None:
        """Keep it."""
        self.lost.append((partition, next_offset, truncated))


async def begun_pipeline() -> tuple[Pipeline, GroupConsumer, Rebalancing]:
    """A pipeline with two partitions that were read up to 50 and 7."""
    pipeline = Pipeline(Settings(client_id="replica"))
    poller = pipeline.make_consumer()
    poller._beginnings = cast("Any", Known())
    zero, one = (TopicPartition("ofa_assets", number) for number in range(2))
    starts = [Start(zero, 50, committed=True), Start(one, 7, committed=True)]
    consumer = Rebalancing(poller)
    poller._begin(cast("Any", consumer), starts)
    pipeline.exchange(PollResult(assigned=[zero, one], starts=starts))
    poller._result = PollResult()
    return pipeline, poller, consumer


async def test_a_record_taken_before_a_revoke_within_the_same_poll_is_dropped() -> None:
    """Its partition is assigned again in the same poll, at another offset."""
    pipeline, poller, consumer = await begun_pipeline()
    await trio.to_thread.run_sync(poller._poll, cast("Any", consumer), 0.1)
    assert [(group.partition.partition, list(group.records.offsets)) for group in poller._result.groups] == [(1, [7])]
    assert consumer.given == [[(0, 50), (1, 7)], [(0, -1)], [(0, 40)]]
    pipeline.exchange(poller._result)
    received_to = {tp.partition: found.received_to for tp, found in pipeline.statistics().partitions.items()}
    assert received_to == {0: 40, 1: 8}


class LookingAgain(Rebalancing):
    """A consumer in whose ``consume`` the group changes, and another log of a partition that flows becomes known."""

    def consume(self, _number: int, _timeout: float) -> list[confluent_kafka.Message]:
        """Serves the rebalance."""
        self._poller._on_assign(cast("Any", self), [])
        return []


async def test_a_record_of_the_old_log_taken_before_another_begins_within_the_same_poll_is_dropped() -> None:
    """It would be past the new start, and everything before it would count as read."""
    _, poller, _ = await begun_pipeline()
    zero = TopicPartition("ofa_assets", 0)
    cast("Known", poller._beginnings).wait = lambda _: [Start(zero, 0, recreated=True, replaces=50)]  # type: ignore[method-assign]
    await trio.to_thread.run_sync(poller._poll, cast("Any", LookingAgain(poller)), 0.1)
    assert poller._result.groups == []
    assert poller._assignment.next_offsets[zero] == 0


async def test_a_partition_that_stays_in_its_log_continues_where_it_is_by_then() -> None:
    """Records that arrived during the check are not read again."""
    _, poller, consumer = await begun_pipeline()
    one = TopicPartition("ofa_assets", 1)
    poller._sort([confluent_kafka.Message(topic="ofa_assets", partition=1, offset=7, value=b"")])
    poller._begin(cast("Any", consumer), [Again(one, 7)])
    assert consumer.given[1:] == [[(1, -1)], [(1, 8)]]


def end_of(offset: int) -> confluent_kafka.Message:
    """The end of a log."""
    error = confluent_kafka.KafkaError(confluent_kafka.KafkaError._PARTITION_EOF)
    return confluent_kafka.Message(topic="ofa_assets", partition=0, offset=offset, error=error)


async def test_an_end_is_reported_in_each_assignment() -> None:
    """A quiet partition that returns at an earlier offset reports its end again."""
    _, poller, consumer = await begun_pipeline()
    zero = TopicPartition("ofa_assets", 0)
    poller._sort([end_of(52)])
    assert poller._result.ends == {zero: 52}
    await trio.to_thread.run_sync(poller._poll, cast("Any", consumer), 0.1)
    poller._result = PollResult()
    poller._sort([end_of(40)])
    assert poller._result.ends == {}
    poller._sort([end_of(52)])
    assert poller._result.ends == {zero: 52}


async def test_an_offset_that_the_broker_does_not_have_is_looked_into() -> None:
    """Only present partitions are asked about, from the record after the last received one."""
    _, poller, _ = await begun_pipeline()
    for code in (confluent_kafka.KafkaError._AUTO_OFFSET_RESET, confluent_kafka.KafkaError._LOG_TRUNCATION):
        error = confluent_kafka.KafkaError(code, "gone")
        for number in (1, 2):
            poller._sort([confluent_kafka.Message(topic="ofa_assets", partition=number, offset=3, error=error)])
    one = TopicPartition("ofa_assets", 1)
    assert cast("Known", poller._beginnings).lost == [(one, 7, False), (one, 7, True)]


def test_statistics_that_cannot_be_read_are_skipped() -> None:
    """The client does not escape names; the last readable document stays, and the process continues."""
    poller = Pipeline(Settings(client_id="replica")).make_consumer()
    poller._on_statistics('{"brokers": {"a": {"state": "UP"}}}')
    for text in ('{"client_id": "a"b"}', "", "[]", '{"topics": {"a": {"partitions": {"0": {}}}}}', '{"brokers": 1}'):
        poller._on_statistics(text)
    assert poller._result.statistics is not None
    assert poller._result.statistics.brokers_up == 1
