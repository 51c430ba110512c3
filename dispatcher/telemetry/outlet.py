"""Writes log lines without making the code that logs wait.

A pipe that nobody reads, or a stopped terminal, would block the loop and with it every subscriber. So a thread writes,
from a bounded queue. Lines that do not fit are dropped and counted, and the next line that is written says so.
"""

import logging
import os
import threading
import time
from collections import deque
from contextlib import suppress

import orjson

MAX_QUEUED_BYTES = 1024 * 1024
"""Log lines waiting to be written. A full pipe holds 64 KiB by itself."""

FLUSH_SECONDS = 1.0
"""How long the end of the process waits for queued lines."""


class Outlet(logging.Handler):
    """Writes lines to a descriptor.

    *Thread*: any.

    Args:
        descriptor: Where to write; None drops everything.
    """

    def __init__(self, descriptor: int | None) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._queued_bytes = 0
        self._unreported = 0
        """Lines dropped since the last report."""
        self._condition = threading.Condition()
        self._is_writing = False
        self._thread: threading.Thread | None = None
        self.dropped_lines = 0
        """Lines that were never written."""

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line; never waits."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 - logging's own rule: a line that cannot be made ends nothing
            self.handleError(record)
            return
        with self._condition:
            if self._descriptor is None or self._queued_bytes + len(line) > MAX_QUEUED_BYTES:
                self.dropped_lines += 1
                self._unreported += 1
                return
            self._lines.append(line)
            self._queued_bytes += len(line)
            if self._start():
                self._condition.notify()
                return
        self._write_what_is_queued()  # no thread can be started, so the process is about to report that and to end

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - logging's
        """Count the line: standard error, where logging would report it, may be what is full."""
        with self._condition:
            self.dropped_lines += 1

    def flush(self) -> None:
        """Wait until everything is written, for `FLUSH_SECONDS` at most."""
        deadline = time.monotonic() + FLUSH_SECONDS
        with self._condition:
            while (self._lines or self._is_writing) and self._thread is not None and time.monotonic() < deadline:
                self._condition.wait(deadline - time.monotonic())

    def _start(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError):
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._lines:
                    self._condition.wait()
                self._is_writing = True
            self._write_what_is_queued()
            with self._condition:
                self._is_writing = False
                self._condition.notify_all()

    def _write_what_is_queued(self) -> None:
        while True:
            with self._condition:
                if not self._lines or self._descriptor is None:
                    return
                line = self._lines.popleft()
                self._queued_bytes -= len(line)
                unreported, self._unreported = self._unreported, 0
            if unreported:
                line = (
                    orjson.dumps({"event": "log lines dropped", "level": "warning", "lines": unreported}) + b"\n" + line
                )
            with suppress(BlockingIOError):  # another process made the descriptor non-blocking: the line is lost
                self._write(line)

    def _write(self, line: bytes) -> None:
        try:
            while line and self._descriptor is not None:
                line = line[os.write(self._descriptor, line) :]
        except BlockingIOError:
            raise
        except OSError:
            # Nobody will ever read it. The process continues to serve.
            with self._condition:
                self.dropped_lines += 1 + len(self._lines)
                self._descriptor = None
                self._lines.clear()
                self._queued_bytes = 0
