"""What may be committed with filters: a model of who is present, and the faults that it finds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from dispatcher.hub import settlement
from dispatcher.hub.encoder import Encoder
from dispatcher.hub.feed_registry import FeedRegistry
from dispatcher.hub.hub import Hub
from dispatcher.hub.parking import Parking
from dispatcher.hub.replayed import Replayed
from dispatcher.hub.settlement import Settlement
from dispatcher.sansio import entries
from dispatcher.sansio.entries import Entry, Selection
from dispatcher.sansio.history_partitions import HistoryPartitions
from dispatcher.sansio.parking import ParkedRanges
from dispatcher.sansio.records import TopicPartition
from tests.hub.test_filtered import KeyedBench, wanting
from tests.hub.test_hub import ONE, RecordingTransport, settle
from tests.hub.test_parking import PARKS, SMALL

KEYS = "abc"
CHOICES = (("a",), ("b",), ("a", "b"), ())
"""Keys that a reader wants; none: all of them."""

TINY = {"history_bytes": 1_000, "pause_above_bytes": 800, "resume_below_bytes": 400, "subscriber_buffer_bytes": 1}
"""Not enough for one entry: whatever one reader has yet to take is detached as soon as another takes what follows."""

END = 10**6

STEP = (
    st.tuples(st.just("publish"), st.lists(st.sampled_from(KEYS), min_size=1, max_size=4))
    | st.tuples(st.just("connect"), st.integers(0, len(CHOICES) - 1), st.booleans(), st.none() | st.integers(1, 3))
    | st.tuples(st.just("leave"), st.integers(0, 3))
    | st.tuples(st.just("read"), st.integers(0, 3))
)
STEPS = st.lists(STEP, min_size=1, max_size=12)
DETACHED = (("connect", 0, False, None), ("connect", 1, True, None), ("publish", ["a", "b", "a"]), ("publish", ["b"]))
"""Two records are no longer handed out from memory, and wait."""

COMPACTING_STEPS = st.lists(STEP | st.tuples(st.just("compact"), st.sampled_from(KEYS)), min_size=1, max_size=10).map(
    lambda steps: [*DETACHED, *steps]
)
"""Kafka also removes all records with a key, except the last record of the log, and reports nothing of that."""


def range_of(ends: tuple[int, int]) -> range:
    """The offsets of a range."""
    return range(*ends)


@dataclass
class Reader:
    """One subscriber."""

    wanted: tuple[str, ...]
    transport: RecordingTransport
    scope: trio.CancelScope
    since: int
    """The offset after the one that its id names; how many records there were when it came if it has none."""
    present: bool = True

    def wants(self, key: str) -> bool:
        """Whether its filter does."""
        return not self.wanted or key in self.wanted


@dataclass
class Model:
    """What was published, who is present, and what may be committed by that."""

    bench: KeyedBench
    parks: bool = False
    keys: list[str] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    unwanted: set[int] = field(default_factory=set)
    """Records that somebody present might have had and nobody present wanted, at some time."""
    compacted: set[int] = field(default_factory=set)
    """Records that may be sent from memory only."""

    def compact(self, key: str) -> None:
        """Remove the records with a key from the log."""
        replays = self.bench.replays
        self.compacted |= {number for number, found in enumerate(self.keys[:-1]) if found == key}
        replays.log = [(tp, record) for tp, record in replays.log if record.offset not in self.compacted]

    def look(self) -> None:
        """Take note of who is present now."""
        present = [reader for reader in self.readers if reader.present]
        for number, key in enumerate(self.keys):
            if present and not any(reader.wants(key) for reader in present):
                self.unwanted.add(number)

    def check(self) -> None:
        """Check that what was wanted was sent, and that what may be committed was taken or is unwanted."""
        covered = self.bench.ranges.get(ONE, set())
        taken = {int(value) for reader in self.readers for value in reader.transport.values}
        may_go = self.compacted | taken if self.parks else self.compacted | taken | self.unwanted
        assert covered <= may_go, "committed without being taken or unwanted"
        assert taken <= covered, "taken, and not committed"
        for reader in self.readers:
            values = [n for n in map(int, reader.transport.values) if n not in self.compacted]
            first = min([reader.since, *values])
            wanted = [n for n in range(first, len(self.keys)) if reader.wants(self.keys[n]) and n not in self.compacted]
            assert values == wanted[: len(values)], "left out, repeated, or not wanted"
            if reader.present and reader.transport.gate.is_set():
                assert values == wanted, "not sent"
        if not all(reader.transport.gate.is_set() for reader in self.readers if reader.present):
            return
        if any(reader.present for reader in self.readers):
            assert self.bench.hub.history.waiting_bytes == 0
            waits = self.bench.hub.history.parked.find(ONE)
            kept = set() if waits is None else set(range(len(self.keys))).difference(*map(range_of, waits.free(0, END)))
            assert kept == set(range(len(self.keys))) - covered, "what is parked, and nothing else, is kept back"
        if any(reader.present for reader in self.readers) and not self.parks:
            assert covered == set(range(len(self.keys))), "kept back"


async def play(steps: list[Any], parks: bool, memory: dict[str, int]) -> None:
    """Take the steps, and check after each; in the end somebody wants everything."""
    async with trio.open_nursery() as nursery:
        bench = KeyedBench(**PARKS, **SMALL) if parks else KeyedBench(**memory)
        nursery.start_soon(bench.hub.run)
        model = Model(bench, parks)
        for step in steps:
            if step[0] == "publish":
                model.keys += step[1]
                model.look()
                bench.publish_keys(*step[1])
            elif step[0] == "compact":
                model.compact(step[1])
            elif step[0] == "connect":
                wanted = CHOICES[step[1]]
                since = len(model.keys) if step[3] is None else min(step[3], len(model.keys))
                reader = Reader(wanted, RecordingTransport(), trio.CancelScope(), since)
                position = None if step[3] is None else {ONE: since - 1}
                if step[2]:
                    reader.transport.gate.set()
                model.readers.append(reader)
                model.look()

                async def serve(  # noqa: ASYNC128 - the bench does
                    reader: Reader = reader,
                    position: dict[TopicPartition, int] | None = position,
                    *,
                    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
                ) -> None:
                    with reader.scope:
                        feed = wanting(*reader.wanted)
                        await bench.serve(reader.transport, position, None, feed, task_status=task_status)

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
        last = RecordingTransport()
        last.gate.set()
        await nursery.start(bench.serve, last, None, None, wanting())
        await settle()
        assert bench.ranges.get(ONE, set()) == set(range(len(model.keys))), "the one that wants everything has it"
        assert not bench.hub.history.parked
        nursery.cancel_scope.cancel()


def run(steps: list[Any], *, parks: bool = False, memory: dict[str, int] | None = None) -> None:
    """In a loop of its own, in which time jumps."""
    trio.run(play, steps, parks, memory or {}, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.fixture(scope="module", autouse=True)
def _looks_record_by_record() -> Iterator[None]:
    """Waiting records are examined one at a time, and others have the loop in between."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(settlement, "SLICE_RECORDS", 1)
        monkeypatch.setattr(settlement, "PART_RECORDS", 1)
        yield


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(STEPS)
def test_what_may_be_committed_was_taken_or_is_wanted_by_nobody_present(steps: list[Any]) -> None:
    """Wanted records are sent once, in order, and nothing is kept back needlessly."""
    run(steps)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(STEPS)
