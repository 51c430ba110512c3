"""Sends commits through the group consumer, and collects their answers.

Every commit is asynchronous and has explicit offsets: a synchronous one has no timeout in librdkafka, and one without
offsets commits what was fetched, not what was dispatched.

*Thread*: the poller's only.
"""

import time
from collections.abc import Iterable, Sequence

import confluent_kafka
import structlog
from confluent_kafka import Consumer, KafkaError

from dispatcher.kafka.assignment import from_client
from dispatcher.kafka.commits import CommitAnswer, is_worth_another_try, may_arrive
from dispatcher.sansio.commit_book import Commit
from dispatcher.sansio.offsets import RECOMMIT_SECONDS
from dispatcher.sansio.records import TopicPartition

log = structlog.get_logger(__name__)

RETRY_SECONDS = 0.05
"""Pause before a last commit is sent again, if the broker could not accept it, or has stored an older one after it."""

DOUBT_SECONDS = 0.5
"""How often a last commit is sent again while an older one, which librdkafka has given up, may still be stored."""


class CommitSender:
    """The commits of one consumer."""

    def __init__(self) -> None:
        self._answers: list[CommitAnswer] = []
        self._under_way: dict[TopicPartition, list[int]] = {}
        """The offsets of commits that have no answer yet."""
        self._given_up: dict[TopicPartition, tuple[int, float]] = {}
        """The offset of the commit that was last given up, and until when it may still be stored."""
        self._last: dict[TopicPartition, Commit] = {}
        """The last commits, of partitions where it is not certain that theirs is the one that was stored last."""

    def send(self, consumer: Consumer, commits: Sequence[Commit]) -> None:
        """Send commits; their answers arrive with a later poll.

        Raises:
            KafkaException: the client has failed.
        """
        if not commits:
            return
        consumer.commit(
            offsets=[
                confluent_kafka.TopicPartition(
                    *commit.partition,
                    commit.offset,
                    metadata=commit.metadata,
                    leader_epoch=-1 if commit.leader_epoch is None else commit.leader_epoch,
                )
                for commit in commits
            ],
            asynchronous=True,
        )
        for commit in commits:
            self._under_way.setdefault(commit.partition, []).append(commit.offset)

    def send_last(self, consumer: Consumer, commits: Sequence[Commit], seconds: float) -> None:
        """Send a member's last commits, and see to it that they are stored, and stored after all earlier ones.

        They are repeated while the broker cannot accept them, as during a rebalance. While a coordinator changes,
        librdkafka itself repeats earlier ones, which may overtake them: then these are repeated, too. They are not
        repeated once the group has moved on without us, nor for partitions that have left meanwhile: brokers accept
        such a commit from a member that has rejoined, and it would move the new owner's offset back.

        Args:
            consumer: Polled for the answers; records that arrive with them are not dispatched, and stay uncommitted.
            commits: What to commit.
            seconds: How long to try.

        Raises:
            KafkaException: the client has failed.
        """
        deadline = time.monotonic() + seconds
        self._last = {commit.partition: commit for commit in commits}
        self.send(consumer, commits)
        doubted_at = time.monotonic() + DOUBT_SECONDS
        answered = len(self._answers)
        while self._last and time.monotonic() < deadline:
            consumer.poll(0.02)
            answers = self._answers[answered:]
            answered += len(answers)
            again = {answer.partition for answer in answers if self._is_owed_again(answer)}
            now = time.monotonic()
            doubtful = {partition for partition in self._last if self._may_be_overtaken(partition, now)}
            if doubtful and now >= doubted_at:
                doubted_at = now + DOUBT_SECONDS
                again |= doubtful
            if again:
                time.sleep(RETRY_SECONDS)
                self.send(consumer, self.last(again))
            unsettled = self._under_way.keys() | doubtful
            self.left([partition for partition in self._last if partition not in unsettled])
        if self._last:
            log.warning("last commits may not be stored", partitions=[str(partition) for partition in self._last])

    def last(self, partitions: Iterable[TopicPartition]) -> list[Commit]:
        """The last commits of some partitions, where it is not certain that they are stored."""
        return [self._last[partition] for partition in partitions if partition in self._last]

    def left(self, partitions: Iterable[TopicPartition]) -> None:
        """Note that partitions have left."""
        for partition in partitions:
            self._last.pop(partition, None)

    def take_answers(self) -> list[CommitAnswer]:
        """The answers since the last call."""
        answers, self._answers = self._answers, []
        return answers

    def on_commit(self, error: KafkaError | None, partitions: list[confluent_kafka.TopicPartition] | None) -> None:
        """Take librdkafka's answers to one commit, as its ``on_commit`` callback gives them."""
        for answered in partitions or ():
            (partition,) = from_client([answered])
            problem = answered.error or error
            self._answers.append(
                CommitAnswer(partition, answered.offset)
                if problem is None
                else CommitAnswer(partition, answered.offset, problem.code(), problem.name(), problem.str())
            )
            if problem is not None and may_arrive(problem.code()):
                self._given_up[partition] = answered.offset, time.monotonic() + RECOMMIT_SECONDS
            offsets = self._under_way.get(partition, [])
            if answered.offset in offsets:
                offsets.remove(answered.offset)
                if not offsets:
                    del self._under_way[partition]

    def _is_owed_again(self, answer: CommitAnswer) -> bool:
        """Whether a partition's last commit must be repeated: it was not stored, or an older one was, after it."""
        commit = self._last.get(answer.partition)
        if commit is None:
            return False
        if commit.offset == answer.offset:
            return is_worth_another_try(answer.code)
        is_answered = commit.offset not in self._under_way.get(answer.partition, ())
        return is_answered and (not answer.code or may_arrive(answer.code))

    def _may_be_overtaken(self, partition: TopicPartition, now: float) -> bool:
        offset, until = self._given_up.get(partition, (-1, now))
        return now < until and offset != self._last[partition].offset
