"""Coordinators' answers that a member has lost, and with them perhaps partitions (KIP-848).

With ``group.protocol=consumer`` the coordinator puts an assignment into one answer to a heartbeat, and repeats it only
for a member that sends its whole state. Java's consumer does that after a timeout; librdkafka 2.16 does not. If the
assignment was in the answer that came too late, the partitions have an owner that does not know of them: nobody reads
them until the next rebalance (tests/test_lost_answers.py shows it). A new member is sent its assignment from scratch.

Rules of this module:

* Only a member that is in its group again is replaced, a while after its last timeout. While the coordinator does not
  answer, a new member could not join either.
* A member that was fenced, or has been replaced, has joined from scratch: nothing is missing.
* Replacements are rare (`REPLACE_SECONDS`), because each is a rebalance for the whole group.
"""

SETTLE_SECONDS = 6.0
"""How long a member waits after a timeout. A coordinator that fences it does so with its next answer, which comes
within the heartbeat interval (5 s by default)."""

REPLACE_SECONDS = 60.0
"""Least time between two replacements."""


class LostAnswers:
    """Decides when a member has to join again. Times are seconds on any clock that only goes forward.

    Args:
        matter: Whether the group's protocol is KIP-848; with the classic one no answer matters more than the next.
    """

    def __init__(self, *, matter: bool) -> None:
        self._matter = matter
        self._timeouts = 0
        self._due_at: float | None = None
        """When the member is replaced; None while it lacks nothing."""
        self._replace_at = 0.0

    def reported(self, timeouts: int, *, joined: bool, now: float) -> str | None:
        """Take a report of the client; returns why its member has to be replaced, or None.

        Args:
            timeouts: How many requests to the coordinator have timed out since the client was made.
            joined: Whether the member is in its group.
            now: The time.
        """
        if self._matter and timeouts != self._timeouts:
            # Fewer are those of another client: the last report of a client may follow its end.
            self._due_at = now + SETTLE_SECONDS if timeouts > self._timeouts else None
            self._timeouts = timeouts
        if self._due_at is None or not joined or now < max(self._due_at, self._replace_at):
            return None
        self._due_at = None
        self._replace_at = now + REPLACE_SECONDS
        return "an answer of the group's coordinator was lost, and perhaps an assignment with it"

    def fenced(self) -> None:
        """The member was fenced: it joins from scratch."""
        self._due_at = None

    def left(self) -> None:
        """The client is closed; the next one counts its timeouts from 0."""
        self._timeouts = 0
        self._due_at = None