def test_where_a_topic_parks_what_may_be_committed_was_taken(steps: list[Any]) -> None:
    """The rest is parked, not in memory while somebody is present, and sent to later subscribers."""
    run(steps, parks=True)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=200)
@given(STEPS)
def test_with_little_memory_the_same_is_sent_and_committed(steps: list[Any]) -> None:
    """What waits does not keep what follows it in memory; its readers are sent it from Kafka."""
    run(steps, memory=TINY)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=200)
@given(COMPACTING_STEPS)
def test_what_is_compacted_while_it_waits_keeps_nothing_back(steps: list[Any]) -> None:
    """Whoever comes for it has what is left, and commits go on."""
    run(steps, memory=TINY)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=100)
@given(COMPACTING_STEPS)
def test_what_is_compacted_while_it_is_parked_keeps_nothing_back(steps: list[Any]) -> None:
    """The same where a topic parks."""
    run(steps, parks=True)


def _ignores_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed that has not taken its record yet is passed over."""
    match = Settlement.settle

    def settle_all(self: Settlement, entry: Entry, matches: Any, part: range | None = None) -> None:
        match(self, entry, list(matches)[1:], part)

    monkeypatch.setattr(Settlement, "settle", settle_all)


def _looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of a subscriber that leaves are not looked at again."""
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
    monkeypatch.setattr(Settlement, "settle", lambda self, entry, matches, part=None: None)  # noqa: ARG005


