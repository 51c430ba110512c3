"""Sends commits through the group consumer, and collects their answers.

Every commit is asynchronous and has explicit offsets: a synchronous one has no timeout in librdkafka, and one without
offsets commits what was fetched, not what was dispatched.

*Thread*: the poller's only.
"""

import time
from collections.abc import Iterable, Sequence

import confluent_kafka
from confluent_kafka import Consumer, KafkaError

from dispatcher.kafka.assignment import from_client
from dispatcher.kafka.commits import CommitAnswer, is_worth_another_try
from dispatcher.sansio.commit_book import Commit
from dispatcher.sansio.records import TopicPartition

RETRY_SECONDS = 0.05
"""Pause before the last commit is sent again, if the broker could not accept it."""


class CommitSender:
    """The commits of one consumer."""

    def __init__(self) -> None:
        self._answers: list[CommitAnswer] = []
        self._left: set[TopicPartition] = set()
        """Partitions that have left since the last commit was sent."""

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

    def send_with_retries(self, consumer: Consumer, commits: Sequence[Commit], seconds: float) -> None:
        """Send a member's last commits, and repeat them while the broker cannot accept them, as during a rebalance.

        They are not repeated once the group has moved on without us, nor for partitions that have left meanwhile:
        brokers accept such a commit from a member that has rejoined, and it would move the new owner's offset back.

        Args:
            consumer: Polled for the answers; records that arrive with them are not dispatched, and stay uncommitted.
            commits: What to commit.
            seconds: How long to try.

        Raises:
            KafkaException: the client has failed.
        """
        self._left.clear()
        deadline = time.monotonic() + seconds
        self.send(consumer, commits)
        unanswered = {(commit.partition, commit.offset): commit for commit in commits}
        answered = len(self._answers)
        while unanswered and time.monotonic() < deadline:
            consumer.poll(0.02)
            answers = self._answers[answered:]
            answered += len(answers)
            again = []
            for answer in answers:
                commit = unanswered.pop((answer.partition, answer.offset), None)
                if commit and is_worth_another_try(answer.code) and commit.partition not in self._left:
                    again.append(commit)
            if again:
                time.sleep(RETRY_SECONDS)
                unanswered.update({(commit.partition, commit.offset): commit for commit in again})
                self.send(consumer, again)

    def left(self, partitions: Iterable[TopicPartition]) -> None:
        """Note that partitions have left."""
        self._left.update(partitions)

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
