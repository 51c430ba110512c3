"""The demo: believable events, a steady rate, and a whole run in a process of its own."""

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx2
import orjson
import pytest
import trio
import trio.testing
from rich.console import Console

from dispatcher.command.demo import AssetEvents, invitation, produce_steadily
from testbed.patience import seconds

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def make_events(seed: int = 1) -> AssetEvents:
    """Events at a time that stands still."""
    return AssetEvents(seed, lambda: NOON)


class TestAssetEvents:
    """What the demo tells."""

    def test_events_are_json_about_their_key_and_of_a_usual_size(self) -> None:
        """About 200 bytes each, like those that the benchmarks use."""
        for key, value in itertools.islice(make_events(), 2000):
            event = orjson.loads(value)
            assert key.decode() == event["asset"]
            assert 180 <= len(value) <= 250
            assert datetime.fromisoformat(event["at"]) == NOON

    def test_an_asset_lives_through_its_steps_in_order(self) -> None:
        """Ingested first, archived last, versions without a hole: a viewer can see that order is kept."""
        lives: dict[bytes, list[tuple[int, str]]] = {}
        for key, value in itertools.islice(make_events(), 5000):
            event = orjson.loads(value)
            lives.setdefault(key, []).append((event["version"], event["event"]))
        for life in lives.values():
            assert list(range(1, len(life) + 1)) == [version for version, _ in life]
            assert life[0][1] == "ingested"
            assert "archived" not in [event for _, event in life[:-1]]
        assert {"moved", "published", "archived"} <= {event for life in lives.values() for _, event in life}

    def test_a_seed_gives_the_same_events_again(self) -> None:
        """And another one gives others."""
        first, again, other = (list(itertools.islice(make_events(seed), 100)) for seed in (7, 7, 8))
        assert first == again
        assert first != other


class Recorder:
    """Takes what is written, with when; its queue may be full."""

    def __init__(self) -> None:
        self.written: list[tuple[float, str, bytes]] = []
        self.full = False

    def write(self, topic: str, key: bytes, _: bytes) -> None:
        """One record."""
        if self.full:
            raise BufferError
        self.written.append((trio.current_time(), topic, key))


def numbers() -> Iterator[tuple[bytes, bytes]]:
    """Keys that count."""
    return ((str(number).encode(), b"") for number in itertools.count())


class TestRate:
    """`produce_steadily`, on a clock that jumps."""

    @pytest.mark.parametrize("rate", [0.25, 1.0, 20.0, 333.3, 5000.0])
    async def test_the_rate_is_met_and_even(self, rate: float, autojump_clock: trio.testing.MockClock) -> None:  # noqa: ARG002
        """Over 20 s it is the rate, and in no tick more than is due."""
        recorder = Recorder()
        started = trio.current_time()
        with trio.move_on_after(20):
            await produce_steadily(recorder.write, ("a",), numbers(), rate)
        assert 20 * rate == pytest.approx(len(recorder.written), abs=1 + 0.02 * rate)
        for number, (at, _, _) in enumerate(recorder.written):
            assert number / rate <= at - started + 1e-6
            assert at - started <= number / rate + 0.02 + 1e-6

    async def test_topics_are_written_in_turn(self, autojump_clock: trio.testing.MockClock) -> None:  # noqa: ARG002
        """Every topic of the settings gets its share."""
        recorder = Recorder()
        with trio.move_on_after(0.95):
            await produce_steadily(recorder.write, ("a", "b"), numbers(), 4)
        assert [topic for _, topic, _ in recorder.written] == ["a", "b", "a", "b"]

    async def test_after_a_sleep_there_is_no_burst(self, mock_clock: trio.testing.MockClock) -> None:
        """A laptop that was suspended for an hour goes on at the rate."""
        recorder = Recorder()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_steadily, recorder.write, ("a",), numbers(), 10.0)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(3600)
            await trio.testing.wait_all_tasks_blocked()
            assert len(recorder.written) <= 2
            mock_clock.jump(0.95)
            await trio.testing.wait_all_tasks_blocked()
            assert 10 <= len(recorder.written) <= 12
            nursery.cancel_scope.cancel()

    async def test_a_full_queue_is_waited_for(self, mock_clock: trio.testing.MockClock) -> None:
        """What is due then is written when there is room again."""
        recorder = Recorder()
        recorder.full = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_steadily, recorder.write, ("a",), numbers(), 10.0)
            await trio.testing.wait_all_tasks_blocked()
            assert recorder.written == []
            recorder.full = False
            mock_clock.jump(0.55)
            await trio.testing.wait_all_tasks_blocked()
            assert len(recorder.written) == 6
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("address", "netloc"),
    [
        (("127.0.0.1", 8000), "127.0.0.1:8000"),
        (("0.0.0.0", 80), "127.0.0.1:80"),  # noqa: S104
        (("::", 80), "[::1]:80"),
        (("::1", 80), "[::1]:80"),
    ],
)
def test_the_invitation_names_addresses_that_can_be_opened(address: tuple[str, int], netloc: str) -> None:
    """It lists the pages, the commands to type, and how to stop."""
    console = Console(width=100)
    with console.capture() as capture:
        console.print(invitation(address, 20))
    text = capture.get()
    for what in (
        *(f"http://{netloc}{path} " for path in ("/", "/events", "/status", "/metrics")),
        f"curl -N http://{netloc}/events",
        f"python -m websockets ws://{netloc}/ws",
        "20 records per second",
        "Ctrl-C to stop",
    ):
        assert what in text


