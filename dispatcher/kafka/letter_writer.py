"""Writes letters to dead-letter topics, with an idempotent producer that waits for all in-sync replicas.

Rules of this module:

* No letter is abandoned: librdkafka retries for ever wherever it may (``message.timeout.ms=0``), without writing a
  letter twice. Letters that it refuses are reported, and the book (`sansio.dead_letters`) has them retried.
* No topic is created. A broker with ``auto.create.topics.enable`` creates what a producer asks for, so a client that
  creates nothing first checks that the topic exists.
* There is no producer before the first letter. One that has failed for good (a fatal error) is replaced; the next one
  writes again what was not confirmed, so a letter may be in the topic twice.

*Thread*: any, one at a time.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from dispatcher.kafka.leaders import Leaders
from dispatcher.kafka.properties import LIBRDKAFKA_LOG
from dispatcher.sansio.dead_letters import Letter, headers_of
from dispatcher.sansio.records import Headers

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 2.0
"""Maximum wait for a broker to say whether a topic exists."""

PROPERTIES: Mapping[str, str | int | float | bool] = {
    "enable.idempotence": True,
    "acks": "all",
    "message.timeout.ms": 0,
    "allow.auto.create.topics": False,
    # Java's partitioner, so that records with the same key are in the partition that other producers choose.
    "partitioner": "murmur2_random",
    "linger.ms": 2,
    # The broker's limit applies, not the client's.
    "message.max.bytes": 256 * 1024 * 1024,
    "queue.buffering.max.kbytes": 512 * 1024,
    # A topic is looked up before anything is written to it, so an unknown one was deleted.
    "topic.metadata.propagation.max.ms": 5000,
}

_OF_THE_LETTER = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError._INVALID_ARG,  # noqa: SLF001 - the public spelling of local codes
    }
)
"""Errors of a single letter: other letters to the same topic may succeed."""


class Refusal(NamedTuple):
    """A letter that was not written."""

    number: int
    reason: str
    is_its_own: bool
    """Whether the letter is at fault, not its topic."""


@dataclass(slots=True)
class Outcome:
    """The result of one step."""

    acknowledged: list[int] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    failed: str | None = None
    """Why the producer was dropped, with all unconfirmed letters."""


class LetterWriter:
    """Owns the producer.

    Args:
        properties: librdkafka's connection settings.
        leaders: Its client checks whether topics exist.
        group: The group of this dispatcher, for a header.
        replica: The name of this replica, likewise.
    """

    def __init__(
        self, properties: Mapping[str, str | int | float | bool], leaders: Leaders, *, group: str, replica: str
    ) -> None:
        self._properties = {**properties, **PROPERTIES}
        self._leaders = leaders
        self._headers: Callable[[Letter], Headers] = partial(headers_of, group=group, replica=replica)
        self._producer: Producer | None = None
        self._under_way: set[int] = set()
        self._known: set[str] = set()
        """Topics that were found, and have not failed since."""
        self._topics: dict[int, str] = {}
        self._outcome = Outcome()
        self._fatal: str | None = None

    def step(self, letters: Sequence[tuple[int, str, Letter]], wait_seconds: float) -> Outcome:
        """Write letters, and wait until all of them are answered or the time is up.

        Args:
            letters: Each with its number and its topic.
            wait_seconds: How long to wait for answers.
        """
        try:
            producer = self._open()
            for topic in dict.fromkeys(topic for _number, topic, _letter in letters):
                self._look_for(topic, [number for number, its, _letter in letters if its == topic])
            for number, topic, letter in letters:
                if topic in self._known:
                    self._write(producer, number, topic, letter)
            deadline = time.monotonic() + wait_seconds
            while self._under_way and self._fatal is None and (left := deadline - time.monotonic()) > 0:
                producer.poll(left)
        except KafkaException as error:
            # The producer cannot be created, for example because a certificate is missing for a moment, or has failed.
            self._fatal = error.args[0].str()
        if self._fatal is not None:
            self._outcome.failed = self._fatal
            self.close()  # this may report the same error again
            self._fatal = None
        outcome, self._outcome = self._outcome, Outcome()
        return outcome

    def close(self) -> None:
        """Drop the producer and its unwritten letters."""
        producer, self._producer = self._producer, None
        self._under_way.clear()
        self._topics.clear()
        if producer is not None:
            # One that has failed for good reports its error again.
            with suppress(KafkaException):
                producer.purge()
                producer.flush(0)

    def _open(self) -> Producer:
        if self._producer is None:
            self._producer = Producer({**self._properties, "error_cb": self._on_error}, logger=LIBRDKAFKA_LOG)
        return self._producer

    def _look_for(self, topic: str, numbers: Sequence[int]) -> None:
        """Ask whether a topic exists, unless that is known; if it does not, refuse its letters."""
        if topic in self._known:
            return
        try:
            found = self._leaders.open().list_topics(topic, timeout=ANSWER_SECONDS).topics[topic]
            reason = None if found.error is None else found.error.str()
        except KafkaException as error:
            reason = error.args[0].str()
        if reason is None:
            self._known.add(topic)
        else:
            self._outcome.refused += [Refusal(number, f"{topic}: {reason}", is_its_own=False) for number in numbers]

    def _write(self, producer: Producer, number: int, topic: str, letter: Letter) -> None:
        record = letter.record
        self._under_way.add(number)
        self._topics[number] = topic
        try:
            producer.produce(
                topic,
                record.value,
                record.key,
                headers=list(self._headers(letter)),
                on_delivery=partial(self._on_delivery, number),
            )
        except BufferError:
            self._refuse(number, "the producer's queue is full", is_its_own=False)
        except KafkaException as error:
            self._take_error(number, error.args[0])

    def _on_delivery(self, number: int, error: KafkaError | None, _message: Message) -> None:
        if number not in self._under_way:
            return
        if error is None:
            self._under_way.discard(number)
            self._topics.pop(number)
            self._outcome.acknowledged.append(number)
        else:
            self._take_error(number, error)

    def _take_error(self, number: int, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001 - as above
            self._fatal = error.str()
            return
        self._refuse(number, error.str(), is_its_own=error.code() in _OF_THE_LETTER)

    def _refuse(self, number: int, reason: str, *, is_its_own: bool) -> None:
        self._under_way.discard(number)
        topic = self._topics.pop(number)
        if not is_its_own:
            self._known.discard(topic)
        self._outcome.refused.append(Refusal(number, f"{topic}: {reason}", is_its_own=is_its_own))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001 - as above
            self._fatal = error.str()
