"""What may be committed with filters: a model of who is present, and the faults that it finds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from dispatcher.hub.feed_registry import FeedRegistry
from dispatcher.hub.settlement import Settlement
from dispatcher.sansio import entries
from dispatcher.sansio.entries import Entry, Selection
from tests.hub.test_filtered import KeyedBench, wanting
from tests.hub.test_hub import ONE, RecordingTransport, settle

KEYS = "abc"
CHOICES = (("a",), ("b",), ("a", "b"), ())
"""Keys that a reader wants; none: all of them."""

STEPS = st.lists(
    st.tuples(st.just("publish"), st.lists(st.sampled_from(KEYS), min_size=1, max_size=4))
    | st.tuples(st.just("connect"), st.integers(0, len(CHOICES) - 1), st.booleans())
    | st.tuples(st.just("leave"), st.integers(0, 3))
    | st.tuples(st.just("read"), st.integers(0, 3)),
    min_size=1,
    max_size=12,
)


@dataclass
class Reader:
    """One subscriber."""

    wanted: tuple[str, ...]
    transport: RecordingTransport
    scope: trio.CancelScope
    since: int
    """How many records there were when it came."""
    present: bool = True

    def wants(self, key: str) -> bool:
        """Whether its filter does."""
        return not self.wanted or key in self.wanted


@dataclass
class Model:
    """What was published, who is present, and what may be committed by that."""

    bench: KeyedBench
    keys: list[str] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    unwanted: set[int] = field(default_factory=set)
    """Records that somebody present might have had and nobody present wanted, at some time."""

    def look(self) -> None:
        """Take note of who is present now."""
        present = [reader for reader in self.readers if reader.present]
        for number, key in enumerate(self.keys):
            if present and not any(reader.wants(key) for reader in present):
                self.unwanted.add(number)

    def check(self) -> None:
        """What was sent is what was wanted, and what is committable was taken or is unwanted."""
        covered = self.bench.ranges.get(ONE, set())
        taken = {int(value) for reader in self.readers for value in reader.transport.values}
        assert covered <= taken | self.unwanted, "committed without being taken or unwanted"
        assert taken <= covered, "taken, and not committed"
        for reader in self.readers:
            values = [int(value) for value in reader.transport.values]
            first = min([reader.since, *values])
            wanted = [n for n in range(first, len(self.keys)) if reader.wants(self.keys[n])]
            assert values == wanted[: len(values)], "left out, repeated, or not wanted"
            if reader.present and reader.transport.gate.is_set():
                assert values == wanted, "not sent"
        if any(reader.present for reader in self.readers) and all(
            reader.transport.gate.is_set() for reader in self.readers if reader.present
        ):
            assert covered == set(range(len(self.keys))), "kept back"
            assert self.bench.hub.history.waiting_bytes == 0


async def play(steps: list[Any]) -> None:
    """Take the steps, and check after each."""
    async with trio.open_nursery() as nursery:
        bench = KeyedBench()
        nursery.start_soon(bench.hub.run)
        model = Model(bench)
        for step in steps:
            if step[0] == "publish":
                model.keys += step[1]
                model.look()
                bench.publish_keys(*step[1])
            elif step[0] == "connect":
                wanted = CHOICES[step[1]]
                reader = Reader(wanted, RecordingTransport(), trio.CancelScope(), len(model.keys))
                if step[2]:
                    reader.transport.gate.set()
                model.readers.append(reader)
                model.look()

                async def serve(  # noqa: ASYNC128 - the bench does
                    reader: Reader = reader,
                    *,
                    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
                ) -> None:
                    with reader.scope:
                        feed = wanting(*reader.wanted)
                        await bench.serve(reader.transport, None, None, feed, task_status=task_status)

                await nursery.start(serve)
            elif model.readers:
                reader = model.readers[step[1] % len(model.readers)]
                if step[0] == "leave":
                    reader.present = False
                    reader.scope.cancel()
                    model.look()
                else:
                    reader.transport.gate.set()
            await settle()
            await trio.sleep(1)  # past the pause between two looks; the clock jumps
            model.check()
        nursery.cancel_scope.cancel()


def run(steps: list[Any]) -> None:
    """In a loop of its own, in which time jumps."""
    trio.run(play, steps, clock=trio.testing.MockClock(autojump_threshold=0))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(STEPS)
def test_what_may_be_committed_was_taken_or_is_wanted_by_nobody_present(steps: list[Any]) -> None:
    """And everything that was wanted is sent, once and in order; nothing is kept back that may go."""
    run(steps)


def _ignores_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed that has not taken its record yet is passed over."""
    match = Settlement.settle

    def settle_all(self: Settlement, entry: Entry, matches: Any) -> None:
        match(self, entry, list(matches)[1:])

    monkeypatch.setattr(Settlement, "settle", settle_all)


def _looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves leaves its records behind."""
    monkeypatch.setattr(Settlement, "feeds_changed", lambda self, topics: None)  # noqa: ARG005


def _takes_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One record that was taken commits those beside it."""
    whole: Callable[..., Any] = lambda batch, indexes: [(batch.covers_from, batch.next_offset)]  # noqa: E731, ARG005
    monkeypatch.setattr(entries, "covered", whole)


def _forgets_those_who_want_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader without a filter counts for nothing."""
    monkeypatch.setattr(FeedRegistry, "wants_all", lambda self, topic: False)  # noqa: ARG005


def _settles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that nobody wants waits for ever."""
    monkeypatch.setattr(Settlement, "settle", lambda self, entry, matches: None)  # noqa: ARG005


def _sends_batches_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader is sent what was not its own."""
    init = Selection.__init__

    def select(self: Selection, entry: Entry, indexes: Any) -> None:
        init(self, entry, indexes[:1])

    monkeypatch.setattr(Selection, "__init__", select)


@pytest.mark.parametrize(
    "fault",
    [
        _ignores_feeds,
        _looks_once,
        _takes_whole_batches,
        _forgets_those_who_want_everything,
        _settles_nothing,
        _sends_batches_whole,
    ],
)
def test_the_model_finds_planted_faults(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them, within some hundred plays."""
    fault(monkeypatch)

    def fails(steps: list[Any]) -> bool:
        try:
            run(steps)
        except BaseExceptionGroup as group:
            return group.split(AssertionError)[0] is not None
        return False

    found = settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=300, database=None)
    found = settings(found, phases=[Phase.generate])
    try:
        find(STEPS, fails, settings=found)
    except NoSuchExample:
        pytest.fail("the model has not found it")
