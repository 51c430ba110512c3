"""The ``Date`` of responses (RFC 9110, section 6.6.1), formatted once per second and not once per response."""

import time
from email.utils import formatdate


class HttpDate:
    """The current date. *Thread*: Trio's."""

    def __init__(self) -> None:
        self._at = 0
        self._text = ""

    def text(self) -> str:
        """Return it as HTTP writes it."""
        now = int(time.time())
        if now != self._at:
            self._at, self._text = now, formatdate(now, usegmt=True)
        return self._text
