"""Ctrl-C while a command is still loading ends it without a traceback."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_end_quietly() -> Iterator[None]:
    """Within the block, Ctrl-C ends the process at once with 130: nothing has begun that would have to be undone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
