"""Asks the brokers how long they keep the records of topics (Kafka's DescribeConfigs).

It needs the right to describe a topic's configuration (``DESCRIBE_CONFIGS``); without it, retention is unknown.
"""

from collections.abc import Sequence
from typing import NamedTuple

import structlog
import trio
from confluent_kafka import KafkaException
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from dispatcher.kafka.leaders import Leaders
from dispatcher.kafka.topic_probe import ANSWER_SECONDS
from dispatcher.sansio.retention import Retention

log = structlog.get_logger(__name__)

_LIMITER = trio.CapacityLimiter(1)
"""One request at a time, apart from Trio's other worker threads: a request that waits must not hold them up."""


class RetentionProbe(NamedTuple):
    """The result of one probe."""

    retentions: dict[str, Retention]
    """The retention of each topic that was described."""
    answered: bool
    """Whether any broker has answered."""


class RetentionProber:
    """Asks about topics, with the client that looks up offsets.

    *Thread*: any but Trio's, one at a time: it may block for a little longer than `ANSWER_SECONDS`.

    Args:
        leaders: Its client is used.
        topics: The topics to ask about.
    """

    def __init__(self, leaders: Leaders, topics: Sequence[str]) -> None:
        self._leaders = leaders
        self._topics = list(topics)

    async def probe(self) -> RetentionProbe:
        """Ask, in a worker thread. *Cancellation*: safe; a thread that waits for answers is abandoned."""
        try:
            return await trio.to_thread.run_sync(self.ask, limiter=_LIMITER, abandon_on_cancel=True)
        except RuntimeError:
            # "can't start new thread": retention is unknown for now.
            return RetentionProbe({}, answered=False)

    def ask(self) -> RetentionProbe:
        """If a broker answers at all, ask it about all topics in one request, and wait."""
        retentions: dict[str, Retention] = {}
        try:
            admin = self._leaders.open()
            admin.list_topics(self._topics[0], timeout=ANSWER_SECONDS)
            asked = admin.describe_configs(
                [ConfigResource(ResourceType.TOPIC, topic) for topic in self._topics],
                request_timeout=ANSWER_SECONDS,
            )
        except (KafkaException, RuntimeError, MemoryError):
            return RetentionProbe(retentions, answered=False)
        for resource, answer in asked.items():
            try:
                configs = answer.result(2 * ANSWER_SECONDS)
            except (KafkaException, TimeoutError) as error:
                log.debug("retention unknown", topic=resource.name, error=str(error))
                continue
            found = Retention.of({name: entry.value for name, entry in configs.items()})
            if found is not None:
                retentions[resource.name] = found
        return RetentionProbe(retentions, answered=True)
