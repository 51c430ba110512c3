"""How long records take, and which are traced: once for each record, at its first dispatch."""

from collections.abc import Sequence

from dispatcher.hub import dispatch_times
from dispatcher.hub.dispatch_times import DispatchTimes, Traced
from dispatcher.sansio.records import Batch, Headers, Record, TopicPartition
from dispatcher.sansio.sampling import Chosen

ONE, TWO = TopicPartition("assets", 0), TopicPartition("assets", 1)


class EveryOther:
    """Chooses every second record, and keeps what was dispatched."""

    left_out = 0

    def __init__(self) -> None:
        self.seen: list[tuple[TopicPartition, int]] = []

    def choose(self, headers: Sequence[Headers]) -> Sequence[Chosen]:
        """The first, the third, ..."""
        return [Chosen(number, None) for number in range(0, len(headers), 2)]

    def dispatched(self, traced: Traced, ended_ns: int) -> tuple[int, int]:
        """Its offset is the span's id."""
        assert ended_ns >= traced.began_ns
        self.seen.append((traced.partition, traced.offset))
        return 1, traced.offset


def batch(partition: TopicPartition, first: int, number: int) -> Batch:
    """Consecutive records."""
    return Batch(partition, [Record(first + index, 1, None, b"v", ()) for index in range(number)])


def test_each_record_is_counted_and_traced_once() -> None:
    """This holds for parts, for disorder, and for repeated ranges."""
    times, tracer = DispatchTimes(), EveryOther()
    times.tracer = tracer
    one = batch(ONE, 10, 6)
    times.taken(one)
    assert times.statistics().traced == 3
    times.dispatched(one, 2, [(13, 15)])
    times.dispatched(one, 0, [(13, 15)])
    times.dispatched(one, 4, [(10, 16)])
    assert tracer.seen == [(ONE, 14), (ONE, 10), (ONE, 12)]
    found = times.statistics()
    assert (found.spans, found.traced, found.dispatch_seconds.counts[-1]) == (3, 0, 6)
    examples = [example for example in found.dispatch_seconds.examples if example]
    assert (examples[-1].trace_id, examples[-1].span_id) == (1, 12)


def test_a_write_has_the_newest_span_of_its_own_records_as_its_example() -> None:
    """A later write with other records has no example."""
    times = DispatchTimes()
    times.tracer = EveryOther()
    one = batch(ONE, 0, 1)
    times.taken(one)
    times.dispatched(one, 1, [(0, 1)])
    times.wrote(0.3)
    times.wrote(7.0)
    found = times.statistics().write_seconds
    examples = [example for example in found.examples if example]
    assert [(example.value, example.span_id) for example in examples] == [(0.3, 0)]
    assert found.counts[-1] == 2


def test_followed_records_are_neither_counted_nor_traced() -> None:
    """Their owner counts and traces them."""
    times = DispatchTimes()
    times.tracer = EveryOther()
    times.dispatched(batch(ONE, 0, 3), 3, [(0, 3)])
    assert times.statistics().dispatch_seconds.counts[-1] == 0


def test_what_is_never_dispatched_makes_room() -> None:
    """Partitions that leave are forgotten, and new records push out the oldest, so tracing never stops."""
    times, tracer = DispatchTimes(), EveryOther()
    times.tracer = tracer
    times.taken(batch(TWO, 0, 2))
    times.forget([TWO, ONE])
    assert (times.statistics().traced, times.statistics().left_out) == (0, 1)
    times.taken(batch(TWO, 0, 2))
    newest = batch(ONE, 0, 2 * dispatch_times.MAX_TRACED)
    times.taken(newest)
    assert (times.statistics().traced, times.statistics().left_out) == (dispatch_times.MAX_TRACED, 2)
    another = batch(ONE, 10_000, 2)
    times.taken(another)
    times.dispatched(another, 2, [(10_000, 10_002)])
    assert tracer.seen == [(ONE, 10_000)]


def test_spans_of_one_step_cost_no_more_than_a_step_may() -> None:
    """The first subscriber after an hour takes many records; a span costs 50 µs, a step may take 5 ms."""
    times, tracer = DispatchTimes(), EveryOther()
    times.tracer = tracer
    waiting = batch(ONE, 0, 10_000)
    times.taken(waiting)
    times.dispatched(waiting, 10_000, [(0, 10_000)])
    assert len(tracer.seen) * 50e-6 <= 0.005
    assert times.statistics().left_out == 5_000 - len(tracer.seen)


def test_without_a_tracer_nothing_is_kept() -> None:
    """The histogram counts nevertheless."""
    times = DispatchTimes()
    one = batch(ONE, 0, 5)
    times.taken(one)
    times.dispatched(one, 5, [(0, 5)])
    times.forget([ONE])
    found = times.statistics()
    assert (found.dispatch_seconds.counts[-1], found.traced, found.spans, found.left_out) == (5, 0, 0, 0)
