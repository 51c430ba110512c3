"""The door to the dead-letter topics, with a writer that fails as the test says."""

from collections.abc import Sequence

import pytest
import trio

from dispatcher.kafka.dead_letters import DeadLetters
from dispatcher.kafka.leaders import Leaders
from dispatcher.kafka.letter_writer import LetterWriter, Outcome
from dispatcher.sansio import dead_letters as book
from dispatcher.sansio.dead_letters import Letter
from dispatcher.sansio.records import Record, TopicPartition
from testbed.patience import seconds
from testbed.producing import fail_for_good

RECORD = Record(7, None, None, b"x", ())


class FailingWriter:
    """Fails a few times, and then writes all."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.closed = False

    def step(self, letters: Sequence[tuple[int, str, Letter]], _wait_seconds: float) -> Outcome:
        """Raise what `trio.to_thread.run_sync` raises without a thread, or write them."""
        if self.failures:
            self.failures -= 1
            raise RuntimeError("can't start new thread")
        return Outcome(acknowledged=[number for number, _, _ in letters])

    def close(self) -> None:
        """Note it."""
        self.closed = True


def make(template: str) -> DeadLetters:
    """A door without brokers."""
    return DeadLetters({}, Leaders({}), template=template, group="group", replica="replica")


async def test_letters_wait_while_there_is_no_thread_to_write_them(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That does not end the process, and they are written once there is a thread."""
    monkeypatch.setattr(book, "RETRY_SECONDS", (0.001, 0.001))
    letters, writer, stored = make("{topic}.dlq"), FailingWriter(3), trio.Event()
    monkeypatch.setattr(letters, "_writer", writer)
    nursery.start_soon(letters.run)
    letters.send(TopicPartition("assets", 0), RECORD, "", stored.set)
    with trio.fail_after(seconds(20)):
        await stored.wait()
    assert writer.failures == 0
    assert letters.statistics().failing == {}
    nursery.cancel_scope.cancel()


def test_a_producer_that_has_failed_for_good_is_replaced() -> None:
    """It repeats its error when it is closed, which ends neither the process nor the next one."""
    writer = LetterWriter({"bootstrap.servers": "127.0.0.1:1"}, Leaders({}), group="group", replica="replica")
    producer = writer._open()
    writer._known.add("assets.dlq")
    fail_for_good(producer)
    outcome = writer.step([(1, "assets.dlq", Letter(TopicPartition("assets", 0), RECORD, "nack"))], seconds(20))
    assert outcome.failed is not None
    assert writer._open() is not producer
    assert writer.step([], 0).failed is None
    writer.close()


def test_no_topic_is_its_own_dead_letter_topic() -> None:
    """A refused record would return as a letter for ever."""
    letters = make("assets.dlq")
    assert letters.takes("assets")
    assert not letters.takes("assets.dlq")
    assert not make("").takes("assets")
    assert not make("{topic}").takes("assets")
