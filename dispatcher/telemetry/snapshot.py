"""Snapshots of the replica, pages made from them, and a limit on the time that making pages may take.

A page is made in a worker thread from an immutable snapshot. Only the snapshot itself is taken in the loop, and in
slices where it has to look at every subscriber (`hub.statistics.Census`).
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import trio

from dispatcher.access.keyring_statistics import KeyringStatistics
from dispatcher.hub.statistics import CensusStatistics, HubStatistics
from dispatcher.pipeline_statistics import PipelineStatistics
from dispatcher.web.limits import LimitsStatistics
from dispatcher.web.server import ServerStatistics

SHARE = 0.05
"""The share of one core that making pages may take under constant requests."""

ALLOWANCE_SECONDS = 0.1
"""How much time may be spent at once after a pause, so that people, probes and scrapers get a current page."""


@dataclass(frozen=True, slots=True)
class AccessStatistics:
    """The connections and streams of clients, and what was refused."""

    connections: int
    server: ServerStatistics = field(default_factory=ServerStatistics)
    limits: LimitsStatistics = field(default_factory=LimitsStatistics)
    refusals: Mapping[str, int] = field(default_factory=dict)
    """Refused requests, by reason."""
    endings: Mapping[str, int] = field(default_factory=dict)
    """Ended streams, by how they ended."""
    unlogged_endings: int = 0
    """Ended streams that the access log left out."""
    keys: KeyringStatistics | None = None
    """The state of the issuer's keys; None if no token is needed."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The replica at one moment."""

    pipeline: PipelineStatistics
    hub: HubStatistics
    census: CensusStatistics
    access: AccessStatistics
    tasks: int
    reasons: tuple[str, ...]
    """Why it is not ready; empty when it is."""
    since_crossing_seconds: float


class Page:
    """One page, made on request; requests more frequent than `SHARE` allows get the last page again.

    Requests that arrive while a page is being made wait, and the next page answers all of them.

    Args:
        take: Takes a snapshot; returns it, and for how many seconds it has held the loop.
        render: Makes the page from a snapshot, in a worker thread.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        take: Callable[[], Awaitable[tuple[Snapshot, float]]],
        render: Callable[[Snapshot], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._take = take
        self._render = render
        self._clock = clock
        self._lock = trio.Lock()
        self._page = b""
        self._began_at = 0.0
        self._debt_seconds = 0.0
        self._debt_at = 0.0

    async def get(self) -> bytes:
        """The page. *Cancellation*: safe."""
        asked_at = self._clock()
        async with self._lock:
            if not self._page or (self._began_at <= asked_at and self._may_spend()):
                self._began_at = self._clock()
                snapshot, taken_seconds = await self._take()
                self._page, rendered_seconds = await trio.to_thread.run_sync(self._timed, snapshot)
                self._debt_seconds += taken_seconds + rendered_seconds
            return self._page

    def _may_spend(self) -> bool:
        now = self._clock()
        self._debt_seconds = max(0.0, self._debt_seconds - (now - self._debt_at) * SHARE)
        self._debt_at = now
        return self._debt_seconds < ALLOWANCE_SECONDS

    def _timed(self, snapshot: Snapshot) -> tuple[bytes, float]:
        began = time.thread_time()
        return self._render(snapshot), time.thread_time() - began
