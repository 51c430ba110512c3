"""Which records are traced, for each of OpenTelemetry's samplers."""

import random
from collections.abc import Sequence

import pytest

from dispatcher.sansio.records import Headers
from dispatcher.sansio.sampling import Producer, Sampling, read_traceparent

TRACE = 0x4BF92F3577B34DA6A3CE929D0E0E4736
SPAN = 0x00F067AA0BA902B7
SAMPLED = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = SAMPLED[:-1] + b"0"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SAMPLED, Producer(TRACE, SPAN, sampled=True)),
        (UNSAMPLED, Producer(TRACE, SPAN, sampled=False)),
        (SAMPLED[:-2] + b"ff", Producer(TRACE, SPAN, sampled=True)),
        (b"cc" + SAMPLED[2:] + b"-what the future will be like", Producer(TRACE, SPAN, sampled=True)),
        (b"cc" + SAMPLED[2:], Producer(TRACE, SPAN, sampled=True)),
        (b"ff" + SAMPLED[2:], None),
        (SAMPLED + b"-more", None),
        (SAMPLED + b".more", None),
        (b"00-" + b"0" * 32 + SAMPLED[35:], None),
        (SAMPLED[:36] + b"0" * 16 + b"-01", None),
        (SAMPLED.upper(), None),
        (SAMPLED + b"\n", None),
        (b"\xff", None),
        (b"", None),
        (None, None),
    ],
)
def test_a_producer_is_read_as_the_w3c_says(value: bytes | None, expected: Producer | None) -> None:
    """Later versions are read by their first four fields, and malformed headers are ignored."""
    assert read_traceparent(value) == expected


def numbers(seed: int) -> random.Random:
    """The same with each run."""
    return random.Random(seed)  # noqa: S311 - nothing is secret here


def headers(*values: bytes | None) -> Sequence[Headers]:
    """Of records with other headers around it, and of one without."""
    return [((("a", b"b"), ("traceparent", value)) if value is not None else (("a", None),)) for value in values]


def chosen(name: str, ratio: float, some: Sequence[Headers]) -> list[tuple[int, bool]]:
    """The numbers of those that are chosen, and whether each has a producer."""
    found = Sampling(name, ratio, numbers(1).random).choose(some)
    return [(number, producer is not None) for number, producer in found]


def test_the_parent_decides_for_its_records_and_the_root_for_the_others() -> None:
    """Unsampled producers are not traced, and an invalid header makes a root."""
    some = headers(SAMPLED, UNSAMPLED, None, b"nonsense", SAMPLED, b"00-" + UNSAMPLED[3:-1] + b"2")
    assert chosen("parentbased_always_on", 1, some) == [(0, True), (2, False), (3, False), (4, True)]
    assert chosen("parentbased_always_off", 1, some) == [(0, True), (4, True)]
    assert chosen("always_on", 1, some) == [(0, True), (1, True), (2, False), (3, False), (4, True), (5, True)]
    assert chosen("always_off", 1, some) == []


def test_a_ratio_of_producers_is_taken_by_their_trace_ids() -> None:
    """So all services with the same ratio sample the same traces."""
    low = b"00-" + b"f" * 16 + b"0" * 15 + b"1" + SAMPLED[35:-1] + b"0"
    high = b"00-" + b"0" * 16 + b"f" * 16 + SAMPLED[35:]
    assert chosen("traceidratio", 0.5, headers(low, high)) == [(0, True)]
    assert chosen("parentbased_traceidratio", 0, headers(low, high)) == [(1, True)]


@pytest.mark.parametrize("ratio", [0.01, 0.5])
def test_a_ratio_of_roots_is_chosen_whatever_the_size_of_batches(ratio: float) -> None:
    """Batches may have one record or many, with or without other headers."""
    sizes = numbers(2)
    sampling = Sampling("traceidratio", ratio, numbers(3).random)
    seen = found = 0
    while seen < 60_000:
        size = sizes.choice([1, 2, 500])
        batch: Sequence[Headers] = headers(*[None] * size) if sizes.random() < 0.5 else ((),) * size
        some = sampling.choose(batch)
        assert all(0 <= one.number < size for one in some)
        assert len({one.number for one in some}) == len(some)
        seen, found = seen + size, found + len(some)
    assert 0.9 * ratio < found / seen < 1.1 * ratio


def test_all_and_none_of_the_roots() -> None:
    """This holds without any header as well."""
    none: Sequence[Headers] = ((),) * 3
    assert chosen("always_on", 1, none) == [(0, False), (1, False), (2, False)]
    assert chosen("traceidratio", 1, none) == [(0, False), (1, False), (2, False)]
    assert chosen("traceidratio", 0, none) == []


@pytest.mark.parametrize(
    ("name", "ratio"), [("jaeger_remote", 1.0), ("", 1.0), ("traceidratio", 1.1), ("always_on", -1.0)]
)
def test_a_sampler_that_is_none_is_refused(name: str, ratio: float) -> None:
    """The reason names the existing samplers."""
    with pytest.raises(ValueError, match=r"sampler|ratio"):
        Sampling(name, ratio, random.random)


@pytest.mark.parametrize("ratio", [5e-324, 1e-307, 1e-30])
def test_a_ratio_too_small_to_matter_chooses_nothing(ratio: float) -> None:
    """No trace id is below it, and the distance to the next record overflows."""
    sampling = Sampling("traceidratio", ratio, numbers(5).random)
    assert [sampling.choose(((),) * 1000) for _ in range(20)] == [[]] * 20
