"""What decoding reports about itself. Needs no library of the extras."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchemasStatistics:
    """A snapshot of the schemas."""

    known: int
    missing: int
    fetches: int
    failures: int
    unavailable: str | None
    """Why the registry cannot be asked; None while it can."""


@dataclass(frozen=True, slots=True)
class DecodingStatistics:
    """A snapshot of decoding."""

    decoded: Mapping[str, int]
    """Records whose value was decoded, by topic."""
    undecoded: Mapping[str, int]
    """Records whose value was not decoded, by topic."""
    schemas: SchemasStatistics
    asked: frozenset[str] = frozenset()
    """Topics that are decoded now because subscribers ask for it."""


NO_DECODING = DecodingStatistics({}, {}, SchemasStatistics(0, 0, 0, 0, None))
"""The statistics when no topic is decoded."""
