"""The timers of `bench -- stages`: each record is in each stage once, and what they wrap exists."""

import json
from pathlib import Path

import confluent_kafka
import pytest

from benchmarks import stage_timers
from benchmarks.harness import value
from benchmarks.stage_timers import StageTimers, sent_at
from dispatcher.hub.round_times import RoundTimes
from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.decoding import grouped
from dispatcher.kafka.group_consumer import GroupConsumer
from dispatcher.pipeline import Pipeline

MS = 1_000_000


class Clock:
    """The time in nanoseconds since the epoch."""

    def __init__(self) -> None:
        self.now_ns = 0

    def time_ns(self) -> int:
        """The time."""
        return self.now_ns

    def at(self, ms: int) -> None:
        """Set the time."""
        self.now_ns = ms * MS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replaces that of the timers."""
    clock = Clock()
    monkeypatch.setattr(stage_timers, "time", clock)
    return clock


def message(sent_ms: int) -> confluent_kafka.Message:
    """A record that was sent then."""
    return confluent_kafka.Message(topic="assets", partition=0, offset=sent_ms, value=b"\xc2\xa7%dxx" % (sent_ms * MS))


def test_the_stages_of_a_record_follow_one_another(clock: Clock, tmp_path: Path) -> None:
    """Records of two crossings share a round; what came while the timers were warming up does not count."""
    timers, times = StageTimers(), RoundTimes()
    timers.polled([message(0)])
    for polled, crossed, sent in (5000, 5001, 4990), (5003, 5005, 5002):
        messages = [message(sent)]
        clock.at(polled)
        timers.polled(messages)
        clock.at(crossed)
        timers.crossed(PollResult(groups=list(grouped(messages, 1000))))
    clock.at(5010)
    timers.began(times)
    clock.at(5014)
    timers.ended(times)
    timers.write(tmp_path / "found")
    ms = {stage: us / 1000 for stage, us in json.loads((tmp_path / "found").read_text()).items()}
    assert ms == {"polled": 5.5, "crossed": 1.5, "round began": 7.0, "round ended": 4.0}


def test_a_record_tells_when_it_was_sent() -> None:
    """Whatever its size."""
    assert sent_at(value(40)) <= sent_at(value(4000))


def test_the_timers_wrap_methods_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that has another name now fails when they are put in."""
    monkeypatch.setattr(stage_timers, "atexit", type("NoExit", (), {"register": staticmethod(lambda *_: None)}))
    monkeypatch.setenv(stage_timers.VARIABLE, "unused")
    wrapped = [(GroupConsumer, "_sort"), (Pipeline, "exchange"), (RoundTimes, "began"), (RoundTimes, "ended")]
    before = [getattr(owner, name) for owner, name in wrapped]
    for owner, name in wrapped:
        monkeypatch.setattr(owner, name, getattr(owner, name))
    stage_timers.install()
    assert all(getattr(owner, name) is not old for (owner, name), old in zip(wrapped, before, strict=True))
