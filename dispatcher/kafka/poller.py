"""The poller: the thread that runs the group consumer, and replaces a consumer that has failed."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from dispatcher.errors import KafkaClientError

log = structlog.get_logger(__name__)

REBUILD_SECONDS = (0.5, 15.0)
"""First and longest pause before a failed consumer is replaced."""


class OwnedConsumer(Protocol):
    """What the thread runs (`group_consumer.GroupConsumer`)."""

    def run(self) -> None:
        """Poll until the commands say stop.

        Raises:
            KafkaClientError: it must be replaced.
        """


@dataclass(frozen=True, slots=True)
class PollerStatistics:
    """A snapshot of the poller."""

    rebuilds: int
    """How many consumers have failed and were replaced."""


class Poller:
    """Supervises the thread that owns the consumer.

    Args:
        make_consumer: Makes the consumer that the thread runs, and each of its replacements.
    """

    def __init__(self, make_consumer: Callable[[], OwnedConsumer]) -> None:
        self._make_consumer = make_consumer
        self._limiter = trio.CapacityLimiter(1)
        self._stopping = trio.Event()
        self._rebuilds = 0

    async def run(self) -> None:
        """Poll until the consumer returns.

        *Cancellation*: safe. Before this returns, the thread commits what was dispatched and leaves the group, which
        takes at most `leave_seconds` plus the consumer's ``close``.

        Raises:
            Exception: whatever the downstream or a callback raised; what was dispatched is committed.
        """
        pause_seconds = REBUILD_SECONDS[0]
        while True:
            started = trio.current_time()
            try:
                await trio.to_thread.run_sync(
                    self._make_consumer().run, limiter=self._limiter, thread_name="kafka-poller"
                )
            except KafkaClientError as error:
                if trio.current_time() - started > REBUILD_SECONDS[1]:
                    pause_seconds = REBUILD_SECONDS[0]
                log.warning("consumer failed, rebuilding it", error=str(error), pause_seconds=pause_seconds)
                with trio.move_on_after(pause_seconds * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter, not a secret
                    await self._stopping.wait()
                pause_seconds = min(2 * pause_seconds, REBUILD_SECONDS[1])
                if not self._stopping.is_set():
                    self._rebuilds += 1
                    continue
            return

    def stop(self) -> None:
        """Stop rebuilding the consumer. Commands stop a working one; this is for one that keeps failing."""
        self._stopping.set()

    def statistics(self) -> PollerStatistics:
        """A snapshot of the poller."""
        return PollerStatistics(self._rebuilds)
