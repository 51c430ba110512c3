"""Asks the brokers about the health of the topics (`sansio.topic_health` judges the answers).

One request per kind and probe, whatever the number of topics. No topic is ever created: a broker that creates topics
automatically does so only for metadata requests that allow it, and these do not.

The group is not asked about: librdkafka 2.16 aborts the process (``rd_kafka_enq_once_del_source_return: Assertion
`eonce->refcnt > 0'``) when a request to describe a group waits for an unreachable coordinator.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import structlog
import trio
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclOperation

from dispatcher.kafka.leaders import Leaders
from dispatcher.kafka.start_lookups import topic_id_of
from dispatcher.sansio.topic_health import Finding, TopicProbe

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 2.0
"""How long a broker may take; what it has not answered by then counts as unknown."""

NAMES_SECONDS = 60.0
"""Interval at which all topics' names are requested while a topic is missing: a large cluster has many."""

_DENIED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED})
_LIMITER = trio.CapacityLimiter(1)
"""One probe at a time, apart from Trio's other worker threads: a probe that waits must not hold them up."""

_ABSENT = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})  # noqa: SLF001 - the public spelling


class Probe(NamedTuple):
    """What one probe found out."""

    topics: dict[str, TopicProbe]
    existing: frozenset[str]
    """Names of all topics, requested only while a topic is missing."""


class TopicProber:
    """Asks about topics, with the client that looks up offsets.

    *Thread*: any but Trio's, one at a time: it may block for a little longer than `ANSWER_SECONDS`.

    Args:
        leaders: Its client is used.
        topics: The topics to ask about.
    """

    def __init__(self, leaders: Leaders, topics: Sequence[str]) -> None:
        self._leaders = leaders
        self._topics = list(topics)
        self._existing: frozenset[str] = frozenset()
        self._names_at = 0.0
        self._describe_at = 0.0
        """When to ask for descriptions again: librdkafka's mock cluster has none, and a busy broker may be late."""

    async def probe(self) -> Probe:
        """Ask, in a worker thread. *Cancellation*: safe; a thread that waits for answers is abandoned."""
        try:
            return await trio.to_thread.run_sync(self.ask, limiter=_LIMITER, abandon_on_cancel=True)
        except RuntimeError as error:
            return self._silence(error)  # "can't start new thread"

    def ask(self) -> Probe:
        """Ask, and wait for the answers."""
        try:
            admin = self._leaders.open()
            admin.list_topics(self._topics[0], timeout=ANSWER_SECONDS)
            described = self._describe(admin)
            topics: dict[str, TopicProbe] = {}
            for name in self._topics:
                # If no broker answers about one topic, none will about the others: do not wait for those.
                is_mute = any(probe.finding is Finding.SILENT for probe in topics.values())
                topics[name] = self._topic(admin, name, described.get(name), fall_back=not is_mute)
            return Probe(topics, self._names(admin, topics))
        except (KafkaException, RuntimeError, MemoryError) as error:
            # No broker answers, or the client or a thread cannot be created: that is an answer of a kind.
            return self._silence(error)

    def _silence(self, error: Exception) -> Probe:
        """Report that nothing is known about any topic for now."""
        return Probe(dict.fromkeys(self._topics, TopicProbe(Finding.SILENT, error=str(error))), frozenset())

    def _describe(self, admin: AdminClient) -> dict[str, "Future[Any]"]:
        if time.monotonic() < self._describe_at:
            return {}
        return dict(
            admin.describe_topics(
                TopicCollection(self._topics), include_authorized_operations=True, request_timeout=ANSWER_SECONDS
            )
        )

    def _topic(self, admin: AdminClient, name: str, described: "Future[Any] | None", *, fall_back: bool) -> TopicProbe:
        if described is None:
            return _from_metadata(admin, name) if fall_back else TopicProbe(Finding.SILENT, error="no answer")
        try:
            found = described.result(2 * ANSWER_SECONDS)
        except (KafkaException, TimeoutError) as error:
            probe = _from_error(error)
            if probe.finding is Finding.SILENT and fall_back:
                fallback = _from_metadata(admin, name)
                if fallback.finding is not Finding.SILENT:
                    # A broker that answers this request but not the other may be unable to describe topics.
                    self._describe_at = time.monotonic() + NAMES_SECONDS
                return fallback
            return probe
        operations = found.authorized_operations
        return TopicProbe(
            Finding.FOUND,
            None if operations is None else AclOperation.READ in operations,
            {
                one.id: [node.id for node in one.replicas]
                for one in found.partitions
                if one.leader is None or one.leader.id < 0
            },
            topic_id_of(found),
        )

    def _names(self, admin: AdminClient, topics: dict[str, TopicProbe]) -> frozenset[str]:
        if all(probe.finding is not Finding.ABSENT for probe in topics.values()):
            return frozenset()
        now = time.monotonic()
        if now >= self._names_at:
            self._names_at = now + NAMES_SECONDS
            self._existing = frozenset(admin.list_topics(timeout=ANSWER_SECONDS).topics)
        return self._existing


def _from_metadata(admin: AdminClient, name: str) -> TopicProbe:
    """What a metadata request reveals: everything but whether the topic may be read."""
    try:
        found = admin.list_topics(name, timeout=ANSWER_SECONDS).topics[name]
    except KafkaException as error:
        return _from_error(error)
    if found.error is not None:
        return _from_error(KafkaException(found.error))
    leaderless = {number: list(one.replicas) for number, one in found.partitions.items() if one.leader < 0}
    return TopicProbe(Finding.FOUND, None, leaderless)


def _from_error(error: Exception) -> TopicProbe:
    if not isinstance(error, KafkaException):
        return TopicProbe(Finding.SILENT, error="no answer")
    code, words = error.args[0].code(), error.args[0].str()
    if code in _DENIED:
        return TopicProbe(Finding.DENIED, error=words)
    return TopicProbe(Finding.ABSENT if code in _ABSENT else Finding.SILENT, error=words)
