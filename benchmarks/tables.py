"""How figures are shown."""

import statistics
from collections.abc import Iterable


def amount(number: float) -> str:
    """Write a number as 1.2 M, 155 k or 12."""
    for size, name in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.3g}"


def median(samples: Iterable[float]) -> float:
    """Return the median; 0 without samples."""
    found = list(samples)
    return float(statistics.median(found)) if found else 0.0
