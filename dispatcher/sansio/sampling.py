"""Chooses the records to trace: what ``OTEL_TRACES_SAMPLER`` means for records, and who produced a record.

A record's header ``traceparent`` (W3C Trace Context) names the span of its producer. Samplers whose name begins with
``parentbased_`` decide as that producer did. Records without the header are roots: a ratio of them is chosen by
counting, so the others cost nothing.

*Source*: OpenTelemetry specification, "General SDK configuration"; W3C Trace Context, section 3.2.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dispatcher.sansio.records import Headers

HEADER = "traceparent"

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED_DIGITS = b"13579bdf"
"""The last digits of the flags that have the bit *sampled*."""
_LENGTH = 55
"""The length of a ``traceparent`` of version 00."""
_ALL = 2**64
_RATIO_MASK = _ALL - 1
"""A ratio applies to the lower half of a trace id, which is random (specification, TraceIdRatioBased)."""

DEFAULT = "parentbased_always_on"
"""The specification's default."""


class Producer(NamedTuple):
    """The span in which a record was produced."""

    trace_id: int
    span_id: int
    sampled: bool


def read_traceparent(value: bytes | None) -> Producer | None:
    """Read a ``traceparent`` header; None if it is invalid and so ignored (specification, 3.2.2)."""
    found = _TRACEPARENT.fullmatch(value or b"")
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    return Producer(trace_id, span_id, bool(int(found[4], 16) & 1)) if trace_id and span_id else None


class Chosen(NamedTuple):
    """A record to trace."""

    number: int
    """Its index among the given records."""
    producer: Producer | None


class Sampling:
    """Chooses records to trace.

    Args:
        name: A value of ``OTEL_TRACES_SAMPLER``.
        ratio: The ratio in ``OTEL_TRACES_SAMPLER_ARG``, for samplers that have one.
        random: Returns random numbers from 0 up to 1.

    Raises:
        ValueError: there is no such sampler, or the ratio is invalid.
    """

    def __init__(self, name: str, ratio: float, random: Callable[[], float]) -> None:
        follows_producer, root = name.startswith("parentbased_"), name.removeprefix("parentbased_")
        ratios = {"always_on": 1.0, "always_off": 0.0, "traceidratio": ratio}
        if root not in ratios:
            raise ValueError(
                f"no sampler {name!r}: there are always_on, always_off, traceidratio, each also with parentbased_"
            )
        if not 0 <= ratio <= 1:
            raise ValueError(f"not a ratio from 0 to 1: {ratio}")
        self._follows_producer = follows_producer
        self._ratio = ratios[root]
        self._bound = round(self._ratio * _ALL)
        self._log_rest = math.log1p(-self._ratio) if 0 < self._bound < _ALL else 0.0
        """The logarithm of the ratio that is not chosen."""
        self._random = random
        self._skip = self._next()
        """How many roots to skip before the next chosen one; None: no root is chosen."""

    def choose(self, headers: Sequence[Headers]) -> Sequence[Chosen]:
        """Return the records to trace, in order.

        Args:
            headers: The headers of each record.
        """
        if not any(headers):
            skip, number = self._skip, len(headers)
            if skip is None:
                return []
            if skip >= number:
                # Most batches end here, and whatever code they do not touch need not be fetched from memory.
                self._skip = skip - number
                return []
            return [Chosen(index, None) for index in self._roots(number)]
        roots: list[int] = []
        chosen: list[Chosen] = []
        for index, one in enumerate(headers):
            # Not a function call, because this runs for every record.
            for name, value in one:
                if name == HEADER:
                    content = value
                    break
            else:
                roots.append(index)
                continue
            if self._follows_producer and content and len(content) == _LENGTH and content[-1] not in _SAMPLED_DIGITS:
                # Most producers sample few records: the other records must cost little.
                continue
            producer = read_traceparent(content)
            if producer is None:
                roots.append(index)
            elif producer.sampled if self._follows_producer else (producer.trace_id & _RATIO_MASK) < self._bound:
                chosen.append(Chosen(index, producer))
        if not roots:
            return chosen
        return sorted([*chosen, *(Chosen(roots[index], None) for index in self._roots(len(roots)))], key=_number)

    def _roots(self, number: int) -> Sequence[int]:
        """Choose among this many roots."""
        found = []
        skip = self._skip
        while skip is not None and skip < number:
            found.append(skip)
            step = self._next()
            skip = None if step is None else skip + 1 + step
        self._skip = None if skip is None else skip - number
        return found

    def _next(self) -> int | None:
        """Return how many roots to skip before the next one (geometric distribution)."""
        if not self._log_rest:
            return 0 if self._bound else None
        return int(math.log(1.0 - self._random()) / self._log_rest)


def _number(chosen: Chosen) -> int:
    return chosen.number