@contextmanager
def demo(*more: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A demo in a process of its own, and where it serves."""
    command = [sys.executable, "-m", "dispatcher", "demo", "--rate=200", "--bind=127.0.0.1:0", "--log-format=json"]
    command += more
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, next(word for line in process.stdout for word in line.split() if word.startswith("http://"))
        finally:
            process.kill()


@contextmanager
def read(url: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The records of a stream, as JSON, one after the other."""
    with httpx2.stream("GET", url, timeout=seconds(20)) as response:
        lines = (line for line in response.iter_lines() if line.startswith(('data: {"asset"', 'data: {"topic"')))
        yield (orjson.loads(line.removeprefix("data: ")) for line in lines)


def first(url: str, number: int) -> list[dict[str, Any]]:
    """The first records of a stream."""
    with read(url) as records:
        return list(itertools.islice(records, number))


@pytest.mark.parametrize("more", [(), ("--workers=2",)])
def test_the_demo_serves_events_and_ctrl_c_ends_it_with_0(more: tuple[str, ...]) -> None:
    """A whole run as a user sees it: settings from flags, events over SSE, and a clean stop."""
    with demo(*more) as (process, address):
        assert 1 in [event["version"] for event in first(f"{address}events", 100)]
        process.send_signal(signal.SIGINT)
        assert process.wait(seconds(20)) == 0


def test_the_demo_honours_since() -> None:
    """Each partition begins at its first record of that time or later, even if others have had it.

    To an observer: a subscriber that counts is also sent older records that nobody has had.
    """
    with demo() as (_, address):
        events = f"{address}events?format=envelope&observe=1&since="
        # So old that a stream that begins now leaves something out.
        since_ms = sorted(each["timestamp"] for each in first(f"{events}earliest", 200))[100]
        moment = datetime.fromtimestamp(since_ms / 1000, UTC).isoformat().replace("+00:00", "z")
        begun = [
            {each["partition"]: each for each in reversed(first(f"{events}{at}", 100))} for at in (since_ms, moment)
        ]
        left = {(each["partition"], each["offset"]) for firsts in begun for each in firsts.values()}
        previous: dict[tuple[int, int], int] = {}
        # How far a stream is in one partition when it has brought a record of another is up to the broker.
        with read(f"{events}earliest") as records:
            while left:
                record = next(records)
                left.discard((record["partition"], record["offset"]))
                previous[record["partition"], record["offset"] + 1] = record["timestamp"]
    for firsts in begun:
        assert firsts
        for place, record in firsts.items():
            assert record["timestamp"] >= since_ms
            assert previous.get((place, record["offset"]), 0) < since_ms
