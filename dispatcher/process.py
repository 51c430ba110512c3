"""Sets limits of the process before it serves, and ends it when a stop takes too long."""

import faulthandler
import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
import trio

log = structlog.get_logger(__name__)

LAST_WORDS_SHARE = 0.95
"""When the log reports that the stop takes too long: shortly before the process ends."""

COLLECTOR_THRESHOLDS = (2_000, 10, 200)
"""Thresholds of the three generations, for `gc.set_threshold`. A collection of 2,000 young objects holds the loop for a
millisecond of CPU while hundreds of clients connect, one of 10,000 for five to ten; both add up to the same."""


def tune_process() -> None:
    """Set limits and thresholds of the operating system and the interpreter."""
    _raise_descriptor_limit()
    _collect_less()
    _switch_threads_sooner()


class LastResort:
    """Ends the process when stopping takes too long: a thread in a C call cannot be cancelled.

    It needs neither the loop nor the interpreter: signals arm it before anything waits for the loop, and then a thread
    in C (`faulthandler`) counts down and calls ``_exit(1)``. It writes nothing first, since that may be what hangs.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._nowhere = Path(os.devnull).open("wb", buffering=0)  # noqa: SIM115 - where faulthandler's own report goes
        self._is_armed = False
        self._timer = threading.Timer(seconds * LAST_WORDS_SHARE, self._say_so)
        self._timer.daemon = True

    async def watch(self) -> None:
        """Arm when the nursery is cancelled, for whatever reason."""
        try:
            await trio.sleep_forever()
        finally:
            self.arm()

    def arm(self) -> None:
        """Start the timer when the stop begins; later calls change nothing."""
        if not self._is_armed:
            self._is_armed = True
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._nowhere)
            with suppress(RuntimeError):  # no thread can be started
                self._timer.start()

    def disarm(self) -> None:
        """Stop the timer: the stop is complete."""
        if self._is_armed:
            faulthandler.cancel_dump_traceback_later()
        self._timer.cancel()
        self._nowhere.close()

    @contextmanager
    def armed_by_signals(self) -> Iterator[None]:
        """Let stop signals arm it in Python's signal handler, before the loop sees them.

        Within `trio.open_signal_receiver`, which restores what was there before it.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._arming(signal.getsignal(number)))
        yield

    def _arming(self, handle: Any) -> Callable[[int, FrameType | None], None]:
        def arm_and_handle(number: int, frame: FrameType | None) -> None:
            self.arm()
            handle(number, frame)

        return arm_and_handle

    def _say_so(self) -> None:
        log.error("stopping took too long, exiting; uncommitted records will be delivered again")


def _collect_less() -> None:
    """Run the cycle collector less often: objects that carry records are freed by reference counting, others live long.

    With CPython's default of 700 new objects between collections, a quarter of the time in which a thousand subscribers
    reconnected was spent on collections.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def _switch_threads_sooner() -> None:
    """Give the loop the GIL back after half a millisecond of a worker thread, not CPython's five.

    Worker threads decode replayed records. docs/performance.md has the gain.
    """
    sys.setswitchinterval(0.0005)


def _raise_descriptor_limit() -> None:
    """Each subscriber is a descriptor, and the soft limit is often 1,024."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
