"""How figures are shown."""

import statistics
from collections.abc import Iterable


def amount(number: float) -> str:
    """Write a number as 1.2 M, 155 k or 12."""
    for size, name in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.3g}"


def share_of_cpu_second(per_cpu_second: float) -> str:
    """Write the CPU time of one, of which a CPU second makes this many, as 8.33 µs; nothing if it made none."""
    if not per_cpu_second:
        return ""
    microseconds = 1e6 / per_cpu_second
    return f"{microseconds:.0f} µs" if microseconds >= 100 else f"{microseconds:.3g} µs"


def median(samples: Iterable[float]) -> float:
    """Return the median; 0 without samples."""
    found = list(samples)
    return float(statistics.median(found)) if found else 0.0
