"""Which dead letters are redriven to their topics, and which already have been.

Rules of this module:

* The offsets that a group commits on the dead-letter topic record what was redriven: all letters before the committed
  offset, and those that the commit's metadata names. So one run may leave letters out, and another run redrives no
  letter twice.
* A record returns as it originally was: without the headers that describe the letter.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dispatcher.sansio.dead_letters import PREFIX
from dispatcher.sansio.offsets import merge
from dispatcher.sansio.records import Headers, TopicPartition

METADATA = "dispatcher-redrive;"
"""The prefix of commit metadata that names letters."""

METADATA_CHARACTERS = 4000
"""Brokers accept 4,096 bytes (``offset.metadata.max.bytes``)."""

_RANGES = re.compile(rf"{re.escape(METADATA)}(\d+-\d+(?:,\d+-\d+)*)?")


class Origin(NamedTuple):
    """What a letter says about its record."""

    partition: TopicPartition
    reason: str
    headers: Headers
    """The record's own headers."""


def origin_of(headers: Sequence[tuple[str, bytes | None]]) -> Origin | None:
    """Read the headers of a letter; None if they are not those of a letter."""
    said = {name.removeprefix(PREFIX): value for name, value in headers if name.startswith(PREFIX)}
    try:
        topic = (said["topic"] or b"").decode()
        partition = int(said["partition"] or b"")
        reason = (said["reason"] or b"").decode()
    except (KeyError, ValueError):
        return None
    if not topic or partition < 0:
        return None
    own = tuple((name, value) for name, value in headers if not name.startswith(PREFIX))
    return Origin(TopicPartition(topic, partition), reason, own)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters to redrive; a letter has to meet all conditions."""

    topics: frozenset[str]
    """The topics of their records."""
    reasons: Collection[str] = ()
    """The reasons; empty for any."""
    since_ms: float | None = None
    """Letters written at this time or later."""
    until_ms: float | None = None
    """Letters written before this time."""

    def has(self, origin: Origin | None, written_ms: float) -> bool:
        """Whether a letter is to be redriven."""
        return (
            origin is not None
            and origin.partition.topic in self.topics
            and (not self.reasons or origin.reason in self.reasons)
            and (self.since_ms is None or written_ms >= self.since_ms)
            and (self.until_ms is None or written_ms < self.until_ms)
        )


class Done:
    """What was redriven from one partition of a dead-letter topic.

    Args:
        offset: The committed offset: all letters before it were redriven.
        metadata: The commit's metadata.
    """

    def __init__(self, offset: int, metadata: str | None = None) -> None:
        self.offset = offset
        self._runs: list[tuple[int, int]] = []
        match = _RANGES.fullmatch(metadata or "")
        for text in match[1].split(",") if match is not None and match[1] else ():
            first, last = map(int, text.split("-"))
            self.add(first, last + 1)

    def __contains__(self, offset: int) -> bool:
        """Whether a letter was redriven."""
        return offset < self.offset or any(start <= offset < end for start, end in self._runs)

    def add(self, start: int, end: int) -> None:
        """Note that letters from an offset up to another one (exclusive) were redriven, or do not exist."""
        start = max(start, self.offset)
        if start >= end:
            return
        merge(self._runs, start, end)
        if self._runs[0][0] <= self.offset:
            self.offset = self._runs.pop(0)[1]

    @property
    def metadata(self) -> str:
        """The metadata of the commit."""
        return METADATA + ",".join(f"{start}-{end - 1}" for start, end in self._runs)

    @property
    def is_too_long(self) -> bool:
        """Whether a commit cannot name all that was left out: another run must redrive those letters first."""
        return len(self.metadata) > METADATA_CHARACTERS
