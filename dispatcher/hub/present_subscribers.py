"""The present subscribers, by what they ask for."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PresentSubscribers:
    """The present subscribers, counted by feed, so that the cost does not depend on their number."""

    topics: Mapping[str, int]
    """Subscribers by topic; one that reads two topics counts for both."""
    observers: int
    filtered: int
    """Those with a filter."""
    acking: int
    """Those that acknowledge."""
    whole: int
    """Those of whole topics."""
