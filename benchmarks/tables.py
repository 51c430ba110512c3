"""How figures are shown."""

import statistics
from collections.abc import Iterable


def amount(number: float) -> str:
    """1.2 M, 155 k, 12."""
    for size, name in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.3g}"


def median(samples: Iterable[float]) -> float:
    """0 when there is none."""
    found = list(samples)
    return float(statistics.median(found)) if found else 0.0
