"""Modules are loaded without the cycle collector, which would examine all of them again and again and free nothing."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Collect nothing within the block, and never examine the objects that exist at its end.

    Loading the server makes 80,000 objects that live as long as the process: 0.71 s of CPU instead of 0.83 s.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
