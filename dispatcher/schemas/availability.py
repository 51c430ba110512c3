"""Judges whether the registry is away, or only some schemas cannot be fetched.

A registry that is away answers no question. One that answers a question with an error, or not in time, may do so for
one schema only: its subject may be forbidden, or what it refers to be slow. So the answer to a second question decides.
"""

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outage:
    """The registry has no usable answer, whatever the schema. Times are those of `time.monotonic`, in seconds."""

    reason: str
    since: float
    is_silent: bool
    """Whether there was no response at all."""
    ask_again_at: float
    """Until then a silent registry is left alone."""
    outdated_at: float
    """From then on nothing is known: nobody has asked for so long."""

    def rests(self, now: float) -> bool:
        """Whether to ask nothing now."""
        return self.is_silent and now < self.ask_again_at


class Availability:
    """What the answers of the registry say about it. *Thread*: Trio's; others may read `outage`.

    Args:
        retry_seconds: How long to leave a registry alone that has not responded.
        forget_seconds: How much later a failure is outdated.
    """

    def __init__(self, retry_seconds: float, forget_seconds: float) -> None:
        self._retry_seconds = retry_seconds
        self._forget_seconds = forget_seconds
        self.outage: Outage | None = None
        """Why the registry counts as away; None if it does not. Replaced, never changed, because threads read it."""
        self.failing_since: float | None = None
        """When the first of the questions was asked that failed since the last answer; None if none failed."""
        self._answered_at = self._failed_at = -math.inf

    def answered(self) -> bool:
        """Note a usable answer, even if it is that there is no such schema. Returns whether it ends an outage."""
        was_away = self.outage is not None
        self.outage = self.failing_since = None
        self._answered_at = time.monotonic()
        return was_away

    def failed(self, reason: str, wanted_at: float, began: float, *, is_silent: bool, is_decisive: bool) -> bool:
        """Note that a question has no usable answer. Times are those of `time.monotonic`, in seconds.

        Args:
            reason: Why.
            wanted_at: Since when its schema was wanted.
            began: When the request was made: an answer to another one since then says that only this schema fails.
            is_silent: Whether there was no response at all.
            is_decisive: Whether this is the second question, or there is no better one. False: the caller asks for a
                schema that is known, and notes what comes of it.

        Returns:
            Whether an outage is noticed.
        """
        if self._answered_at >= began:
            return False
        now = time.monotonic()
        is_outdated = now >= self._failed_at + self._forget_seconds
        before = None if is_outdated else self.failing_since
        since = wanted_at if before is None else before
        was_away = self.outage is not None and not is_outdated
        self.failing_since, self._failed_at = since, now
        if not was_away and not (is_decisive and (is_silent or before is not None)):
            return False
        self.outage = Outage(reason, since, is_silent, now + self._retry_seconds, now + self._forget_seconds)
        return not was_away
