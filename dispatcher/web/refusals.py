"""Counts refusals by reason, for ``/metrics``.

*Thread*: Trio's.
"""

from collections.abc import Mapping

from quart import Quart, current_app

KEY = "dispatcher-refusals"
"""The key of an app's counts."""

BY_CODE: Mapping[int, str] = {
    400: "request",
    401: "token",
    403: "grant",
    421: "host",
    429: "limit",
    503: "unavailable",
    1013: "unavailable",
    4400: "request",
    4401: "token",
    4403: "grant",
    4419: "expired-token",
    4429: "limit",
}
"""Reasons by HTTP status and close code (docs/protocol.md, "Codes")."""

REASONS = ("origin", *dict.fromkeys(BY_CODE.values()))


class Refusals:
    """Counts since the start; each reason begins at 0, so that all of them are always reported."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(REASONS, 0)

    def note(self, reason: str) -> None:
        """Count one refusal."""
        self.counts[reason] += 1

    def note_code(self, code: int) -> None:
        """Count one refusal by its HTTP status or close code; other codes are not refusals."""
        if code in BY_CODE:
            self.note(BY_CODE[code])


def count_in(app: Quart, refusals: Refusals) -> None:
    """Let an app's handlers count in `refusals`."""
    app.extensions[KEY] = refusals


def note_refusal(code: int) -> None:
    """Count one refusal by its HTTP status or close code, in the app that is handling the request."""
    refusals: Refusals = current_app.extensions[KEY]
    refusals.note_code(code)
