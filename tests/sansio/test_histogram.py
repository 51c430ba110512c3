"""The histogram, compared with counting by hand."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.histogram import Example, Histogram


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 9.0]), st.integers(0, 3))))
def test_counts_are_cumulative_and_bounds_belong_to_their_bucket(values: list[tuple[float, int]]) -> None:
    """Each count covers values up to its bound, and the last count is of all."""
    histogram = Histogram([1.0, 2.0])
    for value, count in values:
        histogram.observe(value, count)
    found = histogram.statistics()
    expected = [sum(count for value, count in values if value <= bound) for bound in (1.0, 2.0, float("inf"))]
    assert list(found.counts) == expected
    assert found.sum == sum(value * count for value, count in values)


def test_an_example_is_of_the_bucket_of_its_value_and_the_newest_stays() -> None:
    """Prometheus refuses an example outside of its bucket."""
    histogram = Histogram([1.0, 2.0])
    old, new, late = Example(1, 1, 1.0, 7), Example(1, 2, 0.2, 8), Example(1, 3, 5.0, 9)
    for example in (old, new, late):
        histogram.give_example(example)
    assert histogram.statistics().examples == (new, None, late)
    assert histogram.statistics().counts == (0, 0, 0)
    assert new.labels == {"trace_id": "0" * 31 + "1", "span_id": "0" * 15 + "2"}
