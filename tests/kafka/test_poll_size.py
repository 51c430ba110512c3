"""How many records a poll may take."""

import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.decoding import Group
from dispatcher.kafka.follower import Followed
from dispatcher.kafka.poll_size import LONGEST_STEP_SECONDS, PollSize
from dispatcher.pipeline import Pipeline
from dispatcher.sansio.records import Records, TopicPartition
from dispatcher.settings import Settings

MOST = 1000


def test_records_that_cost_much_are_taken_in_small_numbers() -> None:
    """As many as fit into a step, with the next poll already."""
    size = PollSize(MOST)
    assert size.records == MOST
    size.took(500, 20 * LONGEST_STEP_SECONDS)
    assert size.records == 25


def test_one_record_is_always_taken() -> None:
    """However much it costs."""
    size = PollSize(MOST)
    size.took(1, 20 * LONGEST_STEP_SECONDS)
    assert size.records == 1


def test_a_long_step_with_many_records_does_not_raise_the_limit() -> None:
    """A poll may hand over more than it took: records that had waited to be decoded."""
    size = PollSize(MOST)
    size.took(500, 20 * LONGEST_STEP_SECONDS)
    size.took(MOST, 2 * LONGEST_STEP_SECONDS)
    assert size.records == 25


def test_single_cheap_records_say_nothing_about_many() -> None:
    """Else a burst after a quiet time would hold the loop."""
    size = PollSize(MOST)
    size.took(500, 20 * LONGEST_STEP_SECONDS)
    for _ in range(100):
        size.took(1, LONGEST_STEP_SECONDS / 20)
    assert size.records == 25


def test_the_limit_returns_when_records_are_cheap_again() -> None:
    """It doubles with each full poll, up to what it was."""
    size = PollSize(MOST)
    size.took(500, 20 * LONGEST_STEP_SECONDS)
    seen = []
    for _ in range(7):
        size.took(size.records, LONGEST_STEP_SECONDS / 20)
        seen.append(size.records)
    assert seen == [50, 100, 200, 400, 800, MOST, MOST]


@pytest.mark.parametrize("most", [1, 1000])
@given(st.lists(st.floats(1e-7, 1e-2), min_size=1, max_size=30))
def test_full_polls_of_any_cost_end_in_steps_that_are_short_enough(most: int, costs: list[float]) -> None:
    """Once the cost of a record stays what it is, no step but the first is too long, unless it has one record."""
    size = PollSize(most)
    for cost in costs:
        size.took(size.records, size.records * cost)
    for _ in range(20):
        size.took(size.records, size.records * costs[-1])
        assert size.records * costs[-1] <= LONGEST_STEP_SECONDS * 1.001 or size.records == 1
        assert 1 <= size.records <= most


class Client:
    """A consumer that has one message, and notes how many more it is asked for."""

    def __init__(self) -> None:
        self.asked = list[int]()

    def poll(self, _: float) -> Message:
        """The message."""
        return Message(topic="assets", partition=0, offset=len(self.asked))

    def consume(self, number: int, _: float) -> list[Message]:
        """No more."""
        self.asked.append(number)
        return []


class Clock:
    """The CPU time as `poll_size` sees it: each step takes twenty times as long as it should."""

    def __init__(self) -> None:
        self._now = 0.0

    def thread_time(self) -> float:
        """Seconds."""
        self._now += 20 * LONGEST_STEP_SECONDS
        return self._now


RECORDS = Records(range(100), [0] * 100, [None] * 100, [b"{}"] * 100, [()] * 100)
GROUP = Group(TopicPartition("assets", 0), RECORDS, None)
SETTINGS = Settings(client_id="replica", bootstrap_servers="127.0.0.1:1")


async def test_the_member_of_the_group_takes_as_many_as_it_has_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what its records cost."""
    pipeline, client = Pipeline(SETTINGS), Client()
    monkeypatch.setattr("dispatcher.kafka.poll_size.time", Clock())
    pipeline.exchange(PollResult(groups=[GROUP]))
    pipeline.make_consumer()._poll(client, 0)  # type: ignore[arg-type] # as much of a consumer as is used
    assert client.asked == [4]


async def test_the_follower_takes_as_many_as_it_has_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same."""
    following, client = Pipeline(SETTINGS)._following, Client()
    monkeypatch.setattr("dispatcher.kafka.poll_size.time", Clock())
    following.followed(Followed(groups=[(1, GROUP)]))
    following._follower._poll(client)  # type: ignore[arg-type] # as much of a consumer as is used
    assert client.asked == [4]
