"""How much memory a step takes."""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def peak_of_memory() -> Iterator[Callable[[], int]]:
    """Yield a function that returns, after the block, the most bytes that Python held at any time within it."""
    peak = 0
    tracemalloc.start()
    try:
        yield lambda: peak
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