def _sends_batches_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader is sent what was not its own."""
    init = Selection.__init__

    def select(self: Selection, entry: Entry, indexes: Any, ranges: Any = None) -> None:
        init(self, entry, indexes[:1], ranges)

    monkeypatch.setattr(Selection, "__init__", select)


def _parks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that nobody wants wait in memory."""
    monkeypatch.setattr(Settlement, "_park", lambda self, entry, unmatched, wanted, part: False)  # noqa: ARG005


def _forgets_what_was_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of which some is parked counts as dispatched."""
    monkeypatch.setattr(Settlement, "_has_nothing_pending", lambda self, entry: self._history.dispatched(entry))


def _begins_after_what_is_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new reader begins where memory has something for it."""
    monkeypatch.setattr(ParkedRanges, "starts", lambda self, topics: {})  # noqa: ARG005


def _commits_what_is_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parked records are settled nevertheless."""
    monkeypatch.setattr(Parking, "parks", lambda self, topic: False)  # noqa: ARG005


def _counts_what_precedes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that begins within a batch counts for all of it."""
    rest = Encoder.rest
    monkeypatch.setattr(Encoder, "rest", lambda self, feed, entry, at: (entry, rest(self, feed, entry, at)[1]))


def _counts_nothing_from_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader is sent from Kafka goes on waiting in memory."""
    monkeypatch.setattr(Hub, "replayed", lambda self, ranges: None)  # noqa: ARG005


def _keeps_place_of_what_is_detached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of the memory passes over what is detached."""
    monkeypatch.setattr(HistoryPartitions, "behind", lambda self, cursor, unfinished: [])  # noqa: ARG005


def _counts_nothing_of_what_is_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits, and is no longer in the log, waits for ever."""
    monkeypatch.setattr(Replayed, "_count_absent", lambda self, lookup, chunk: None)  # noqa: ARG005


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        (_ignores_feeds, {}),
        (_looks_once, {}),
        (_takes_whole_batches, {}),
        (_forgets_those_who_want_everything, {}),
        (_settles_nothing, {}),
        (_sends_batches_whole, {}),
        (_parks_nothing, {"parks": True}),
        (_forgets_what_was_parked, {"parks": True}),
        (_begins_after_what_is_parked, {"parks": True}),
        (_commits_what_is_parked, {"parks": True}),
        (_counts_nothing_from_kafka, {"memory": TINY}),
        (_keeps_place_of_what_is_detached, {"memory": TINY}),
        (_counts_nothing_of_what_is_compacted, {"memory": TINY}),
        (_counts_what_precedes_the_rest, {"parks": True}),
    ],
)
def test_the_model_finds_planted_faults(
    fault: Callable[[pytest.MonkeyPatch], None], how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is found within some thousand plays: one play in seventy shows the rarest."""
    fault(monkeypatch)

    def fails(steps: list[Any]) -> bool:
        try:
            run(steps, **how)
        except BaseExceptionGroup as group:
            return group.split(AssertionError)[0] is not None
        return False

    found = settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=3000, database=None)
    found = settings(found, phases=[Phase.generate])
    try:
        find(COMPACTING_STEPS if fault is _counts_nothing_of_what_is_compacted else STEPS, fails, settings=found)
    except NoSuchExample:
        pytest.fail("the model has not found it")
