"""Ctrl-C ends a command that is still loading without a traceback, and lets one that writes stop in order."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

EXIT_SIGNALLED = 128
"""Plus the number of the signal, as in shells: 130 for Ctrl-C, 143 for SIGTERM."""


@dataclass(slots=True)
class Stop:
    """Whether a signal has asked the command to stop. *Thread*: the main one."""

    signal: int | None = None
    """The first one."""

    def is_asked(self) -> bool:
        """Whether to stop at the next chance."""
        return self.signal is not None

    def take(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal."""
        self.signal = self.signal or number


@contextmanager
def signals_ask_to_stop() -> Iterator[Stop]:
    """Within the block, SIGINT and SIGTERM interrupt nothing: the command asks between its steps whether one came."""
    stop = Stop()
    before = {number: signal.signal(number, stop.take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupts_end_quietly() -> Iterator[None]:
    """Within the block, Ctrl-C ends the process at once with 130: nothing has begun that would have to be undone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, _: os._exit(EXIT_SIGNALLED + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
