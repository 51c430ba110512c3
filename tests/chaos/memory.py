"""Resident memory of replicas, and the README's formula."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

from dispatcher.settings import Settings

KIB, MIB = 1024, 1024 * 1024
PROCESS_BYTES = 100 * MIB
QUEUE_KBYTES, FETCH_BYTES = 8 * 1024, 8 * MIB
"""What the dispatcher sets when nobody else does."""
FOLLOWER_BYTES = 28 * MIB
"""One more consumer: 8 MiB and 40 % for the queue that `kafka.follower` gives it, a fetch of 8 MiB, and 9 MiB."""


def bound_bytes(settings: Settings, subscribers: int) -> int:
    """The README's formula."""
    queue_bytes = int(settings.kafka.get("queued.max.messages.kbytes", QUEUE_KBYTES)) * KIB
    return (
        PROCESS_BYTES
        + settings.history_bytes
        + int(1.4 * queue_bytes)
        + int(settings.kafka.get("fetch.max.bytes", FETCH_BYTES))
        + 9 * MIB
        + FOLLOWER_BYTES
        + settings.replay_concurrency * 12 * MIB
        + subscribers * (settings.subscriber_buffer_bytes + settings.write_bytes + 64 * KIB)
    )


@dataclass(frozen=True, slots=True)
class Most:
    """The most that a process had, and how many subscribers it had at most by then."""

    process: str
    resident_bytes: int
    subscribers: int


class Memory:
    """Watches the memory of processes.

    Args:
        settings: Theirs.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._most: dict[str, Most] = {}

    def sample(self, process: str, pid: int, subscribers: int) -> None:
        """Look at a process, which has this many subscribers now."""
        with suppress(psutil.NoSuchProcess):
            self.sampled(process, psutil.Process(pid).memory_info().rss, subscribers)

    def sampled(self, process: str, resident_bytes: int, subscribers: int) -> None:
        """A process has this much memory and this many subscribers now."""
        before = self._most.get(process, Most(process, 0, 0))
        self._most[process] = Most(
            process, max(before.resident_bytes, resident_bytes), max(before.subscribers, subscribers)
        )

    @property
    def most(self) -> Mapping[str, Most]:
        """Return the most of each process."""
        return self._most

    @property
    def good(self) -> bool:
        """Whether every process kept within the formula."""
        return all(good for _, _, good in self.rows())

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """The process that came nearest to what the formula allows it: name, value, and whether it is below."""
        if not self._most:
            return
        bounds = {most: bound_bytes(self._settings, most.subscribers) for most in self._most.values()}
        most = max(bounds, key=lambda one: one.resident_bytes / bounds[one])
        words = f"{most.resident_bytes / MIB:.0f} MiB, at most {bounds[most] / MIB:.0f} by the formula"
        yield f"memory of {most.process} ({most.subscribers} subscribers)", words, most.resident_bytes <= bounds[most]
